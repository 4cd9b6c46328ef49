package twin

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/internal/virtual"
)

var (
	programs = flag.Int("programs", 500, "how many random programs to play")
	seed     = flag.Uint64("seed", 1, "the seed of the first program; the others follow")
	give     = flag.Int("give-up", 3, "after how many differences to stop")
	whole    = flag.Bool("whole", false, "print programs that differ as they are, none smaller")
	kinds    = flag.Uint("kinds", uint(OfAll), "of which kinds of calls: 0 all, 1 unary, 2 streams")
)

// holds plays a program, and fails if rego shows what a bare client does not.
func holds(t *testing.T, p Program) {
	t.Helper()
	if d := Check(t, p); d != nil {
		t.Error(d)
	}
}

// TestTwin plays random programs. Of one that differs it prints a smaller one, as a test.
func TestTwin(t *testing.T) {
	t.Parallel()
	play(t, *seed, *programs, Kinds(*kinds))
}

// TestKept plays programs that have differed once.
func TestKept(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]Program{
		"cancelled with a hedge, watched": {
			Rules:   [2]Rules{{MaxAttempts: 3, Idempotent: true, HedgeAfter: 20 * ms}},
			Watched: true,
			Lanes: [][]Call{{{
				Options: []Option{WantHeader, WantPeer, WantFinish},
				Cancel:  30 * ms,
				Attempts: []Attempt{
					{Steps: []Step{{Do: SendHeader}, {Do: Hang}}},
					{Steps: []Step{{Do: Hang}}},
				},
			}}},
		},
		"the header of an attempt that an interceptor leaves": {
			Rules: [2]Rules{{MaxAttempts: 2, Idempotent: true}},
			Below: []Meddler{{Do: ReturnEarly, After: 100 * ms}},
			Lanes: [][]Call{{
				{Options: []Option{WantHeader, WantTrailer, WantFinish}, Attempts: []Attempt{{Steps: []Step{{Do: SendHeader, Wait: 400 * ms}, {Do: SendMessage}}}}},
				{Options: []Option{WantHeader, WantTrailer, WantFinish}},
			}},
		},
		"called again above, with the variable of before": {
			Rules: [2]Rules{{AttemptTimeout: 1}},
			Above: []Meddler{{Do: Again}},
			Lanes: [][]Call{{{Deadline: 18 * ms, Options: []Option{WantHeader}, Attempts: []Attempt{{Steps: []Step{{Wait: 13 * ms}}}}}}},
		},
		"an answer that another one takes the place of, in a codec that adds": {
			Rules: [2]Rules{{MaxAttempts: 2, Idempotent: true}},
			Lanes: [][]Call{{{
				Kind: Upload, Options: []Option{JSON}, Ops: []Op{{}, {Do: CloseSend}, {Do: Recv, Think: 2 * ms}},
				Attempts: []Attempt{
					{Steps: []Step{{Do: ReadAll}, {Do: SendMessage}, {Do: Kill}}},
					{Steps: []Step{{Do: ReadAll}, {Do: SendMessage}}},
				},
			}}},
		},
		"a message that is too large, after the server has ended the stream": {
			Rules: [2]Rules{{MaxAttempts: 3, ListsCodes: true}},
			Lanes: [][]Call{{{Kind: Watch, Options: []Option{SmallSend}, Ops: []Op{{}, {Do: Drain}}}}},
		},
		"ended without a message while it is sent to": {
			Rules:  [2]Rules{{MaxAttempts: 3}},
			Direct: true,
			Lanes:  [][]Call{{{Kind: Chat, Ops: []Op{{Think: 11213}, {Do: Recv}}, Attempts: []Attempt{{Steps: []Step{{}}}}}}},
		},
		"a message after CloseSend, while a retry waits": {
			Rules: [2]Rules{{MaxAttempts: 2}},
			Lanes: [][]Call{{{
				Kind: Watch, Ops: []Op{{Do: CloseSend}, {}}, Beside: []Op{{Do: Drain}},
				Attempts: []Attempt{{Steps: []Step{{Do: Status, Code: codes.Unavailable, MD: QuotaInfo}}}},
			}}},
		},
		"a message after CloseSend, and after the end": {
			Rules: [2]Rules{{MaxAttempts: 3}},
			Below: []Meddler{{Do: DropOptions}},
			Lanes: [][]Call{{{Kind: Watch, Ops: []Op{{Do: Cancel}, {Do: CloseSend}, {Do: Drain}, {}}}}},
		},
		"a message after CloseSend, and hedges": {
			Rules: [2]Rules{{}, {MaxAttempts: 3, Idempotent: true, ListsCodes: true, HedgeAfter: 30514658}},
			Lanes: [][]Call{{{
				Kind: Chat, Method: 1, Think: 965963,
				Ops:    []Op{{Think: 3014099}, {Think: 2652885}, {Do: CloseSend, Think: 15763370}, {Think: 15256267}},
				Beside: []Op{{Do: Recv, Think: 9879134}, {Do: Drain, Think: 16645449}},
				Attempts: []Attempt{
					{Steps: []Step{{Do: ReadN, N: 2}, {Do: Status, Code: codes.ResourceExhausted, MD: WithTrailer}}},
					{Steps: []Step{{Do: ReadAll}, {Wait: 139445835}, {Do: Status, Code: codes.Unavailable, MD: QuotaInfo}}},
				},
			}}},
		},
		"a second message of a server stream": {
			Rules: [2]Rules{{MaxAttempts: 2}},
			Lanes: [][]Call{{{
				Kind: Watch, Ops: []Op{{}, {}}, Beside: []Op{{Do: Drain}},
				Attempts: []Attempt{{Steps: []Step{{Do: Status, Code: codes.Unavailable, MD: QuotaInfo}}}},
			}}},
		},
		"refused, and refused again": {
			Rules: [2]Rules{{MaxAttempts: 3}},
			Lanes: [][]Call{{{
				Options:  []Option{WantTimeline, WantTrailer},
				Attempts: []Attempt{{Steps: []Step{{Do: Refused}}}, {Steps: []Step{{Do: Refused}}}},
			}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			holds(t, p)
		})
	}
}

