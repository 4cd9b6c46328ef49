package controlplane_test

import (
	stdbytes "bytes"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// lines is a log that several may write.
type lines struct {
	mu  sync.Mutex
	buf stdbytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// changes counts how often the status of a store changes.
func changes(t *testing.T, st *policy.Store) func() int {
	t.Helper()
	n := 0
	var mu sync.Mutex
	go func() {
		for {
			changed := st.Changed()
			select {
			case <-changed:
			case <-t.Context().Done():
				return
			}
			mu.Lock()
			n++
			mu.Unlock()
		}
	}()
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// TestConnectionAge: a server that ends each connection after five minutes is not
// noticed, neither in the log nor in the state.
func TestConnectionAge(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		source := newStore(t, set("1"))
		n.serve(controlplane.NewServer(source, nil), grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: 5 * time.Minute, MaxConnectionAgeGrace: time.Second,
		}))
		log := new(lines)
		st := new(policy.Store)
		w, err := controlplane.Watch("passthrough:///control", payments, st, controlplane.WithLogger(slog.New(slog.NewTextHandler(log, nil))), n.options())
		require.NoError(t, err)
		defer w.Close()
		synctest.Wait()
		changed := changes(t, st)
		n.dialed()
		virtual.Sleep(time.Hour)
		assert.Zero(t, changed())
		assert.Equal(t, policy.StateCurrent, st.Status().State())
		assert.NotContains(t, log.String(), "WARN")
		dials := n.dialed()
		assert.GreaterOrEqual(t, len(dials), 10, "it was ended again and again")
		require.NoError(t, source.Update(set("2")))
		virtual.Sleep(1500 * time.Millisecond) // the old connection may be in its last second
		synctest.Wait()
		assert.Equal(t, "2", st.Current().Version())
	})
}

// TestHeartbeats: both directions of a connection on which nothing happens are used
// at least every 20 s. The reason is the idle timeouts of proxies, often 60 s.
func TestHeartbeats(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		source := newStore(t, set("1"))
		n.serve(controlplane.NewServer(source, nil))
		s := n.light(t, "x", "1")
		assert.Equal(t, "1", s.answer(t).GetSet().GetVersion())
		for range 10 {
			last := time.Now()
			r := s.answer(t)
			assert.Nil(t, r.GetSet())
			assert.Equal(t, 20*time.Second, r.GetHeartbeat().GetInterval().AsDuration())
			assert.NotEmpty(t, r.GetNonce())
			assert.GreaterOrEqual(t, time.Since(last), 15*time.Second, "they are spread")
			assert.LessOrEqual(t, time.Since(last), 20*time.Second)
		}
		_, err := s.Recv() // one that is not answered
		require.NoError(t, err)
		require.NoError(t, source.Update(set("2")))
		r, err := s.Recv()
		require.NoError(t, err)
		assert.Equal(t, "2", r.GetSet().GetVersion(), "a set does not wait for that")
		synctest.Wait()
		assert.Equal(t, regov1.ClientState_CLIENT_STATE_PENDING, n.list(t, "")[0].GetState())
	})
}

// TestHeartbeatsStop: a connection that goes silent after heartbeats is given up.
func TestHeartbeatsStop(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		var answers []*regov1.StreamPoliciesRequest
		n.serve(scripted{serve: func(s serverStream) error {
			go func() {
				for r, err := s.Recv(); err == nil; r, err = s.Recv() {
					answers = append(answers, r)
				}
			}()
			_ = s.Send(response("a", set("1").Proto()))
			for range 3 {
				select {
				case <-time.After(10 * time.Second):
				case <-s.Context().Done():
				}
				_ = s.Send(&regov1.StreamPoliciesResponse{Nonce: "beat", Heartbeat: &regov1.Heartbeat{Interval: durationpb.New(10 * time.Second)}})
			}
			<-s.Context().Done()
			return nil
		}})
		st := new(policy.Store)
		defer n.watch(t, st, payments).Close()
		synctest.Wait()
		n.dialed()
		virtual.Sleep(30 * time.Second)
		synctest.Wait()
		require.Len(t, answers, 5)
		assert.Equal(t, "beat", answers[4].GetNonce())
		assert.Equal(t, "1", answers[4].GetVersion())
		virtual.Sleep(30*time.Second - 1)
		synctest.Wait()
		assert.Empty(t, n.dialed(), "three intervals have not passed")
		virtual.Sleep(1 + 300*time.Millisecond)
		synctest.Wait()
		assert.Len(t, n.dialed(), 1)
		assert.Equal(t, policy.StateCurrent, st.Status().State(), "the next stream had the set")
	})
}

// TestRejoinFails: a settled stream that ends is no loss for five seconds, and not as long as
// that if the next one fails.
func TestRejoinFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		second func(serverStream) error
		want   string
	}{
		"hangs": {func(s serverStream) error { <-s.Context().Done(); return nil }, "EOF"},
		"fails": {func(serverStream) error { return assert.AnError }, assert.AnError.Error()},
	} {
		bubble(t, func(t *testing.T, n *network) {
			streams := 0
			n.serve(scripted{serve: func(s serverStream) error {
				if streams++; streams > 1 {
					return c.second(s)
				}
				_ = s.Send(response("a", set("1").Proto()))
				virtual.Sleep(11 * time.Second)
				return nil
			}})
			st := new(policy.Store)
			defer n.watch(t, st, payments).Close()
			virtual.Sleep(11 * time.Second)
			synctest.Wait()
			assert.Equal(t, policy.StateCurrent, st.Status().State(), name)
			virtual.Sleep(5*time.Second + 300*time.Millisecond)
			synctest.Wait()
			assert.Equal(t, policy.StateStale, st.Status().State(), name)
			require.ErrorContains(t, st.Status().Lost, c.want, name)
			assert.Equal(t, "1", st.Current().Version(), name)
		})
	}
}

// TestNoHotLoop: a server that accepts, sends a set and closes at once is not stormed.
func TestNoHotLoop(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		n.serve(scripted{serve: func(s serverStream) error { return s.Send(response("a", set("1").Proto())) }})
		st := new(policy.Store)
		defer n.watch(t, st, payments).Close()
		virtual.Sleep(5 * time.Minute)
		dials := n.dialed()
		assert.Less(t, len(dials), 75, "the wait is 4 to 8 s in the end")
		assert.Greater(t, len(dials), 37, "and not longer, as of servers that do not answer")
		assert.Equal(t, "1", st.Current().Version())
	})
}
