package main

import (
	"container/heap"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/policy"
)

// slotLength is how finely time is looked at.
const slotLength = time.Second / 4

// A slot is what became of the calls that started in it.
type slot struct{ calls, attempts, succeeded int }

func (s slot) share() float64           { return float64(s.succeeded) / float64(s.calls) }
func (s slot) attemptsPerCall() float64 { return float64(s.attempts) / float64(s.calls) }
func (s slot) goodput() float64         { return float64(s.succeeded) / slotLength.Seconds() }

// A simulation is one run of a scenario. One event at a time changes it.
type simulation struct {
	scenario
	rng     *rand.Rand
	budgets []budget.Budget // of each client

	now     time.Duration
	slept   time.Duration // how far the clock of the budgets has come
	events  events
	queue   []*attempt
	serving bool
	slots   []slot
}

// A call is made of attempts, one after the other.
type call struct {
	budget   budget.Budget
	slot     *slot
	attempts int
}

type attempt struct {
	*call
	lease budget.Lease
	ended bool // answered, or given up by the client
}

// simulate runs a scenario in virtual time: it is to be called in a bubble of
// testing/synctest, whose clock the budgets read.
func simulate(sc scenario, newBudget func() budget.Budget, seed uint64) []slot {
	s := &simulation{
		scenario: sc,
		rng:      rand.New(rand.NewPCG(seed, 0)),
		budgets:  make([]budget.Budget, sc.clients),
		slots:    make([]slot, int(sc.length/slotLength)),
	}
	for i := range s.budgets {
		s.budgets[i] = newBudget()
	}
	s.after(0, s.arrive)
	for len(s.events) > 0 {
		e := heap.Pop(&s.events).(event)
		s.now = e.at
		// A millisecond at a time: more often would cost time, and tell budgets nothing.
		if d := s.now - s.slept; d >= time.Millisecond {
			time.Sleep(d)
			s.slept = s.now
		}
		e.do()
	}
	return s.slots
}

func (s *simulation) bad() bool { return s.now >= s.badFrom && s.now < s.badTo }

// arrive starts a call, at a random time after the one before.
func (s *simulation) arrive() {
	next := time.Duration(s.rng.ExpFloat64() / s.perSecond * float64(time.Second))
	if s.now+next < s.length {
		s.after(next, s.arrive)
	}
	c := &call{budget: s.budgets[s.rng.IntN(s.clients)], slot: &s.slots[int(s.now/slotLength)]}
	c.slot.calls++
	lease, _ := budget.Take(c.budget, budget.Original)
	s.send(&attempt{call: c, lease: lease})
}

func (s *simulation) send(a *attempt) {
	a.attempts++
	a.slot.attempts++
	s.after(attemptTimeout, func() {
		if !a.ended {
			s.fail(a, timedOut)
		}
	})
	s.queue = append(s.queue, a)
	if !s.serving {
		s.serve()
	}
}

// serve works for whoever has waited longest.
func (s *simulation) serve() {
	for s.drops && len(s.queue) > 0 && s.queue[0].ended {
		s.queue = s.queue[1:]
	}
	s.serving = len(s.queue) > 0
	if !s.serving {
		return
	}
	a := s.queue[0]
	s.queue = s.queue[1:]
	capacity := s.perSecond / s.load
	if s.bad() {
		capacity *= s.cut
	}
	s.after(time.Duration(float64(time.Second)/capacity), func() {
		s.answer(a)
		s.serve()
	})
}

func (s *simulation) answer(a *attempt) {
	switch {
	case a.ended:
	case s.bad() && s.rng.Float64() < s.failing:
		s.fail(a, unavailable)
	default:
		a.ended = true
		a.lease.Release(budget.Success)
		a.slot.succeeded++
	}
}

// How attempts fail that do, as classifiers see it.
var (
	unavailable = classify.EndedAttempt{
		Idempotency: classify.Idempotent, Delivery: classify.DeliveryAnswered,
		Status: status.New(codes.Unavailable, "overloaded"),
	}
	timedOut = classify.EndedAttempt{
		Idempotency: classify.Idempotent, TimedOut: true,
		Status: status.New(codes.DeadlineExceeded, "timed out"),
	}
)

// fail ends an attempt, and makes another one if rego would. Of an attempt that has timed
// out, the budget is asked for one in its place before it hears that it is over.
func (s *simulation) fail(a *attempt, how classify.EndedAttempt) {
	a.ended = true
	how.Err = how.Status.Err()
	retries := classify.GRPC.Classify(&how).Class == classify.Retryable && a.attempts < s.maxAttempts
	kind := budget.Retry
	if how.TimedOut {
		kind = budget.Replacement
	} else {
		a.lease.Release(budget.Failure)
	}
	var lease budget.Lease
	if retries {
		lease, retries = budget.Take(a.budget, kind)
	}
	a.lease.Release(budget.Failure)
	if retries {
		s.after(policy.Backoff{}.Delay(a.attempts-1, s.rng), func() { s.send(&attempt{call: a.call, lease: lease}) })
	}
}

func (s *simulation) after(d time.Duration, do func()) {
	heap.Push(&s.events, event{s.now + d, do})
}

// An event is what happens at a time.
type event struct {
	at time.Duration
	do func()
}

// events is a heap: the first is due next.
type events []event

func (e *events) Len() int           { return len(*e) }
func (e *events) Less(i, j int) bool { return (*e)[i].at < (*e)[j].at }
func (e *events) Swap(i, j int)      { (*e)[i], (*e)[j] = (*e)[j], (*e)[i] }
func (e *events) Push(x any)         { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	(*e)[last] = event{}
	*e = (*e)[:last]
	return x
}
