package twin

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"github.com/rego-go/rego/interceptor"
)

// books are kept of all calls by their timelines: what the interceptor counts must be the
// same.
type books struct {
	mu     sync.Mutex
	counts map[any]int64
}

func (b *books) Start(ctx context.Context, _ *interceptor.Event) context.Context { return ctx }

func (b *books) Observe(_ context.Context, e *interceptor.Event) {
	if e.Kind == interceptor.CallEnd {
		b.enter(e.Timeline)
	}
}

func (b *books) Record(_ context.Context, s interceptor.Summary) { b.enter(s.Timeline()) }

func (b *books) enter(t *interceptor.Timeline) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.add(interceptor.CallCount{Code: t.Code, Reason: t.Reason}, 1)
	for _, a := range t.Attempts {
		b.add(interceptor.AttemptCount{Kind: a.Kind, WaitedOn: a.WaitedOn, Result: a.Result, Delivery: a.Delivery, Code: a.Code}, 1)
	}
	for _, d := range t.Denials {
		b.add(interceptor.DenialCount{Kind: d.Kind, Reason: d.Reason}, 1)
	}
}

func (b *books) add(what any, n int64) {
	if b.counts == nil {
		b.counts = make(map[any]int64)
	}
	b.counts[what] += n
}

// disagree says how the books differ from what an interceptor has counted, if they do. They
// cannot be compared once the connection is gone.
func (b *books) disagree(s interceptor.State) string {
	var counted books
	for _, t := range s.Targets {
		for _, m := range t.Methods {
			for _, c := range m.Calls {
				counted.add(interceptor.CallCount{Code: c.Code, Reason: c.Reason}, c.Count)
			}
			for _, a := range m.Attempts {
				n := a.Count
				a.Count = 0
				counted.add(a, n)
			}
			for _, d := range m.Denials {
				counted.add(interceptor.DenialCount{Kind: d.Kind, Reason: d.Reason}, d.Count)
			}
		}
	}
	if len(s.Targets) == 0 || maps.Equal(b.counts, counted.counts) {
		return ""
	}
	return fmt.Sprintf("timelines %v\ncounted   %v", b.counts, counted.counts)
}
