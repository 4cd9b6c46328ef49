package controlplane_test

import (
	stdbytes "bytes"
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// TestRefusedUnread: a set of few bytes that would take hundreds of megabytes is
// refused before it is unmarshalled. The server is told, and the stream goes on.
func TestRefusedUnread(t *testing.T) {
	t.Parallel()
	field := func(number protowire.Number, content []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), content)
	}
	version := field(1, []byte("bad"))
	for name, c := range map[string]struct {
		set  []byte
		want string
	}{
		"empty rules": {stdbytes.Repeat(field(3, nil), 8_000_000), "the set has more than 100000 rules"},
		"codes":       {field(3, field(2, field(6, field(4, stdbytes.Repeat([]byte{14}, 15_000_000))))), "the set has more than 64 codes in one rule"},
		"cut off":     {[]byte{0x1a}, "the set is not protobuf, or cut off"},
	} {
		bubble(t, func(t *testing.T, n *network) {
			var answers []*regov1.StreamPoliciesRequest
			n.serve(scripted{serve: func(s serverStream) error {
				if err := grpc.SetSendCompressor(s.Context(), gzip.Name); err != nil {
					return err
				}
				if err := s.SendMsg(slices.Concat(field(1, slices.Concat(version, c.set)), field(2, []byte("a")))); err != nil {
					return err
				}
				for r, err := s.Recv(); err == nil; r, err = s.Recv() {
					if answers = append(answers, r); r.GetNonce() == "a" {
						_ = s.Send(response("b", set("good").Proto()))
					}
				}
				return nil
			}}, grpc.ForceServerCodecV2(wire{}))
			st := newStore(t, set("built in"))
			defer n.watch(t, st, payments).Close()
			synctest.Wait()
			require.Len(t, answers, 2, name) // hello, and the refusal: the client rests
			assert.Equal(t, "a", answers[1].GetNonce(), name)
			assert.Equal(t, "built in", answers[1].GetVersion(), name)
			require.Len(t, answers[1].GetFaults(), 1, name)
			assert.Equal(t, c.want, answers[1].GetFaults()[0].GetText(), name)
			refusal := st.Status().Refusal
			require.NotNil(t, refusal, name)
			require.EqualError(t, refusal.Err, c.want, name)
			assert.Equal(t, "bad", refusal.Version, name)
			virtual.Sleep(time.Second)
			synctest.Wait()
			assert.Equal(t, "good", st.Current().Version(), name)
			assert.Len(t, n.dialed(), 1, name)
		})
	}
}

// TestEncodedOnce: a set is encoded once, and clients that do not read have no copy of
// their own, however many sets there are.
func TestEncodedOnce(t *testing.T) {
	bubble(t, func(t *testing.T, n *network) {
		source := newStore(t, large("0", 1<<20))
		n.serve(controlplane.NewServer(source, nil))
		used := func() uint64 {
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		for range 100 {
			n.light(t, "x", "never reads")
		}
		synctest.Wait()
		before := used() // connections in memory are large
		for _, v := range []string{"1", "2", "3", "4", "5"} {
			require.NoError(t, source.Update(large(v, 1<<20)))
			synctest.Wait()
		}
		grown := int64(used()) - int64(before)
		t.Logf("100 clients that never read, 5 sets of 1 MiB: %d KiB", grown>>10)
		assert.Less(t, grown, int64(32<<20), "a copy for each would be 500 MB, one of each set 5")
		st := new(policy.Store)
		defer n.watch(t, st, payments).Close()
		synctest.Wait()
		assert.Equal(t, "5", st.Current().Version())
	})
}

// TestCompressed: a client that accepts gzip gets sets compressed.
func TestCompressed(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		big := set("1")
		for i := range 1000 {
			big.Rules = append(big.Rules, policy.Rule{Methods: []string{fmt.Sprintf("/a.B/M%d", i)}, Policy: big.Rules[0].Policy})
		}
		st, err := policy.NewStore(big)
		require.NoError(t, err)
		n.serve(controlplane.NewServer(st, nil))
		var seen sizes
		own := new(policy.Store)
		w, err := controlplane.Watch("passthrough:///control", payments, own, silent, n.options(),
			controlplane.WithDialOptions(grpc.WithStatsHandler(&seen)))
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, "1", own.Current().Version())
		require.NoError(t, w.Close())
		assert.Greater(t, seen.plain, 10_000)
		assert.Less(t, seen.wire, seen.plain/2)
	})
}

// sizes are what messages have, and what they have on the wire.
type sizes struct{ plain, wire int }

func (s *sizes) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (s *sizes) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (s *sizes) HandleConn(context.Context, stats.ConnStats)                       {}

func (s *sizes) HandleRPC(_ context.Context, event stats.RPCStats) {
	if in, ok := event.(*stats.InPayload); ok {
		s.plain += in.Length
		s.wire += in.CompressedLength
	}
}
