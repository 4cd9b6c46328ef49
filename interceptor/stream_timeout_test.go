package interceptor_test

import (
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// slowBudget takes its time to grant a retry or a hedge, and counts what it has granted.
type slowBudget struct {
	takes time.Duration
	held  atomic.Int64
}

func (b *slowBudget) Acquire(k budget.Kind) bool {
	if k != budget.Original {
		virtual.Sleep(b.takes)
		b.held.Add(1)
	}
	return true
}

func (b *slowBudget) Release(k budget.Kind, _ budget.Result) {
	if k != budget.Original {
		b.held.Add(-1)
	}
}

// TestStreamThatMovesDoesNotTimeOut: a sign of life that comes while a budget is asked for
// another attempt is in time.
func TestStreamThatMovesDoesNotTimeOut(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]struct {
		first  testsrv.Step
		hedge  time.Duration
		header bool
	}{
		"message":                {testsrv.Send(1), 0, false},
		"message, may be hedged": {testsrv.Send(1), time.Second, false},
		"header":                 {testsrv.SendHeader(nil), 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				b := &slowBudget{takes: 10 * ms}
				c := newClient(t, srv, named(exact(idempotent, func(p *policy.Policy) {
					p.AttemptTimeout, p.Hedge.Delay = 100*ms, r.hedge
				})), interceptor.WithTargetBudget(func(string) budget.Budget { return b })).ready()
				srv.Script(testsrv.Watch, testsrv.Do(testsrv.Delay(105*ms), r.first, testsrv.Delay(50*ms), testsrv.Send(1), testsrv.OK()))
				s, err := testv1.NewTestServiceClient(c.conn).Watch(t.Context(), &testv1.WatchRequest{})
				require.NoError(t, err)
				if r.header {
					_, err := s.Header()
					require.NoError(t, err)
				}
				for err == nil {
					_, err = s.Recv()
				}
				require.ErrorIs(t, err, io.EOF)
				assert.Equal(t, 1, srv.Count(testsrv.Watch))
				assert.Zero(t, b.held.Load())
			})
		})
	}
}

// TestTimeoutAsksOnce: a message that is sent starts the clock anew, and nobody else asks
// while a budget is being asked.
func TestTimeoutAsksOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		b := &slowBudget{takes: 150 * ms}
		c := newClient(t, srv, named(exact(idempotent, func(p *policy.Policy) { p.AttemptTimeout = 100 * ms })),
			interceptor.WithTargetBudget(func(string) budget.Budget { return b })).ready()
		c.number(testsrv.Chat, testsrv.Hang(), testsrv.Echo())
		s, err := testv1.NewTestServiceClient(c.conn).Chat(t.Context())
		require.NoError(t, err)
		received := make(chan error)
		go func() {
			_, err := s.Recv()
			received <- err
		}()
		for range 12 {
			virtual.Sleep(20 * ms)
			require.NoError(t, s.Send(&testv1.ChatRequest{Id: "1"}))
		}
		require.NoError(t, <-received)
		require.NoError(t, s.CloseSend())
		for err == nil {
			_, err = s.Recv()
		}
		require.ErrorIs(t, err, io.EOF)
		assert.Zero(t, b.held.Load())
	})
}
