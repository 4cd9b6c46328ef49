//go:build unix

package plainfile

import (
	"fmt"
	"os"
	"syscall"
)

// CheckOwn returns an error if others than this process's user and root may have written the
// file: it belongs to somebody else, or its mode lets a group or everybody write.
func CheckOwn(info os.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("others may write it: its mode is %#o", mode)
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if ok && s.Uid != 0 && int(s.Uid) != os.Geteuid() {
		return fmt.Errorf("it belongs to user %d", s.Uid)
	}
	return nil
}
