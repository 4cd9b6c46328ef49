package interceptor

import (
	"cmp"
	"maps"
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/internal/tally"
	"github.com/rego-go/rego/policy"
)

// MethodCounts returns what [Interceptor.State] counts for each method, over all targets,
// for reports to a control plane. Methods whose names may be made up are counted together,
// under the empty name: see MethodState.Registered. The counts of a target are gone with its
// last connection. It may be called at any time, and costs less than a microsecond for each
// method of a target.
func (it *Interceptor) MethodCounts() []policy.MethodCounts {
	if it == nil || it.targets == nil {
		return nil
	}
	sums := make(map[string]map[tally.Key]int64)
	for _, t := range it.knownTargets() {
		t.mu.Lock()
		methods := slices.Collect(maps.Values(t.learned))
		t.mu.Unlock()
		for _, m := range methods {
			name := ""
			if m.registered.Load() {
				name = m.name
			}
			sum := m.counts.Sum()
			if have := sums[name]; have != nil {
				for k, n := range sum {
					have[k] += n
				}
			} else if len(sum) > 0 {
				sums[name] = sum
			}
		}
	}
	all := make([]policy.MethodCounts, 0, len(sums))
	for name, sum := range sums {
		all = append(all, methodCounts(name, sum))
	}
	slices.SortFunc(all, func(a, b policy.MethodCounts) int { return cmp.Compare(a.Method, b.Method) })
	return all
}

func (it *Interceptor) knownTargets() []*target {
	it.mu.Lock()
	defer it.mu.Unlock()
	return slices.Collect(maps.Values(it.targets))
}

// methodCounts returns what was counted of a method.
func methodCounts(name string, sum map[tally.Key]int64) policy.MethodCounts {
	c := policy.MethodCounts{Method: name}
	if n := sum[tally.Frequent]; n > 0 {
		addEnd(&c, plainCall.Code, plainCall.Reason, n)
	}
	for k, n := range sum {
		of, a, b, _, _ := unpack(k)
		switch of {
		case ofCall:
			addEnd(&c, codes.Code(a), EndReason(b), n)
		case ofAttempt:
			switch budget.Kind(b >> 4) {
			case budget.Retry:
				c.Retries += n
			case budget.Hedge:
				c.Hedges += n
			default:
			}
		case ofDenial:
			c.Denials = append(c.Denials, policy.DenialCount{Kind: budget.Kind(a).String(), Reason: DenialReason(b).String(), Count: n})
		default:
		}
	}
	return c
}

// addEnd adds calls to those that ended alike: a success is counted under two keys, and a code that
// gRPC does not define is Unknown.
func addEnd(c *policy.MethodCounts, code codes.Code, reason EndReason, calls int64) {
	if code == OtherCode {
		code = codes.Unknown
	}
	end := policy.EndCount{Code: code, Reason: reason.String()}
	i := slices.IndexFunc(c.Ends, func(e policy.EndCount) bool { return e.Code == end.Code && e.Reason == end.Reason })
	if i < 0 {
		i, c.Ends = len(c.Ends), append(c.Ends, end)
	}
	c.Ends[i].Calls += calls
}
