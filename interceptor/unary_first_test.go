package interceptor

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// Calls that something is asked of before an attempt has failed have their state first.
func TestSimplePlans(t *testing.T) {
	takeForGRPC(answeringOK)
	asked := func(f func(*policy.Policy)) []Option {
		p := idempotentNow
		f(&p)
		return []Option{WithPolicy(p), WithLogger(slog.New(slog.DiscardHandler))}
	}
	stub := []grpc.CallOption{grpc.StaticMethod()}
	with := func(o ...grpc.CallOption) []grpc.CallOption { return append(o, stub...) }
	for name, r := range map[string]struct {
		opts   []Option
		call   []grpc.CallOption
		simple bool
	}{
		"default":            {nil, stub, true},
		"policy":             {asked(func(*policy.Policy) {}), stub, true},
		"options for grpc":   {nil, with(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(1), grpc.UseCompressor("gzip")), true},
		"retries off":        {asked(func(p *policy.Policy) { p.Retry.Off = true }), stub, true},
		"listed codes":       {asked(func(p *policy.Policy) { p.Retry.Codes = []codes.Code{codes.Internal} }), stub, true},
		"timeout":            {asked(func(p *policy.Policy) { p.Timeout = time.Hour }), stub, false},
		"attempt timeout":    {asked(func(p *policy.Policy) { p.AttemptTimeout = time.Hour }), stub, false},
		"wait for ready":     {asked(func(p *policy.Policy) { p.WaitForReady = true }), stub, false},
		"stop chain":         {asked(func(p *policy.Policy) { p.Retry.StopChain = true }), stub, false},
		"hedging":            {asked(func(p *policy.Policy) { p.Hedge.Delay = time.Hour }), stub, false},
		"hedging off":        {asked(func(p *policy.Policy) { p.Hedge = policy.Hedge{Delay: time.Hour, Off: true} }), stub, false},
		"classifier":         {append(asked(func(p *policy.Policy) { p.Classifier = "own" }), WithClassifier("own", classify.GRPC)), stub, false},
		"observer":           {[]Option{WithObserver(nobody{})}, stub, false},
		"recorder":           {[]Option{WithRecorder(recorderOfNothing{})}, stub, false},
		"timeline":           {nil, with(WithTimeline(new(Timeline))), false},
		"policy of the call": {nil, with(WithPolicy(idempotentNow)), false},
		"header":             {nil, with(grpc.Header(new(metadata.MD))), false},
		"trailer":            {nil, with(grpc.Trailer(new(metadata.MD))), false},
		"peer":               {nil, with(grpc.Peer(new(peer.Peer))), false},
		"OnFinish":           {nil, with(grpc.OnFinish(func(error) {})), false},
		"codec":              {nil, with(grpc.CallContentSubtype("json")), false},
	} {
		it, err := New(r.opts...)
		require.NoError(t, err, name)
		d := it.door(true)
		assert.Nil(t, d.simplePlan(benchMethod, nil, r.call), "%s: the first call is timed", name)
		require.NoError(t, d.unary(t.Context(), benchMethod, nil, nil, nil, answeringOK))
		assert.Equal(t, r.simple, d.simplePlan(benchMethod, nil, r.call) != nil, name)
	}
}

// A state that grpc may still write to is not used for another call.
func TestFirstAttemptEndsLater(t *testing.T) {
	t.Parallel()
	it, err := New()
	require.NoError(t, err)
	it.target(nil).plan(benchMethod).method.clocked.Store(false)
	var kept []grpc.CallOption
	returnsEarly := func(_ context.Context, _ string, _, _ any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
		kept = opts
		return nil
	}
	u := newUnary()
	u.endsInTime = true
	require.True(t, u.firstSucceeds(t.Context(), it.door(true), benchMethod, nil, nil, nil, returnsEarly, stubOptions))
	assert.NotNil(t, u.tried.plan, "it is as the attempt has left it")
	tellEnd(nil, kept)
	assert.Equal(t, phaseDone, u.outputs.phase.Load())
}

