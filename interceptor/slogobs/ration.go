package slogobs

import (
	"sync"
	"time"

	"github.com/rego-go/rego/interceptor"
)

// cause is what a line is about.
type cause struct {
	target, method, message string
	reason                  interceptor.EndReason
	denial                  interceptor.DenialReason
}

const (
	// maxCauses bounds how many causes are told apart.
	maxCauses = 4096
	// idle is how long nothing was heard of what makes place for others.
	idle = time.Minute
)

// rations limit the rate of lines: one about each cause in an interval, while the others are
// counted. The zero value is ready.
type rations struct {
	mu     sync.Mutex // nothing foreign is called while it is held
	of     map[cause]*ration
	others ration    // of all causes that there is no place for
	swept  time.Time // when what was idle last made place
}

type ration struct {
	next    time.Time // when another line may be written
	leftOut int
}

// take asks for a line, and returns how many were left out since the last one.
func (r *rations) take(c cause, every time.Duration, now time.Time) (leftOut int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	of := r.findLocked(c, now)
	if now.Before(of.next) {
		of.leftOut++
		return 0, false
	}
	leftOut = of.leftOut
	of.next, of.leftOut = now.Add(every), 0
	return leftOut, true
}

func (r *rations) findLocked(c cause, now time.Time) *ration {
	if of := r.of[c]; of != nil {
		return of
	}
	if len(r.of) >= maxCauses {
		r.sweepLocked(now)
	}
	if len(r.of) >= maxCauses {
		return &r.others
	}
	if r.of == nil {
		r.of = make(map[cause]*ration)
	}
	of := new(ration)
	r.of[c] = of
	return of
}

// sweepLocked forgets causes that are idle. What was left out of them is told with the others.
func (r *rations) sweepLocked(now time.Time) {
	if now.Sub(r.swept) < time.Second { // it looks at all of them
		return
	}
	r.swept = now
	for c, of := range r.of {
		if now.Sub(of.next) > idle {
			r.others.leftOut += of.leftOut
			delete(r.of, c)
		}
	}
}
