package rollout

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"slices"
)

// Counts says what the calls of some clients did. Impossible numbers are replaced by the
// nearest possible ones: negative ones by 0, more failed calls than calls by the number of
// calls, and more than 10^15 by 10^15.
type Counts struct {
	// Calls that ended.
	Calls int64
	// Failed is how many of them failed for their callers.
	Failed int64
	// Extra is how many retries and hedges they made.
	Extra int64
}

// Arms is what is compared: the canary, which is the clients that have the set, and the rest.
type Arms struct{ Canary, Rest Counts }

// possible returns the nearest counts that can be.
func (c Counts) possible() Counts {
	c.Calls = max(0, min(c.Calls, most))
	c.Failed = max(0, min(c.Failed, c.Calls))
	c.Extra = max(0, min(c.Extra, most))
	return c
}

// Plus returns the sum of both.
func (c Counts) Plus(d Counts) Counts {
	c, d = c.possible(), d.possible()
	return Counts{c.Calls + d.Calls, c.Failed + d.Failed, c.Extra + d.Extra}
}

// Plus returns the sums of both arms.
func (a Arms) Plus(b Arms) Arms { return Arms{a.Canary.Plus(b.Canary), a.Rest.Plus(b.Rest)} }

// perCall is how many extra attempts the calls of a client make at most, unless it says
// interceptor.WithMaxAttempts. They come together, since one call makes them; as a number of calls
// they would look like four times as much evidence as they are. So they are counted in
// quarters of a call.
const perCall = 4

// Evidence is the evidence against a set that is tried out, as e-values. Think of a bet
// against the set doing no harm: an e-value is how many times the money of the bet has
// multiplied. If the set does no harm, the e-value ever reaches 1/alpha with a probability
// of at most alpha. So it may be looked at after every increment, and evidence goes on from
// step to step.
//
// It is kept for all calls together, for harm that is the same everywhere. It is also kept
// for each method, for harm to a method with a small part of the calls. Half the money is
// bet on each.
//
// The zero value is no evidence. It must not be used by several goroutines at once, and not
// be copied by assignment: [Evidence.Floats] makes a copy.
type Evidence struct {
	all     wagers
	methods []methodWagers
}

// wagers are the bets on both kinds of harm.
type wagers struct{ failed, extra wager }

type methodWagers struct {
	key float64 // of the method's name
	wagers
}

// What part of the money is on what.
const (
	onFailed     = 0.85 // rather than on extra attempts
	onAll        = 0.65 // rather than on single methods
	maxMethods   = 200  // that have bets of their own, for the sake of storage: those that come first
	manyMethods  = 2    // among which the money is spread about evenly; later ones have less
	methodFloats = 1 + wagersFloats
	wagersFloats = 2 * (experts + 1)
)

// onMethod returns what part of the money on single methods is on the i-th, from 0. However many
// there are, it adds up to less than 1, so methods may come at any time.
func onMethod(i int) float64 {
	n := float64(i) + manyMethods
	return manyMethods / (n * (n + 1))
}

// Add takes in what the calls of one method did in both arms since the last look, and
// maxExtra of the plan. Calls are compared only with those of the same increment, so the
// share of the canary and the rate of failures may change from look to look. For this, both
// arms must be counted over the same time. An increment without calls in one arm says
// nothing.
//
// Looks at fixed times are best, so far apart that every client has reported its calls.
// Leave a method with few calls for a later look, until it has about twenty calls in both
// arms together, or a minute has passed. The time of a look must not depend on what one of
// the arms did. If you waited for a call of the canary, you would compare it with calls of
// another time, and find harm where there is none.
func (e *Evidence) Add(method string, increment Arms, maxExtra float64) {
	e.AddSkewed(method, increment, Skew{}, maxExtra)
}

// AddSkewed is Add for arms that already differed before the set was tried out. What the
// skew explains is no evidence.
func (e *Evidence) AddSkewed(method string, increment Arms, skew Skew, maxExtra float64) {
	failed, extra := increment.comparisons(maxExtra)
	if failed.canary == 0 || failed.rest == 0 {
		return
	}
	failed.odds, extra.odds = possibleOdds(skew.Failed), possibleOdds(skew.Extra)
	e.all.play(failed, extra)
	if m := e.of(method); m != nil {
		m.play(failed, extra)
	}
}

// possibleOdds returns the nearest odds ratio that can be, 1 for NaN.
func possibleOdds(odds float64) float64 {
	if odds > 1 {
		return math.Min(odds, 1e6)
	}
	return 1
}

// comparisons returns what is to be compared of both arms.
func (a Arms) comparisons(maxExtra float64) (failed, extra comparison) {
	canary, rest := a.Canary.possible(), a.Rest.possible()
	failed = comparison{
		canary: float64(canary.Calls), rest: float64(rest.Calls), odds: 1,
		hits: float64(canary.Failed), all: float64(canary.Failed + rest.Failed),
	}
	extra = failed
	extra.hits = parts(canary)
	extra.all = extra.hits + parts(rest)
	if maxExtra > 0 { // not NaN
		extra.ceiling = maxExtra / perCall
	}
	return failed, extra
}

