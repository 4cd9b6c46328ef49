package controlplane_test

import (
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// ended is one kind of end, of the calls of one method.
type ended struct{ method, code, reason string }

// sums is what reports say together, or a state.
type sums struct {
	mu              sync.Mutex
	ends            map[ended]int64
	retries, hedges int64
	denials         int64
	attempts        map[string]int64 // by set: retries and hedges
}

func newSums() *sums { return &sums{ends: make(map[ended]int64), attempts: make(map[string]int64)} }

func (s *sums) report(_ string, r *regov1.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range r.GetMethods() {
		for _, e := range m.GetEnds() {
			s.ends[ended{m.GetMethod(), codes.Code(e.GetCode()).String(), e.GetReason()}] += int64(e.GetCalls())
		}
		s.retries += int64(m.GetRetries())
		s.hedges += int64(m.GetHedges())
		s.attempts[r.GetVersion()] += int64(m.GetRetries() + m.GetHedges())
		for _, d := range m.GetDenials() {
			s.denials += int64(d.GetCount())
		}
	}
}

func (s *sums) state(of interceptor.State) {
	for _, target := range of.Targets {
		for _, m := range target.Methods {
			for _, c := range m.Calls {
				s.ends[ended{m.Method, c.Code.String(), c.Reason.String()}] += c.Count
			}
			for _, a := range m.Attempts {
				switch a.Kind {
				case budget.Retry:
					s.retries += a.Count
				case budget.Hedge:
					s.hedges += a.Count
				default:
				}
			}
			for _, d := range m.Denials {
				s.denials += d.Count
			}
		}
	}
}

// TestReportsAgreeWithState: the reports of calls over three sets, and over a server that is away for a
// while, say together what the interceptor's state does.
func TestReportsAgreeWithState(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		backend := testsrv.Start(t)
		got := newSums()
		retries := policy.Policy{Idempotency: classify.Idempotent, Retry: policy.Retry{MaxAttempts: 3, Backoff: policy.Backoff{Initial: time.Millisecond}}}
		hedges := policy.Policy{Idempotency: classify.Idempotent, Hedge: policy.Hedge{Delay: time.Millisecond}}
		serving := func(version string, p policy.Policy) policy.Set {
			return policy.Set{Version: version, Rules: []policy.Rule{{Methods: []string{testsrv.Get}, Policy: p}}}
		}
		source, st := newStore(t, serving("none", policy.Policy{Retry: policy.Retry{Off: true}})), new(policy.Store)
		serve := func() {
			s := controlplane.NewServer(source, nil, controlplane.ReportEvery(every))
			s.OnReport(got.report)
			n.serve(s)
		}
		serve()
		it, err := interceptor.New(interceptor.WithPolicies(st), interceptor.WithLogger(slog.New(slog.DiscardHandler)))
		require.NoError(t, err)
		w, err := controlplane.Watch("passthrough:///control", payments, st, silent, n.options(), controlplane.WithReports(it.MethodCounts))
		require.NoError(t, err)
		defer w.Close()
		synctest.Wait()
		conn := backend.Conn(t, it.DialOptions()...)
		calls := func(number int) {
			for i := range number {
				if i%3 == 0 {
					backend.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, ""), testsrv.Do(testsrv.Delay(2*time.Millisecond), testsrv.Echo()))
				}
				_ = conn.Invoke(t.Context(), testsrv.Get, &testv1.GetRequest{Id: "1"}, new(testv1.GetResponse), grpc.StaticMethod())
			}
		}
		calls(100)
		require.NoError(t, source.Update(serving("retries", retries)))
		synctest.Wait()
		calls(100)
		virtual.Sleep(time.Minute)
		n.stop()
		calls(100)
		serve()
		virtual.Sleep(time.Minute)
		require.NoError(t, source.Update(serving("hedges", hedges)))
		synctest.Wait()
		calls(100)
		virtual.Sleep(time.Minute)

		want := newSums()
		want.state(it.State())
		assert.Equal(t, want.ends, got.ends)
		assert.Equal(t, want.retries, got.retries)
		assert.Equal(t, want.hedges, got.hedges)
		assert.Equal(t, want.denials, got.denials)
		assert.Positive(t, got.retries)
		assert.Positive(t, got.hedges)
		assert.Zero(t, got.attempts["none"])
		assert.Positive(t, got.attempts["retries"])
		assert.Positive(t, got.attempts["hedges"])
	})
}
