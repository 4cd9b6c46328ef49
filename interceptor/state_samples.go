package interceptor

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
)

// SampleKind says why a call is worth a look.
type SampleKind uint8

const (
	// SampleFailed: the call failed.
	SampleFailed SampleKind = iota
	// SampleSlow: the call took long. If one attempt was enough, and nobody watched the
	// call, only one call in 64 is timed.
	SampleSlow
	// SampleAttempts: the call made many attempts.
	SampleAttempts
	// SampleDenied: a retry or a hedge was denied.
	SampleDenied
	// SampleHedged: the call was hedged.
	SampleHedged

	sampleKinds
)

var sampleNames = [...]string{"failed", "slow", "attempts", "denied", "hedged"}

func (k SampleKind) String() string { return name(sampleNames[:], int(k)) }

// MarshalText returns the words of String.
func (k SampleKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Sample is a call that is worth a look.
type Sample struct {
	Kind     SampleKind
	Timeline *Timeline
}

const (
	samplesOfKind = 4    // are kept of a method
	maxSampled    = 64   // attempts of a call that is kept
	maxSamples    = 1024 // of an interceptor

	samplePace = time.Second      // between two of one method and kind
	sampleAge  = 10 * time.Minute // after which a newer one takes the place of a slower one
)

// sampler decides for one method which calls are worth a timeline: what it costs when they
// are not is a few comparisons.
type sampler [sampleKinds]struct {
	next  atomic.Int64 // when another one may be kept, in nanoseconds since the interceptor was made
	least atomic.Int64 // score among those that are kept
	until atomic.Int64 // when that counts no more
}

// samples are the calls worth seeing of an interceptor, a few of each method and kind.
type samples struct {
	mu   sync.Mutex
	kept []keptSample
}

type keptSample struct {
	*Timeline
	target *target
	method *method
	at     time.Time
	age    int64 // of the interceptor then
	kind   SampleKind
	score  int64 // who has the least makes place
}

// offerSample keeps a call that has ended, if it is worth seeing and it is time for another.
func (c *call) offerSample(code codes.Code, reason EndReason, now time.Time) {
	var scores [sampleKinds]int64
	nanos := c.interceptor.age(now)
	if code != codes.OK {
		scores[SampleFailed] = nanos
	}
	if len(c.denied()) > 0 {
		scores[SampleDenied] = nanos
	}
	if c.hedgesMade > 0 {
		scores[SampleHedged] = nanos
	}
	scores[SampleAttempts] = int64(c.retriesMade + c.hedgesMade)
	if start := c.startedAt(); !start.IsZero() {
		scores[SampleSlow] = int64(now.Sub(start))
	}
	kinds := c.plan.method.sampler.wanted(&scores, nanos)
	if kinds == 0 {
		return
	}
	var t *Timeline
	if c.watching == nil {
		t = c.timelineAfterwards(code, reason, now)
	} else {
		t = c.timeline.clone() // the caller may change its own
	}
	if len(t.Attempts) > maxSampled { // a stream that was resumed for long
		return
	}
	c.interceptor.samples.keep(keptSample{Timeline: t, target: c.target(c.conn), method: c.plan.method, at: now, age: nanos}, kinds, &scores)
}

// age returns how old the interceptor is, in nanoseconds and more than zero. It is no time of the
// wall clock, which may be set back: then no call would be worth seeing for as long.
func (it *Interceptor) age(now time.Time) int64 { return int64(now.Sub(it.made)) + 1 }

// wanted returns the kinds, as bits, that a call is wanted for.
func (s *sampler) wanted(scores *[sampleKinds]int64, now int64) (kinds uint8) {
	for k, score := range scores {
		of := &s[k]
		if score == 0 || score <= of.least.Load() && now < of.until.Load() {
			continue
		}
		if next := of.next.Load(); now >= next && of.next.CompareAndSwap(next, now+int64(samplePace)) {
			kinds |= 1 << k
		}
	}
	return kinds
}

// keep keeps a timeline. Of its method and kind it takes the place of one that is old, or
// least worth seeing; if there are too many of all methods, of the oldest.
func (s *samples) keep(n keptSample, kinds uint8, scores *[sampleKinds]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range sampleKinds {
		if kinds&(1<<k) == 0 {
			continue
		}
		n.kind, n.score = k, scores[k]
		if i := s.placeLocked(&n); i < len(s.kept) {
			s.kept[i] = n
		} else {
			s.kept = append(s.kept, n)
		}
		if least, alike := s.leastLocked(&n); alike == samplesOfKind {
			of := &n.method.sampler[k]
			of.least.Store(s.kept[least].score)
			of.until.Store(s.kept[least].age + int64(sampleAge))
		}
	}
}

func (s *samples) placeLocked(n *keptSample) int {
	least, alike := s.leastLocked(n)
	switch {
	case alike == samplesOfKind:
		return least
	case len(s.kept) < maxSamples:
		return len(s.kept)
	}
	oldest := 0
	for i := range s.kept {
		if s.kept[i].at.Before(s.kept[oldest].at) {
			oldest = i
		}
	}
	gone := &s.kept[oldest]
	gone.method.sampler[gone.kind].until.Store(0) // its method has room again
	return oldest
}

// leastLocked returns which of the samples of a method and kind is the least worth seeing, and
// how many there are.
func (s *samples) leastLocked(n *keptSample) (least, alike int) {
	for i := range s.kept {
		have := &s.kept[i]
		if have.method != n.method || have.kind != n.kind {
			continue
		}
		if alike++; alike == 1 || have.rank(n.at) < s.kept[least].rank(n.at) {
			least = i
		}
	}
	return least, alike
}

// rank is the score, or what is below all of them for a sample that is old.
func (k *keptSample) rank(now time.Time) int64 {
	if now.Sub(k.at) > sampleAge {
		return -1
	}
	return k.score
}

// forget gives up the samples of a target that is gone.
func (s *samples) forget(t *target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = slices.DeleteFunc(s.kept, func(k keptSample) bool { return k.target == t })
}

// of returns the samples of a method, the newest of each kind first.
func (s *samples) of(m *method) (found []Sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var kept []keptSample
	for _, k := range s.kept {
		if k.method == m {
			kept = append(kept, k)
		}
	}
	slices.SortStableFunc(kept, func(a, b keptSample) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), b.at.Compare(a.at))
	})
	for _, k := range kept {
		found = append(found, Sample{k.kind, k.Timeline})
	}
	return found
}
