package debugpage

import (
	"math"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
)

// totals are the counters of a method that the history follows.
type totals struct {
	calls, failed, attempts, retries, hedges, denied int64

	won           int64 // by retries and hedges
	ends, denials [reasons]int64
	fails         [interceptor.OtherCode + 1]int64 // attempts that failed, by code
}

func totalsOf(m *interceptor.MethodState) (t totals) {
	for _, c := range m.Calls {
		t.calls += c.Count
		if c.Code != codes.OK {
			t.failed += c.Count
			t.ends[min(int(c.Reason), reasons-1)] += c.Count
		}
	}
	for _, a := range m.Attempts {
		t.attempts += a.Count
		switch a.Kind {
		case budget.Retry:
			t.retries += a.Count
		case budget.Hedge:
			t.hedges += a.Count
		default:
		}
		switch {
		case a.Result == interceptor.AttemptFailed:
			t.fails[min(a.Code, interceptor.OtherCode)] += a.Count
		case a.Result == interceptor.AttemptWon && a.Kind != budget.Original:
			t.won += a.Count
		}
	}
	for _, d := range m.Denials {
		t.denied += d.Count
		t.denials[min(int(d.Reason), reasons-1)] += d.Count
	}
	return t
}

// add adds o, so many times: once, or less than nothing.
func (t *totals) add(o *totals, times int64) {
	t.calls += times * o.calls
	t.failed += times * o.failed
	t.attempts += times * o.attempts
	t.retries += times * o.retries
	t.hedges += times * o.hedges
	t.denied += times * o.denied
	t.won += times * o.won
	for i := range reasons {
		t.ends[i] += times * o.ends[i]
		t.denials[i] += times * o.denials[i]
	}
	for i := range t.fails {
		t.fails[i] += times * o.fails[i]
	}
}

// need says how much a method needs a place in the history: one that is in trouble needs it more
// than one that is called often.
func (t *totals) need() int64 {
	return t.calls + troubleWeighs*(t.failed+t.retries+t.hedges+t.denied)
}

const troubleWeighs = 100

// failsAs returns the code that attempts fail most as, OK if none does.
func (t *totals) failsAs() codes.Code {
	most := codes.OK
	for code, n := range t.fails {
		if n > t.fails[most] {
			most = codes.Code(code)
		}
	}
	return most
}

// point is what happened between two samples.
type point struct{ calls, failed, retries, hedges, denied uint32 }

func (t *totals) point() point {
	return point{small(t.calls), small(t.failed), small(t.retries), small(t.hedges), small(t.denied)}
}

func (p *point) totals() totals {
	return totals{calls: int64(p.calls), failed: int64(p.failed), retries: int64(p.retries), hedges: int64(p.hedges), denied: int64(p.denied)}
}

// detail is what is kept of the last minute beside it. Of the attempts that failed it has those of
// the most frequent code.
type detail struct {
	attempts, won uint32
	fails         uint32
	failsAs       uint8
	ends, denials [reasons]uint32
}

// series is the history of a method.
type series struct {
	since      time.Time // a target that comes back begins at zero
	from       int       // the first sample that has a point
	registered bool
	last       totals
	points     [samples]point
	details    [recently]detail
	busy       int // the sample that last had calls
	seen       int // the sample that last had the method
}

// take adds what has become of a method since the last sample.
func (s *series) take(sample int, m *interceptor.MethodState, now *totals) {
	if !s.since.Equal(m.Since) {
		s.since, s.last = m.Since, totals{}
	}
	d := *now
	d.add(&s.last, -1)
	s.last, s.seen, s.registered = *now, sample, m.Registered
	if d.calls > 0 || d.attempts > 0 {
		s.busy = sample
	}
	s.points[sample%samples] = d.point()
	of := &s.details[sample%recently]
	*of = detail{attempts: small(d.attempts), won: small(d.won), failsAs: uint8(d.failsAs())}
	of.fails = small(d.fails[of.failsAs])
	for i := range reasons {
		of.ends[i], of.denials[i] = small(d.ends[i]), small(d.denials[i])
	}
}

// addTo adds what happened before a sample.
func (s *series) addTo(sum *totals, sample int) {
	p, d := s.points[sample%samples].totals(), &s.details[sample%recently]
	p.attempts, p.won = int64(d.attempts), int64(d.won)
	p.fails[d.failsAs] = int64(d.fails)
	for r := range reasons {
		p.ends[r], p.denials[r] = int64(d.ends[r]), int64(d.denials[r])
	}
	sum.add(&p, 1)
}

// claim returns what the method has to say for its place at a sample.
func (s *series) claim(k key, sample int) claim[key] {
	c := claim[key]{key: k, class: classOf(s.registered)}
	if sample-s.busy >= samples {
		c.class = idle
	}
	for i := max(sample-recently+1, s.from, 0); i <= sample; i++ {
		p := s.points[i%samples].totals()
		c.need = max(c.need, p.need())
	}
	return c
}

func classOf(registered bool) int {
	if registered {
		return own
	}
	return madeUp
}

// small fits a count into a point. One below zero is of counters that began anew.
func small(n int64) uint32 { return uint32(min(max(n, 0), math.MaxUint32)) }