// parts returns extra attempts in calls.
func parts(c Counts) float64 { return math.Min(float64(c.Extra)/perCall, float64(c.Calls)) }

func (w *wagers) play(failed, extra comparison) {
	w.failed.play(failed)
	w.extra.play(extra)
}

// of returns the bets on a method; nil if there are too many methods.
func (e *Evidence) of(method string) *wagers {
	key := keyOf(method)
	for i := range e.methods {
		if e.methods[i].key == key {
			return &e.methods[i].wagers
		}
	}
	if len(e.methods) == maxMethods {
		return nil
	}
	e.methods = append(e.methods, methodWagers{key: key})
	return &e.methods[len(e.methods)-1].wagers
}

// keyOf returns a number for a name, so that evidence can be stored as numbers.
func keyOf(method string) float64 {
	sum := sha256.Sum256([]byte(method))
	return hashed(sum[:])
}

// E returns the evidence that more calls fail with the set, and that it causes too many extra
// attempts. Together they are the e-value: the set is rejected when their sum reaches 1/alpha.
// Without evidence the sum is 1. Neither is above 10^300.
func (e *Evidence) E() (failed, extra float64) {
	f, x := e.logs()
	return exp(f), exp(x)
}

// logs returns the logarithms of what E returns.
func (e *Evidence) logs() (failed, extra float64) {
	failed = math.Log(onAll) + e.all.failed.log()
	extra = math.Log(onAll) + e.all.extra.log()
	idle := 1.0
	for i := range e.methods {
		part := math.Log((1 - onAll) * onMethod(i))
		idle -= onMethod(i)
		failed = addLogs(failed, part+e.methods[i].failed.log())
		extra = addLogs(extra, part+e.methods[i].extra.log())
	}
	unused := math.Log((1 - onAll) * idle)
	return addLogs(failed, unused) + math.Log(onFailed), addLogs(extra, unused) + math.Log(1-onFailed)
}

func exp(log float64) float64 { return math.Min(math.Exp(math.Min(log, 700)), 1e300) }

// form is the first number of stored evidence. It changes with what the others mean.
const form = 1

// Floats returns the evidence as numbers that can be stored, all of them finite: 21 for all calls
// and 21 for each method, of which there are at most 200.
func (e *Evidence) Floats() []float64 {
	fs := make([]float64, 0, (1+len(e.methods))*methodFloats)
	fs = e.all.append(append(fs, form))
	for i := range e.methods {
		fs = e.methods[i].append(append(fs, e.methods[i].key))
	}
	return fs
}

func (w *wagers) append(fs []float64) []float64 {
	for _, one := range []*wager{&w.failed, &w.extra} {
		fs = append(append(fs, one.grown[:]...), one.events)
	}
	return fs
}

// EvidenceFrom returns the evidence of the numbers from [Evidence.Floats]. No numbers are no
// evidence. Numbers that Floats cannot have made are an error.
func EvidenceFrom(fs []float64) (*Evidence, error) {
	e := new(Evidence)
	switch {
	case len(fs) == 0:
		return e, nil
	case len(fs)%methodFloats != 0 || len(fs) > (1+maxMethods)*methodFloats:
		return nil, fmt.Errorf("rollout: evidence cannot have %d numbers", len(fs))
	case fs[0] != form:
		return nil, fmt.Errorf("rollout: evidence of form %v, this release reads form %d", fs[0], form)
	}
	if err := e.all.set(fs[1:methodFloats]); err != nil {
		return nil, err
	}
	for fs = range slices.Chunk(fs[methodFloats:], methodFloats) {
		m := methodWagers{key: fs[0]}
		if !(m.key >= 0 && m.key < 1<<mantissa && m.key == math.Trunc(m.key)) {
			return nil, errors.New("rollout: evidence for a method that has no name")
		}
		if slices.ContainsFunc(e.methods, func(o methodWagers) bool { return o.key == m.key }) {
			return nil, errors.New("rollout: evidence has a method twice")
		}
		if err := m.set(fs[1:]); err != nil {
			return nil, err
		}
		e.methods = append(e.methods, m)
	}
	return e, nil
}

func (w *wagers) set(fs []float64) error {
	for _, f := range fs {
		if !(math.Abs(f) <= most) { // NaN too
			return fmt.Errorf("rollout: evidence cannot have the number %v", f)
		}
	}
	half := len(fs) / 2
	for i, one := range []*wager{&w.failed, &w.extra} {
		copy(one.grown[:], fs[i*half:])
		one.events = fs[i*half+experts]
		if one.events < 0 {
			return fmt.Errorf("rollout: evidence cannot have %v events", one.events)
		}
	}
	return nil
}