// A call whose first attempt has no state keeps the policies that it began with.
func TestFirstAttemptKeepsItsPolicies(t *testing.T) {
	t.Parallel()
	var st policy.Store
	it, err := New(WithPolicies(&st), WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	rule := func(change func(*policy.Policy)) policy.Set {
		p := idempotentNow
		change(&p)
		return policy.Set{Rules: []policy.Rule{{Methods: []string{"*"}, Policy: p}}}
	}
	require.NoError(t, st.Update(rule(func(*policy.Policy) {})))
	it.target(nil).plan(benchMethod).method.clocked.Store(false)
	n := 0
	changes := func(_ context.Context, _ string, _, _ any, _ *grpc.ClientConn, opts ...grpc.CallOption) (err error) {
		if n++; n == 1 {
			require.NoError(t, st.Update(rule(func(p *policy.Policy) { p.Retry.Off = true })))
			err = status.Error(codes.Unavailable, "")
		}
		tellEnd(err, opts)
		return err
	}
	u := newUnary()
	u.endsInTime = true
	d := it.door(true)
	require.False(t, u.firstSucceeds(t.Context(), d, benchMethod, nil, nil, nil, changes, stubOptions))
	require.NoError(t, u.serve(t.Context(), d, benchMethod, nil, nil, nil, changes, stubOptions))
	assert.Equal(t, 2, n)
}

// A method whose policy is in its proto file has the channel's instead if that has one, and a budget
// is not to be told of attempts whose retries another one pays for.
func TestAnnotatedIsNotSimple(t *testing.T) {
	t.Parallel()
	it, err := New()
	require.NoError(t, err)
	p := it.target(nil).plan(testv1.AnnotatedService_Own_FullMethodName)
	require.NotNil(t, p.method.annotated)
	require.True(t, p.open)
	assert.False(t, p.simple)
	assert.True(t, it.target(nil).plan(benchMethod).simple)
}

// A first attempt that a panic tears down is counted, and gives back what it had of the budget.
func TestFirstAttemptPanics(t *testing.T) {
	b := new(books)
	it, err := New(WithTargetBudget(func(string) budget.Budget { return b }))
	require.NoError(t, err)
	d := it.door(true)
	takeForGRPC(answeringOK)
	require.NoError(t, d.unary(t.Context(), benchMethod, nil, nil, nil, answeringOK), "the first call is timed")
	torn := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { panic("torn") }
	takeForGRPC(torn)
	for range 3 * sampleEvery { // some of these are timed
		assert.PanicsWithValue(t, "torn", func() { _ = d.unary(t.Context(), benchMethod, nil, nil, nil, torn, stubOptions...) })
	}
	calls, attempts := it.State().Targets[0].Methods[0].Total()
	assert.Equal(t, []int64{1 + 3*sampleEvery, 1 + 3*sampleEvery}, []int64{calls, attempts})
	assert.Equal(t, books{acquired: 1 + 3*sampleEvery, released: 1 + 3*sampleEvery}, *b)
}

// A call whose budget panics counts, whenever that is.
func TestFirstAttemptBudgetPanics(t *testing.T) {
	for name, b := range map[string]budget.Budget{"Acquire": panicking{acquire: true}, "Release": panicking{release: true}} {
		it, err := New(WithTargetBudget(func(string) budget.Budget { return b }))
		require.NoError(t, err)
		d := it.door(true)
		takeForGRPC(answeringOK)
		it.target(nil).plan(benchMethod).method.clocked.Store(false)
		for range 10 {
			assert.Panics(t, func() { _ = d.unary(t.Context(), benchMethod, nil, nil, nil, answeringOK, stubOptions...) }, name)
		}
		calls, attempts := it.State().Targets[0].Methods[0].Total()
		assert.EqualValues(t, 10, calls, name)
		assert.EqualValues(t, 10, attempts, name)
	}
}

// panicking is a budget that panics when it is asked for an attempt, or told of one.
type panicking struct{ acquire, release bool }

func (p panicking) Acquire(budget.Kind) bool {
	if p.acquire {
		panic("acquire")
	}
	return true
}

func (p panicking) Release(budget.Kind, budget.Result) {
	if p.release {
		panic("release")
	}
}

// books count what a budget is told.
type books struct{ acquired, released int }

func (b *books) Acquire(budget.Kind) bool           { b.acquired++; return true }
func (b *books) Release(budget.Kind, budget.Result) { b.released++ }

type recorderOfNothing struct{}

func (recorderOfNothing) Record(context.Context, Summary) {}

// Some calls are measured that nobody asks it of, whatever their policy: so it is known how
// long a fast attempt takes.
func TestSomeAreMeasured(t *testing.T) {
	slow := idempotentNow
	slow.AttemptTimeout = time.Hour
	for name, p := range map[string]policy.Policy{"simple": idempotentNow, "attempt timeout": slow} {
		synctest.Test(t, func(t *testing.T) {
			it, err := New(WithPolicy(p))
			require.NoError(t, err)
			d := it.door(true)
			invoker := func(_ context.Context, _ string, _, _ any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
				virtual.Sleep(time.Millisecond)
				tellEnd(nil, opts)
				return nil
			}
			takeForGRPC(invoker)
			for range 60 * sampleEvery {
				require.NoError(t, d.unary(t.Context(), benchMethod, nil, nil, nil, invoker))
			}
			assert.Positive(t, d.target(nil).plan(benchMethod).method.pace.Fast(time.Now()), name)
		})
	}
}
