package hedge_test

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/rego-go/rego/hedge"
	"github.com/rego-go/rego/internal/virtual"
)

const ms = time.Millisecond

// method plays the attempts of a method, one each millisecond of virtual time.
type method struct{ *hedge.Delay }

func (m method) succeed(n int, took time.Duration) {
	for range n {
		virtual.Sleep(ms)
		m.Record(time.Now().Add(-took), time.Now())
	}
}

func (m method) fail(n int, after time.Duration) {
	for range n {
		virtual.Sleep(ms)
		m.RecordAtLeast(time.Now().Add(-after), time.Now())
	}
}

func TestFixed(t *testing.T) {
	t.Parallel()
	for _, d := range []time.Duration{0, ms, time.Hour} {
		delay := hedge.Fixed(d)
		delay.Record(time.Now(), time.Now().Add(time.Minute))
		delay.RecordAtLeast(time.Now(), time.Now().Add(time.Minute))
		got, state := delay.After()
		assert.Equal(t, d, got)
		assert.Equal(t, hedge.Ready, state)
	}
}

// TestCold: nothing is said before there are enough samples.
func TestCold(t *testing.T) {
	t.Parallel()
	for q, needed := range map[float64]int{0.5: 100, 0.98: 100, 0.99: 100, 0.999: 1000} {
		synctest.Test(t, func(t *testing.T) {
			m := method{hedge.NewTracker().Quantile(q, hedge.Bounds{})}
			m.succeed(needed-1, 5*ms)
			virtual.Sleep(time.Second)
			got, state := m.After()
			assert.Equal(t, hedge.Cold, state, "%v", q)
			assert.Zero(t, got)
			m.succeed(1, 5*ms)
			_, state = m.After()
			assert.Equal(t, hedge.Ready, state, "%v", q)
		})
	}
}

// TestWarm: as soon as there are enough samples, and not a tenth of a second later.
func TestWarm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := method{hedge.NewTracker().Quantile(0.98, hedge.Bounds{})}
		m.succeed(hedge.MinSamples+4, 5*ms) // one each millisecond
		got, state := m.After()
		assert.Equal(t, hedge.Ready, state)
		assert.InDelta(t, 5*ms, got, float64(50*time.Microsecond))
	})
}

// TestDelayIsATrigger: it goes by the time since the last attempt began, and records
// originals.
func TestDelayIsATrigger(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		delay     *hedge.Delay
		sinceLast time.Duration
		want      time.Duration
		state     hedge.State
	}{
		{hedge.Fixed(0), 0, 0, hedge.Ready},
		{hedge.Fixed(10 * ms), 0, 10 * ms, hedge.Ready},
		{hedge.Fixed(10 * ms), 4 * ms, 6 * ms, hedge.Ready},
		{hedge.Fixed(10 * ms), 11 * ms, 0, hedge.Ready},
		{hedge.NewTracker().Quantile(0.5, hedge.Bounds{}), time.Hour, 0, hedge.Cold},
	} {
		var tr hedge.Trigger = r.delay
		wait, state := tr.Next(hedge.Call{Running: 2, Elapsed: time.Minute, SinceLast: r.sinceLast})
		assert.Equal(t, r.want, wait)
		assert.Equal(t, r.state, state)
	}
	synctest.Test(t, func(t *testing.T) {
		d := hedge.NewTracker().Quantile(0.5, hedge.Bounds{})
		ended := func(n int, a hedge.EndedAttempt, took time.Duration) {
			for range n {
				virtual.Sleep(ms)
				a.Start, a.End = time.Now().Add(-took), time.Now()
				d.Ended(a)
			}
		}
		after := func() float64 {
			virtual.Sleep(time.Second)
			ended(1, hedge.EndedAttempt{Number: 1, Complete: true}, 50*ms) // has it look
			wait, _ := d.Next(hedge.Call{})
			return float64(wait)
		}
		ended(200, hedge.EndedAttempt{Number: 1, Complete: true}, 50*ms)
		ended(1000, hedge.EndedAttempt{Number: 2, Complete: true}, ms)
		assert.InDelta(t, 50*ms, after(), float64(ms), "hedges are no samples")
		ended(1000, hedge.EndedAttempt{Number: 1}, ms)
		assert.InDelta(t, 50*ms, after(), float64(ms), "what did not take so long by itself is none")
		ended(1000, hedge.EndedAttempt{Number: 1}, 80*ms)
		assert.InDelta(t, 80*ms, after(), float64(ms), "but if it took longer")
	})
}

