package spread

import (
	"sync/atomic"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/internal/backends"
)

// maxPicks is how often the child policy is asked for one attempt. With three backends a
// random policy then misses the others once in 2,000 times. Least request does once in 60, if
// the backend fails at once: it has nothing to do then, so that is where its requests go.
const maxPicks = 8

// maxSticky is after how many attempts in a row, for which the child policy has picked the same
// backend each time, it is taken for one that always does: a ring hash, or pick_first.
const maxSticky = 2

// picker is the picker of rego_spread.
type picker struct {
	child  balancer.Picker
	target string
	known  *atomic.Pointer[map[string]bool] // the backends that there are
	sticky atomic.Int32                     // attempts in a row, for which nothing but one backend was picked
}

// Pick implements [balancer.Picker].
func (p *picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	r, err := p.child.Pick(info)
	if err != nil {
		return r, err
	}
	backend := unwrap(&r)
	a := backends.From(info.Ctx, p.target)
	switch {
	case a == nil || backend == "" || a.Take(backend):
		return r, nil
	case p.allUsed(a):
		a.TakeAgain(backend)
		return r, nil
	}
	return p.pickAnother(info, a, r, backend), nil
}

// allUsed reports whether the call has used all backends that there are, and so there is no
// other to pick.
func (p *picker) allUsed(a *backends.Attempt) bool {
	known := *p.known.Load()
	return a.Used(known) >= len(known)
}

// pickAnother has the child policy pick again, until it picks what the call has not used.
// If it does not, or has none any more, the attempt gets what was picked first. What is
// rejected is returned only then: meanwhile a policy that counts requests knows of them,
// and so is led to another backend.
func (p *picker) pickAnother(info balancer.PickInfo, a *backends.Attempt, first balancer.PickResult, backend string) balancer.PickResult {
	var rejected [maxPicks]func(balancer.DoneInfo)
	isSticky, picks := true, 1
	for ; picks < maxPicks; picks++ {
		r, err := p.child.Pick(info)
		if err != nil {
			isSticky = false
			break
		}
		another := unwrap(&r)
		if another == "" || a.Take(another) {
			p.learn(false)
			rejected[0] = first.Done
			reject(rejected[:picks])
			return r
		}
		rejected[picks] = r.Done
		if another != backend {
			isSticky = false
		} else if isSticky && p.sticky.Load() >= maxSticky {
			picks++
			break
		}
	}
	p.learn(isSticky)
	reject(rejected[1:picks])
	a.TakeAgain(backend)
	return first
}

// learn notes whether nothing but one backend was picked for an attempt.
func (p *picker) learn(isSticky bool) {
	switch n := p.sticky.Load(); {
	case isSticky && n < maxSticky:
		p.sticky.Add(1)
	case !isSticky && n > 0:
		p.sticky.Store(0)
	}
}

// errRejected is how picks end that no request is sent for. Policies that judge backends
// take an end without an error for a success, and the backend has had none: it is one that
// the call has found failing or slow.
var errRejected = status.Error(codes.Unavailable, "rego_spread: not sent: the call has used this backend")

func reject(picks []func(balancer.DoneInfo)) {
	for _, done := range picks {
		if done != nil {
			done(balancer.DoneInfo{Err: errRejected})
		}
	}
}
