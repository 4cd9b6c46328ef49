package pace

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

const ms = time.Millisecond

// at is a time after the beginning of a window.
func at(d time.Duration) time.Time { return time.Unix(1000, 0).Add(d) }

// some are attempts that took the same time and ended at the same instant.
type some struct {
	n         int
	ended     time.Duration
	took      time.Duration
	fastAfter time.Duration // what Fast says then
}

func TestFast(t *testing.T) {
	t.Parallel()
	for name, attempts := range map[string][]some{
		"nothing is known":                {{0, 0, 0, 0}},
		"too few are":                     {{19, 0, 10 * ms, 0}, {1, 0, 10 * ms, 8192 * time.Microsecond}},
		"rounded down":                    {{20, 0, 1024 * time.Microsecond, 1024 * time.Microsecond}},
		"not less than that":              {{20, 0, 1023 * time.Microsecond, 512 * time.Microsecond}},
		"the fast ones count":             {{18, 0, time.Second, 0}, {2, 0, 10 * ms, 8192 * time.Microsecond}},
		"if they are a tenth":             {{18, 0, time.Second, 0}, {1, 0, 10 * ms, 0}, {1, 0, time.Second, 524288 * time.Microsecond}},
		"a microsecond at least":          {{20, 0, time.Microsecond - 1, time.Microsecond}},
		"the clock went back meanwhile":   {{20, 0, -time.Second, time.Microsecond}},
		"a microsecond":                   {{20, 0, time.Microsecond, time.Microsecond}},
		"an hour":                         {{20, 0, time.Hour, time.Microsecond << 30}},
		"the window before counts":        {{20, 0, ms, 512 * time.Microsecond}, {0, 3999 * ms, 0, 512 * time.Microsecond}},
		"not the one before that":         {{20, 0, ms, 512 * time.Microsecond}, {0, 4000 * ms, 0, 0}},
		"both windows count":              {{10, 0, ms, 0}, {10, 2000 * ms, ms, 512 * time.Microsecond}},
		"a slow minute is forgotten":      {{50, 0, time.Second, 524288 * time.Microsecond}, {20, 4000 * ms, ms, 512 * time.Microsecond}},
		"a pause is no slow minute":       {{50, 0, time.Second, 524288 * time.Microsecond}, {19, time.Hour, ms, 0}},
		"a method that has become slower": {{20, 0, ms, 512 * time.Microsecond}, {50, 2000 * ms, time.Second, 512 * time.Microsecond}, {0, 4000 * ms, 0, 524288 * time.Microsecond}},
	} {
		var p Pace
		for i, s := range attempts {
			for range s.n {
				p.Add(at(s.ended), s.took)
			}
			assert.Equal(t, s.fastAfter, p.Fast(at(s.ended)), "%s: %d", name, i)
		}
	}
}

// TestClockGoesBack: what is told of a later time than now is not used.
func TestClockGoesBack(t *testing.T) {
	t.Parallel()
	var p Pace
	for range 20 {
		p.Add(at(2*windowLength), ms)
	}
	assert.Zero(t, p.Fast(at(0)))
	assert.NotZero(t, p.Fast(at(2*windowLength)))
}

// TestBeside: attempts end on many goroutines, in windows that end meanwhile.
func TestBeside(t *testing.T) {
	t.Parallel()
	var p Pace
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 1000 {
				p.Add(at(time.Duration(i)*10*ms), 10*ms)
				assert.Contains(t, []time.Duration{0, 8192 * time.Microsecond}, p.Fast(at(time.Duration(i)*10*ms)))
			}
		})
	}
	wg.Wait()
	for range 20 {
		p.Add(at(time.Hour), ms)
	}
	assert.Equal(t, 512*time.Microsecond, p.Fast(at(time.Hour)), "nothing else is left")
}