func TestBounds(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		limits hedge.Bounds
		took   time.Duration
		state  hedge.State
		least  time.Duration
		most   time.Duration
	}{
		{hedge.Bounds{}, 50 * ms, hedge.Ready, 50 * ms, 50500 * time.Microsecond},
		{hedge.Bounds{Min: 80 * ms}, 50 * ms, hedge.Ready, 80 * ms, 80 * ms},
		{hedge.Bounds{Max: 60 * ms}, 50 * ms, hedge.Ready, 50 * ms, 50500 * time.Microsecond},
		{hedge.Bounds{Max: 50 * ms}, 51 * ms, hedge.TooSlow, 0, 0},
		{hedge.Bounds{Min: 60 * ms, Max: 60 * ms}, ms, hedge.Ready, 60 * ms, 60 * ms},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := method{hedge.NewTracker().Quantile(0.9, r.limits)}
			m.succeed(300, r.took)
			got, state := m.After()
			assert.Equal(t, r.state, state, "%+v", r)
			assert.GreaterOrEqual(t, got, r.least, "%+v", r)
			assert.LessOrEqual(t, got, r.most, "%+v", r)
		})
	}
}

// TestLatencyJumps: the delay follows a jump as soon as the new samples are more
// than the quantile leaves above it.
func TestLatencyJumps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := method{hedge.NewTracker().Quantile(0.98, hedge.Bounds{})}
		m.succeed(10_000, 5*ms)
		m.succeed(400, 50*ms) // more than 2 % of what is remembered
		got, _ := m.After()
		assert.InDelta(t, 50*ms, got, float64(ms))
	})
}

// TestHedgingDoesNotHideTheTail: of attempts that were cancelled because a hedge
// won it is known that they were slow.
func TestHedgingDoesNotHideTheTail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := method{hedge.NewTracker().Quantile(0.95, hedge.Bounds{})}
		rng := rand.New(rand.NewPCG(1, 2))
		for range 20_000 {
			took := 5 * ms
			if rng.Float64() < 0.1 {
				took = 100 * ms
			}
			if after, state := m.After(); state == hedge.Ready && took > after {
				m.fail(1, after+5*ms) // the hedge took so long
			} else {
				m.succeed(1, took)
			}
		}
		got, _ := m.After()
		assert.Greater(t, got, 50*ms, "a tenth is slow, so the 0.95 quantile is among them")
	})
}

// TestFailuresAreNoSamples unless they took longer than the delay.
func TestFailuresAreNoSamples(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := method{hedge.NewTracker().Quantile(0.9, hedge.Bounds{})}
		m.fail(1000, time.Second)
		_, state := m.After()
		assert.Equal(t, hedge.Cold, state, "of failures alone nothing follows")
		m.succeed(1000, 50*ms)
		m.fail(5000, ms)
		got, _ := m.After()
		assert.InDelta(t, 50*ms, got, float64(ms), "fast failures do not make a fast method")
		m.fail(1000, 500*ms)
		got, _ = m.After()
		assert.InDelta(t, 500*ms, got, float64(5*ms), "timeouts make a slow one")
	})
}

// TestQuantilesShareATracker: what one has learned, the other knows.
func TestQuantilesShareATracker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr := hedge.NewTracker()
		first := method{tr.Quantile(0.9, hedge.Bounds{})}
		first.succeed(900, 5*ms)
		first.succeed(100, 50*ms)
		got, state := tr.Quantile(0.95, hedge.Bounds{}).After()
		assert.Equal(t, hedge.Ready, state)
		assert.InDelta(t, 50*ms, got, float64(ms))
		got, _ = first.After()
		assert.InDelta(t, 5*ms, got, float64(ms))
	})
}

// Not parallel: AllocsPerRun counts those of the whole process.
func TestRecordDoesNotAllocate(t *testing.T) {
	d := hedge.NewTracker().Quantile(0.98, hedge.Bounds{})
	start := time.Now()
	assert.Zero(t, testing.AllocsPerRun(10_000, func() {
		d.Record(start, start.Add(5*ms))
		d.After()
	}))
}
