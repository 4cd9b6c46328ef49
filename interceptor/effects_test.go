package interceptor_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testpolicy"
	"github.com/rego-go/rego/internal/testsrv"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// effect is a call that a field of its policy changes.
type effect struct {
	method string        // default: Put
	server testsrv.Step  // of the first two attempts; later ones succeed
	away   time.Duration // how long the server has been refusing connections then
	warm   time.Duration // what calls took before; zero if there were none
	ctx    func(context.Context) context.Context
	with   func(*policy.Policy) // sets the field
	beside func(*policy.Policy) // what the policy says anyway
}

// seen is what can be seen of a call: which attempts were made and when, and what came of it. What
// nobody watches is seen by the server alone; such calls make their first attempts without a state.
func (e effect) seen(t *testing.T, p policy.Policy, watched bool) (s string) {
	t.Helper()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		none, err := budget.NewRatio(budget.RatioConfig{})
		require.NoError(t, err)
		c := newClient(t, srv, interceptor.WithPolicy(p), interceptor.WithTargetBudget(unlimited),
			interceptor.WithBudget("nothing", none), interceptor.WithTrigger("at 20 ms", &trigger{next: each(20 * ms)}))
		method := e.method
		if method == "" {
			method = testsrv.Put
		}
		if e.warm > 0 {
			srv.Script(method, testsrv.Do(testsrv.Delay(e.warm), testsrv.OK()))
			for range 200 {
				_, err := c.call(t.Context(), method)
				require.NoError(t, err)
				virtual.Sleep(50 * ms)
			}
		}
		req, reply := messages(method)
		require.NoError(t, c.conn.Invoke(t.Context(), method, req, reply), "the first call is timed")
		before := srv.Count(method)
		srv.Script(method, e.server, e.server, testsrv.OK())
		ctx := t.Context()
		if e.ctx != nil {
			ctx = e.ctx(ctx)
		}
		if e.away > 0 {
			away(t, srv, e.away)
			virtual.Sleep(ms)
		}
		began := time.Now()
		var b strings.Builder
		defer func() { s = b.String() }()
		if !watched {
			err := c.conn.Invoke(ctx, method, req, reply)
			for _, a := range srv.Arrivals(method)[before:] {
				fmt.Fprintf(&b, "@%v ", a.Time.Sub(began).Round(time.Microsecond))
			}
			fmt.Fprintf(&b, "%v@%v", status.Code(err), time.Since(began).Round(time.Microsecond))
			return
		}
		tl, _ := c.call(ctx, method)
		if tl.Policy != "" {
			fmt.Fprintf(&b, "%q: ", tl.Policy)
		}
		for _, a := range tl.Attempts {
			fmt.Fprintf(&b, "%v@%v ", a.Kind, a.Start.Sub(began).Round(time.Microsecond))
		}
		for _, d := range tl.Denials {
			fmt.Fprintf(&b, "denied %v ", d.Reason)
		}
		fmt.Fprintf(&b, "%v@%v", tl.Code, time.Since(began).Round(time.Microsecond))
	})
	return s
}

