package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/file"
)

// serviceConfig is the format that package file does not know.
const serviceConfig = "serviceconfig"

var formats = []file.Format{file.YAML, file.JSON, file.Binary}

// input is how the files are to be read.
type input struct {
	streams *streams
	from    string
}

// flags adds the flags that all commands have which read a file of policies.
func (in *input) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&in.from, "from", "", "`FORMAT` of the file: yaml, json, binary, serviceconfig (default: by its extension)")
	completes(cmd, "from", formatWords()...)
}

func formatWords() []string {
	var words []string
	for _, f := range formats {
		words = append(words, f.String())
	}
	return append(words, serviceConfig)
}

// completes has the shell complete the value of a flag with one of words.
func completes(cmd *cobra.Command, flag string, words ...string) {
	// It fails for a flag that there is not, which a test would see.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// document is a file of policies that has been read.
type document struct {
	path string
	data []byte
	// format is zero for a service config.
	format file.Format
	set    policy.Set
	// left is what the import of a service config left out.
	left []policy.Fault
}

// read reads a file. If the error is a [policy.Faults], the document is without a set.
func (in *input) read(path string) (d document, err error) {
	d.path = path
	if in.from != serviceConfig {
		if d.format, err = formatOf(in.from, path); err != nil {
			return d, err
		}
	}
	if d.data, err = in.open(path, policy.MaxSize+1); err != nil {
		return d, err
	}
	if d.format == 0 {
		d.set, d.left, err = policy.FromServiceConfig(d.data)
	} else {
		d.set, err = file.Parse(d.data, d.format)
	}
	return d, err
}

// open reads a file, and no more of it than so many bytes.
func (in *input) open(path string, most int64) ([]byte, error) {
	if path == "-" {
		return readAll(in.streams.in, most)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it is only read
	return readAll(f, most)
}

func formatOf(name, path string) (file.Format, error) {
	for _, f := range formats {
		if name == f.String() {
			return f, nil
		}
	}
	switch {
	case name != "":
		return 0, fmt.Errorf("format %q is none of %s", name, strings.Join(formatWords(), ", "))
	case path == "-":
		return file.YAML, nil
	}
	f, err := file.FormatOf(path)
	if err != nil {
		return 0, fmt.Errorf("%w: --from says the format", err)
	}
	return f, nil
}

// faultsOf returns the faults that err is, and err itself if it is something else.
func faultsOf(err error) (policy.Faults, error) {
	if faults, ok := errors.AsType[policy.Faults](err); ok {
		return faults, nil
	}
	return nil, err
}

// tell prints what is wrong with a file, a line each, and returns the error to end with.
func (s *streams) tell(path string, err error) error {
	faults, other := faultsOf(err)
	if other != nil {
		return other
	}
	s.list(path, "", faults)
	return errFaults
}

// list prints faults as FILE:LINE:COLUMN, which editors know.
func (s *streams) list(path, kind string, faults []policy.Fault) {
	for _, f := range faults {
		s.err.line(findingOf(path, "", kind, f).String())
	}
}

// once refuses to read the standard input twice.
func once(paths ...string) error {
	first := slices.Index(paths, "-")
	if first >= 0 && slices.Contains(paths[first+1:], "-") {
		return errors.New("the standard input can be read once, and - stands for it twice")
	}
	return nil
}
