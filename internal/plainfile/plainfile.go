// Package plainfile opens files that somebody else may have put there.
package plainfile

import (
	"fmt"
	"os"
	"syscall"
)

// Open opens a regular file for reading, and nothing else: it does not wait for who writes
// into a FIFO, and reads no device.
func Open(path string) (*os.File, os.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		_ = f.Close() // it was only read
		return nil, nil, err
	}
	return f, info, nil
}
