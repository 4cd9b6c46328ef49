package interceptor_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// TestTornStreamAsksNoMore: the attempt timeout of a stream that a panic below has torn down
// asks no budget, and what it has asked for is given back.
func TestTornStreamAsksNoMore(t *testing.T) {
	t.Parallel()
	for name, takes := range map[string]time.Duration{"torn before the timeout": 0, "torn while a budget is asked": 200 * ms} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				b := &slowBudget{takes: takes}
				r := new(summaries)
				it := newInterceptor(t, named(exact(idempotent, func(p *policy.Policy) { p.AttemptTimeout = 100 * ms })),
					interceptor.WithTargetBudget(func(string) budget.Budget { return b }), interceptor.WithRecorder(r))
				panics := func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, grpc.Streamer, ...grpc.CallOption) (grpc.ClientStream, error) {
					virtual.Sleep(takes)
					panic("below")
				}
				conn := srv.Conn(t, append(it.DialOptions(), grpc.WithChainStreamInterceptor(panics))...)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				assert.Panics(t, func() { _, _ = testv1.NewTestServiceClient(conn).Watch(ctx, &testv1.WatchRequest{}) })
				virtual.Sleep(5 * time.Second)
				synctest.Wait()
				assert.Zero(t, b.held.Load())
				s := stateOf(t, it, testsrv.Watch)
				assert.Empty(t, s.Denials)
				require.Len(t, r.lines, 1)
				require.Len(t, r.lines[0].Attempts, 1)
				assert.Equal(t, interceptor.AttemptRunning, r.lines[0].Attempts[0].Result)
				assert.Equal(t, codes.Unknown, r.lines[0].Attempts[0].Code)
			})
		})
	}
}
