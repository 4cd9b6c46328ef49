package openloop

import (
	"syscall"
	"time"
)

// pause asks the system, since Go's own timers wait in whole milliseconds when
// there is nothing else to do. A signal may end it early.
func pause(d time.Duration) {
	if d <= 0 {
		return
	}
	ts := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&ts, nil)
}
