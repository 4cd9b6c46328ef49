package main

import (
	"cmp"
	"fmt"
	"runtime/debug"
)

// version says what was built, from what the build has noted.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return versionOf(info)
}

func versionOf(info *debug.BuildInfo) string {
	var commit, changed string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = ", commit " + s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = " with changes"
		}
	}
	return fmt.Sprintf("%s (%s%s%s)", cmp.Or(info.Main.Version, "(devel)"), info.GoVersion, commit, changed)
}
