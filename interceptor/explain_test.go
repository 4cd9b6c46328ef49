package interceptor_test

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	"github.com/rego-go/rego/policy"
)

// longest makes a call whose attempts all fail with a code, as late as they can, and returns
// how many there were and how long it took.
func longest(t *testing.T, p policy.Policy, c codes.Code, each time.Duration) (attempts int, took time.Duration) {
	t.Helper()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		client := newClient(t, srv, interceptor.WithPolicy(p), interceptor.WithTargetBudget(unlimited))
		srv.Script(testsrv.Get, testsrv.OK(), testsrv.Do(testsrv.Delay(each), testsrv.Fail(c, "")))
		_, err := client.call(t.Context(), testsrv.Get) // so that there is a connection
		require.NoError(t, err)
		begin := time.Now()
		_, err = client.call(t.Context(), testsrv.Get)
		require.Error(t, err)
		attempts, took = srv.Count(testsrv.Get)-1, time.Since(begin)
	})
	return attempts, took
}

// TestExplainedWorstCase: what Policy.Explain says of the worst case is reached, to a
// millisecond for each attempt, and not exceeded.
func TestExplainedWorstCase(t *testing.T) {
	t.Parallel()
	backoff := func(initial time.Duration, jitter policy.Jitter) policy.Backoff {
		return policy.Backoff{Initial: initial, Jitter: jitter}
	}
	retry := func(initial time.Duration, list ...codes.Code) policy.Retry {
		return policy.Retry{MaxAttempts: 4, Backoff: backoff(initial, policy.JitterNone), Codes: list}
	}
	for name, r := range map[string]struct {
		policy policy.Policy
		code   codes.Code
		each   time.Duration // that an attempt takes
		want   int           // attempts
	}{
		"overloaded":                  {policy.Policy{AttemptTimeout: 100 * ms, Retry: retry(10*ms, codes.ResourceExhausted)}, codes.ResourceExhausted, 99 * ms, 4},
		"overloaded or another":       {policy.Policy{AttemptTimeout: 100 * ms, Retry: retry(10*ms, codes.Aborted, codes.ResourceExhausted)}, codes.ResourceExhausted, 99 * ms, 4},
		"long waits":                  {policy.Policy{AttemptTimeout: 100 * ms, Retry: retry(7*time.Second, codes.ResourceExhausted)}, codes.ResourceExhausted, 99 * ms, 4},
		"gRPC's table":                {policy.Policy{AttemptTimeout: 100 * ms, Retry: retry(10 * ms)}, codes.Unavailable, 99 * ms, 4},
		"attempts that time out":      {policy.Policy{AttemptTimeout: 100 * ms, Retry: retry(10 * ms)}, codes.Unavailable, time.Minute, 4},
		"times out, and is the last":  {policy.Policy{AttemptTimeout: 100 * ms, Retry: retry(10*ms, codes.Aborted)}, codes.Aborted, time.Minute, 1},
		"timeout":                     {policy.Policy{Timeout: time.Second, Retry: retry(100 * ms)}, codes.Unavailable, 0, 4},
		"timeout before the overload": {policy.Policy{Timeout: time.Second, Retry: retry(10*ms, codes.ResourceExhausted)}, codes.ResourceExhausted, 0, 1},
		"timeout before the wait":     {policy.Policy{Timeout: time.Second, Retry: retry(2 * time.Second)}, codes.Unavailable, 0, 1},
		"timeout in the waits":        {policy.Policy{Timeout: time.Second, Retry: retry(400 * ms)}, codes.Unavailable, 0, 2},
	} {
		r.policy.Idempotency = classify.Idempotent
		e := r.policy.Explain(nil)
		attempts, took := longest(t, r.policy, r.code, r.each)
		assert.Equal(t, r.want, attempts, name)
		assert.LessOrEqual(t, attempts, e.Attempts, name)
		assert.LessOrEqual(t, took, e.Longest, name)
		switch {
		case name == "times out, and is the last": // since nothing follows what its timeout has ended
		case r.policy.Timeout == 0:
			assert.Equal(t, e.Attempts, attempts, name)
			assert.GreaterOrEqual(t, took, e.Longest-time.Duration(attempts)*ms, name)
		default:
			assert.Equal(t, e.Attempts, attempts, name)
		}
	}
}

// TestExplainHolds: whatever the policy and the server, a call takes no longer than explained,
// and makes no more attempts.
func TestExplainHolds(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	list := []codes.Code{codes.Unavailable, codes.ResourceExhausted, codes.Aborted, codes.DeadlineExceeded}
	for range 300 {
		p := policy.Policy{
			Idempotency: classify.Idempotency(r.IntN(4)),
			Retry: policy.Retry{MaxAttempts: 1 + r.IntN(5), Off: r.IntN(8) == 0, Backoff: policy.Backoff{
				Initial: time.Duration(r.IntN(3000)) * ms, Jitter: policy.Jitter(r.IntN(4)), Multiplier: 0.5 + 2*r.Float64(),
			}},
		}
		for _, c := range list {
			if r.IntN(2) == 0 {
				p.Retry.Codes = append(p.Retry.Codes, c)
			}
		}
		if r.IntN(2) == 0 {
			p.Timeout = time.Duration(1+r.IntN(5000)) * ms
		} else {
			p.AttemptTimeout = time.Duration(1+r.IntN(1000)) * ms
		}
		if r.IntN(3) == 0 {
			p.Hedge.Delay = time.Duration(1+r.IntN(6000)) * ms
		}
		e := p.Explain(nil)
		bubble(t, func(t *testing.T, srv *testsrv.Server) {
			client := newClient(t, srv, interceptor.WithPolicy(p), interceptor.WithTargetBudget(unlimited))
			srv.Script(testsrv.Get, testsrv.OK())
			_, err := client.call(t.Context(), testsrv.Get)
			require.NoError(t, err)
			var mu sync.Mutex
			srv.Handle(testsrv.Get, func(testsrv.Arrival) testsrv.Step {
				mu.Lock()
				defer mu.Unlock()
				return testsrv.Do(testsrv.Delay(time.Duration(r.IntN(1200))*ms), testsrv.Fail(list[r.IntN(3)], ""))
			})
			begin := time.Now()
			tl, err := client.call(t.Context(), testsrv.Get)
			require.Error(t, err)
			if e.Longest > 0 {
				assert.LessOrEqual(t, time.Since(begin), e.Longest, "%+v", p)
			}
			assert.LessOrEqual(t, srv.Count(testsrv.Get)-1, e.Attempts, "%+v %v", p, tl)
		})
	}
}