// TestEveryFieldHasAnEffect: for each field of a policy there is a call that goes another way with
// it. A new field needs a row.
func TestEveryFieldHasAnEffect(t *testing.T) {
	t.Parallel()
	slow := testsrv.Do(testsrv.Delay(time.Second), testsrv.OK())
	extraLoad := func(p *policy.Policy) { p.Hedge.MaxExtraLoad = 0.02 }
	after10 := func(p *policy.Policy) { p.Hedge.Delay = 10 * ms }
	servesRetry := func(ctx context.Context) context.Context {
		return metadata.NewIncomingContext(ctx, metadata.Pairs("grpc-previous-rpc-attempts", "1"))
	}
	effects := map[string]effect{
		"name":            {server: down, with: func(p *policy.Policy) { p.Name = "mine" }},
		"idempotency":     {server: down, method: testsrv.Pay, with: func(p *policy.Policy) { p.Idempotency = classify.Idempotent }},
		"timeout":         {server: slow, with: func(p *policy.Policy) { p.Timeout = 200 * ms }},
		"attempt_timeout": {server: slow, with: func(p *policy.Policy) { p.AttemptTimeout = 200 * ms }},
		"wait_for_ready":  {away: time.Second, server: testsrv.OK(), beside: failsFast, with: func(p *policy.Policy) { p.WaitForReady = true }},
		"budget":          {server: down, with: func(p *policy.Policy) { p.Budget = "nothing" }},
		"classifier":      {server: down, with: func(p *policy.Policy) { p.Classifier = policy.ClassifierNone }},
		"as_grpc":         {server: testsrv.Do(testsrv.SendHeader(metadata.Pairs("a", "b")), down), with: func(p *policy.Policy) { p.AsGRPC = true }},

		"retry.off":                {server: down, with: func(p *policy.Policy) { p.Retry.Off = true }},
		"retry.max_attempts":       {server: down, with: func(p *policy.Policy) { p.Retry.MaxAttempts = 1 }},
		"retry.backoff.initial":    {server: down, with: func(p *policy.Policy) { p.Retry.Backoff.Initial = 70 * ms }},
		"retry.backoff.multiplier": {server: down, with: func(p *policy.Policy) { p.Retry.Backoff.Multiplier = 3 }},
		"retry.backoff.max":        {server: down, with: func(p *policy.Policy) { p.Retry.Backoff.Max = 60 * ms }},
		"retry.backoff.jitter":     {server: down, with: func(p *policy.Policy) { p.Retry.Backoff.Jitter = policy.JitterProportional }},
		"retry.codes":              {server: testsrv.Fail(codes.Internal, ""), with: func(p *policy.Policy) { p.Retry.Codes = []codes.Code{codes.Internal} }},
		"retry.reconnect":          {away: time.Second, server: testsrv.OK(), with: failsFast},
		"retry.stop_chain":         {server: down, ctx: servesRetry, with: func(p *policy.Policy) { p.Retry.StopChain = true }},

		"hedge.off":            {server: slow, beside: after10, with: func(p *policy.Policy) { p.Hedge.Off = true }},
		"hedge.delay":          {server: slow, with: after10},
		"hedge.max_extra_load": {warm: 30 * ms, server: slow, with: extraLoad},
		"hedge.percentile":     {warm: 30 * ms, server: slow, with: func(p *policy.Policy) { p.Hedge.Percentile = 0.9 }},
		"hedge.trigger":        {server: slow, with: func(p *policy.Policy) { p.Hedge.Trigger = "at 20 ms" }},
		"hedge.min_delay":      {warm: 30 * ms, server: slow, beside: extraLoad, with: func(p *policy.Policy) { p.Hedge.MinDelay = 80 * ms }},
		"hedge.max_delay":      {warm: 30 * ms, server: slow, beside: extraLoad, with: func(p *policy.Policy) { p.Hedge.MaxDelay = 20 * ms }},
	}
	for _, f := range testpolicy.Fields() {
		field, ok := f.Policy()
		if !ok {
			continue
		}
		e, ok := effects[field]
		if !assert.True(t, ok, "%s (%s) has no row in interceptor/effects_test.go", f.Path, f.Go) {
			continue
		}
		t.Run(field, func(t *testing.T) {
			t.Parallel()
			p := exact(func(p *policy.Policy) { p.Retry.MaxAttempts = 4 })
			if e.beside != nil {
				e.beside(&p)
			}
			without, unwatched := e.seen(t, p, true), e.seen(t, p, false)
			e.with(&p)
			assert.NotEqual(t, without, e.seen(t, p, true))
			if field != "name" { // which is for who watches
				assert.NotEqual(t, unwatched, e.seen(t, p, false), "unwatched")
			}
		})
	}
}
