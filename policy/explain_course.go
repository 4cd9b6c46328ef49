package policy

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
)

// OverloadBackoff is the first wait after RESOURCE_EXHAUSTED, which says that the server
// already has too much to do.
const OverloadBackoff = time.Second

func (p Policy) retries() bool {
	return !p.Retry.Off && p.Retry.MaxAttempts > 1 && p.Classifier != ClassifierNone
}

// retriesCode reports whether an attempt that the server has answered with c may be
// followed by another one, though the server does not ask for that.
func (p Policy) retriesCode(c codes.Code) bool {
	switch {
	case !p.retries():
		return false
	case p.Classifier != "": // which only the client knows
		return true
	case len(p.Retry.Codes) == 0:
		return c == codes.Unavailable
	}
	return slices.Contains(p.Retry.Codes, c)
}

// bounds are the shortest and the longest wait before an attempt, exactly.
type bounds struct{ least, most time.Duration }

// course is the attempts that follow one another, by the wait before each. The first has none.
type course []bounds

// courses are what calls come to with a server that fails, and with one that is overloaded
// and says so. Nil is one that is not retried.
type courses struct{ usual, overloaded course }

func (p Policy) courses() courses {
	var c courses
	if p.retriesCode(codes.ResourceExhausted) {
		c.overloaded = p.course(p.Retry.Backoff.From(OverloadBackoff))
	}
	switch {
	case !p.retries():
		c.usual = course{{}}
	case !slices.Equal(p.Retry.Codes, []codes.Code{codes.ResourceExhausted}):
		c.usual = p.course(p.Retry.Backoff)
	}
	return c
}

// course returns as many attempts as can begin within the timeout: each of the others fails
// at once then, and waits as short as can be.
func (p Policy) course(b Backoff) course {
	c, begins := course{{}}, time.Duration(0)
	for n := range p.Retry.MaxAttempts - 1 {
		w := b.bounds(n)
		begins += w.least
		if p.Timeout > 0 && begins >= p.Timeout {
			break
		}
		c = append(c, w)
	}
	return c
}

// steps are those that usually happen: of an overloaded server if nothing else is retried.
func (c courses) steps() []Step {
	if c.usual == nil {
		return c.overloaded.steps()
	}
	return c.usual.steps()
}

// differ reports whether an overloaded server is retried otherwise than another one.
func (c courses) differ() bool {
	return c.usual != nil && c.overloaded != nil && !slices.Equal(c.usual, c.overloaded)
}

func (c course) steps() []Step {
	steps := []Step{{1, "at once"}}
	for i, w := range c[1:] {
		least, most := w.rounded()
		text := fmt.Sprintf("%v to %v", least, most)
		switch {
		case most == 0:
			text = "at once"
		case least == most:
			text = most.String()
		}
		steps = append(steps, Step{i + 2, fmt.Sprintf("%s after number %d has failed", text, i+1)})
	}
	return steps
}

// longest is how long a course takes whose attempts take so long each.
func (c course) longest(attempt time.Duration) time.Duration {
	sum := time.Duration(len(c)) * attempt
	for _, w := range c {
		sum += w.most
	}
	return sum
}

// Bounds returns the shortest and the longest wait before retry n, where n is 0 for the
// first, in whole microseconds. No wait is shorter or longer.
func (b Backoff) Bounds(n int) (least, most time.Duration) { return b.bounds(n).rounded() }

func (b Backoff) bounds(n int) bounds {
	low, high := 1.0, 1.0
	switch b.Jitter {
	case JitterNone:
	case JitterFull:
		low = 0
	case JitterEqual:
		low = 0.5
	case JitterProportional:
		low, high = 0.8, 1.2
	}
	b.Jitter = JitterNone
	d := float64(b.Delay(n, nil))
	return bounds{time.Duration(d * low), time.Duration(d * high)}
}

func (w bounds) rounded() (least, most time.Duration) {
	return w.least.Truncate(time.Microsecond), roundedUp(w.most)
}

// roundedUp returns d in whole microseconds, and not less than it is.
func roundedUp(d time.Duration) time.Duration {
	return (d + time.Microsecond - 1).Truncate(time.Microsecond)
}