// play plays programs until a few have differed.
func play(t *testing.T, first uint64, programs int, kinds Kinds) {
	var next, failed atomic.Int64
	for worker := range runtime.GOMAXPROCS(0) {
		t.Run(fmt.Sprint("worker ", worker), func(t *testing.T) {
			t.Parallel()
			for {
				n := first + uint64(next.Add(1)-1)
				if n >= first+uint64(programs) || failed.Load() >= int64(*give) {
					return
				}
				if d := Check(t, Random(n, kinds)); d != nil {
					failed.Add(1)
					report(t, n, d)
				}
			}
		})
	}
}

func report(t *testing.T, n uint64, d *Difference) {
	small, p := d, d.Program
	if !*whole {
		small, p = smaller(d, func(p Program) *Difference { return Check(t, p) })
	}
	t.Errorf("seed %d: %v\n%s", n, small, p.AsTest(fmt.Sprint("Seed", n)))
}

// smaller returns a program that differs as well, and how.
func smaller(d *Difference, check func(Program) *Difference) (*Difference, Program) {
	small := d
	p := Shrink(d.Program, func(p Program) bool {
		for range 3 { // of what happens now and then
			if less := check(p); less != nil && (d.Unsteady || !less.Unsteady) {
				small = less
				return true
			}
		}
		return false
	})
	return small, p
}

// TestFaultsAreFound: what the twin is for. Interceptors with a fault each, in the place of
// rego's, are reported, and the program that shows it is small.
func TestFaultsAreFound(t *testing.T) {
	t.Parallel()
	for name, faulty := range map[string]grpc.UnaryClientInterceptor{
		"a header is lost": func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoker(ctx, method, req, reply, cc, slices.DeleteFunc(slices.Clone(opts), func(o grpc.CallOption) bool {
				_, is := o.(grpc.HeaderCallOption)
				return is
			})...)
		},
		"a failure takes a moment longer": func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			err := invoker(ctx, method, req, reply, cc, opts...)
			if err != nil {
				virtual.Sleep(time.Microsecond)
			}
			return err
		},
		"an error is wrapped": func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			err := invoker(ctx, method, req, reply, cc, opts...)
			if err != nil {
				return fmt.Errorf("call: %w", err)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checks := func(p Program) *Difference {
				return check(t, p, func() middleware { return middleware{faulty, nil, nil} })
			}
			for n := range uint64(200) {
				d := checks(Random(n, OfUnary))
				if d == nil {
					continue
				}
				_, p := smaller(d, checks)
				require.Len(t, p.Lanes, 1)
				require.Len(t, p.Lanes[0], 1)
				src := p.AsTest("Found")
				assert.True(t, strings.HasPrefix(src, "func TestFound(t *testing.T) {\n\tholds(t, Program{"), src)
				return
			}
			t.Error("not found")
		})
	}
}
