package interceptor

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/rego-go/rego/policy"
)

// ownPolicy is a policy of [WithPolicy], made ready for calls.
type ownPolicy struct {
	given policy.Policy
	DualOption
}

// recently are the policies that were made ready last, the newest last: a call may make its policy
// anew each time, and that is mostly the same.
var recently atomic.Pointer[[]*ownPolicy]

// maxRecent is how many are kept. Looking through them costs less than making one ready.
const maxRecent = 16

// readyPolicy returns the option of a policy.
func readyPolicy(p policy.Policy) DualOption {
	have := recently.Load()
	if have != nil {
		for _, o := range *have {
			if o.given.Equal(p) {
				return o.DualOption
			}
		}
	}
	p.Retry.Codes = slices.Clone(p.Retry.Codes)
	own := &ownPolicy{given: p, DualOption: makeReady(p)}
	list := []*ownPolicy{own}
	if have != nil {
		list = append(slices.Clone((*have)[max(len(*have)-maxRecent+1, 0):]), own)
	}
	recently.Store(&list) // of two at a time one is kept
	return own.DualOption
}

func makeReady(p policy.Policy) DualOption {
	rule := policy.Rule{Methods: []string{"*"}, Policy: p}
	table, err := (policy.Set{Rules: []policy.Rule{rule}}).Compile()
	if err != nil {
		err = p.Validate() // the same faults, without the rule's path
	}
	return DualOption{
		CallOption: CallOption{call: func(c *call) error {
			if err != nil {
				return fmt.Errorf("policy: %w", err)
			}
			c.settings.policy = table.Lookup("")
			return nil
		}},
		all: func(c *config) { c.rules = append(c.rules, rule) },
	}
}

// ownKey is what the plan of a call that brings its own policy depends on, under one table.
type ownKey struct {
	method *method
	policy *policy.Policy
}

// ownPlans are the plans of calls that bring their own policies. All calls read them.
type ownPlans struct {
	table    uint64 // its ID
	sync.Map        // of *plan, by ownKey
	many     int
}

// maxOwn is how many there may be. Then they are made anew.
const maxOwn = 1024

// ownPlan returns the plan of a method for a call that brings its own policy.
func (t *target) ownPlan(p *policy.Policy, method string) (*plan, error) {
	k := ownKey{t.method(method), p}
	if own := t.own.Load(); own.table == t.interceptor.store.Current().ID() {
		if pl, ok := own.Load(k); ok {
			return pl.(*plan), nil
		}
	}
	if faults := t.interceptor.unresolved("", p, noTable); len(faults) > 0 {
		return nil, fmt.Errorf("policy: %w", faults)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	table := t.tableLocked()
	own := t.own.Load()
	if pl, ok := own.Load(k); ok { // somebody was faster
		return pl.(*plan), nil
	}
	if own.many == maxOwn {
		own = &ownPlans{table: table.ID()}
		t.own.Store(own)
	}
	pl := t.newPlanLocked(p, "", table, k.method)
	pl.named = true
	if p.Budget != "" {
		t.brought[p.Budget] = pl.budget
	}
	if pl.hedging != nil && pl.hedging.own != nil {
		k.method.brought = pl.hedging.own
	}
	own.Store(k, pl)
	own.many++
	return pl, nil
}
