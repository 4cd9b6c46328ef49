package interceptor_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

var (
	streamSeeds = flag.Int("streams", 300, "streams that are played at random")
	streamSeed  = flag.Uint64("stream-seed", 0, "play this stream only")
)

// TestRandomStreams plays arbitrary interleavings of sends, receives, failures,
// cancels and slow readers, on two goroutines.
func TestRandomStreams(t *testing.T) {
	t.Parallel()
	seeds := []uint64{
		17455457311634958609, // a cancel as the first message arrives
		15082606217189991426, // a cancel as an attempt times out
	}
	for range *streamSeeds {
		seeds = append(seeds, rand.Uint64())
	}
	if *streamSeed != 0 {
		seeds = []uint64{*streamSeed}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { playRandomStream(t, rand.New(rand.NewPCG(seed, 2))) })
		})
	}
}

// randomStream is what the application's goroutines leave behind.
type randomStream struct {
	kind
	sent     int // messages that SendMsg took
	offered  int
	closed   bool
	sendErr  error
	received []string // attempt.index
	recvErr  error    // nil if it stopped before the end
	header   metadata.MD
	finished int
	tl       interceptor.Timeline
}

func playRandomStream(t *testing.T, r *rand.Rand) {
	k := kinds[r.IntN(len(kinds))]
	srv := testsrv.Start(t)
	steps := make([]testsrv.Step, 6)
	for i := range steps {
		steps[i] = randomServer(r, k)
	}
	p := policy.Policy{
		Idempotency:    []classify.Idempotency{classify.Idempotent, classify.Idempotent, classify.IdempotencyUnknown}[r.IntN(3)],
		Timeout:        time.Duration(r.IntN(3)) * 300 * ms,
		AttemptTimeout: time.Duration(r.IntN(2)) * 90 * ms,
		Retry:          policy.Retry{Off: r.IntN(6) == 0, MaxAttempts: 1 + r.IntN(5)},
		Hedge:          policy.Hedge{Delay: []time.Duration{0, 0, policy.NoWait, 20 * ms, 100 * ms}[r.IntN(5)]},
	}
	ledger := &ledger{budget: budget.Default()}
	it := newInterceptor(t, named(p), ledger.inTarget(),
		interceptor.WithCallReplayLimit([]int{0, 700, 256 << 10}[r.IntN(3)]))
	conn := srv.Conn(t, it.DialOptions()...)
	srv.Handle(k.method, func(a testsrv.Arrival) testsrv.Step { return steps[min(a.Previous, len(steps)-1)] })
	if r.IntN(8) == 0 {
		require.NoError(t, srv.Refuse(true))
		time.AfterFunc(time.Duration(r.IntN(500))*ms, func() { _ = srv.Refuse(false) })
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+r.IntN(3000))*ms)
	defer cancel()
	if r.IntN(4) == 0 {
		time.AfterFunc(time.Duration(r.IntN(400))*ms, cancel)
	}

	s := &randomStream{kind: k}
	cs, err := conn.NewStream(ctx, k.desc(), k.method, interceptor.WithTimeline(&s.tl),
		grpc.OnFinish(func(error) { s.finished++ }))
	if err != nil {
		s.recvErr = err
	} else {
		s.play(t, cs, r.Uint64(), r.Uint64())
	}
	if s.recvErr == nil { // the application leaves it to the context
		cancel()
	}
	synctest.Wait()
	s.check(t, srv, p)
	assert.Zero(t, it.Replayed(), "memory")
	assert.Zero(t, ledger.held, "leases")
}

// randomServer is what one attempt does at the server.
func randomServer(r *rand.Rand, k kind) testsrv.Step {
	var ops []testsrv.Step
	pause := func() {
		if r.IntN(2) == 0 {
			ops = append(ops, testsrv.Delay(time.Duration(r.IntN(120))*ms))
		}
	}
	pause()
	if k.client && r.IntN(2) == 0 {
		ops = append(ops, testsrv.Recv(1+r.IntN(3)))
	}
	if r.IntN(4) == 0 {
		ops = append(ops, testsrv.SendHeader(metadata.Pairs("h", "1")))
		pause()
	}
	if k.client && r.IntN(2) == 0 {
		ops = append(ops, testsrv.RecvAll())
	}
	for k.server && r.IntN(3) > 0 {
		ops = append(ops, testsrv.Send(1+r.IntN(3)))
		pause()
	}
	switch r.IntN(9) {
	case 0:
		ops = append(ops, testsrv.Hang())
	case 1:
		ops = append(ops, testsrv.KillConn())
	case 2, 3, 4:
		ops = append(ops, down)
	case 5:
		ops = append(ops, pushback(fmt.Sprint(r.IntN(100)-20)))
	case 6:
		ops = append(ops, testsrv.Fail(codes.Code(1+r.IntN(16)), "random"))
	default:
		ops = append(ops, testsrv.OK())
	}
	return testsrv.Do(ops...)
}

// play is the application: one goroutine sends, another receives.
func (s *randomStream) play(t *testing.T, cs grpc.ClientStream, sendSeed, recvSeed uint64) {
	var both sync.WaitGroup
	both.Go(func() { s.send(cs, rand.New(rand.NewPCG(sendSeed, 3))) })
	both.Go(func() { s.receive(t, cs, rand.New(rand.NewPCG(recvSeed, 4))) })
	both.Wait()
}

func (s *randomStream) send(cs grpc.ClientStream, r *rand.Rand) {
	n, pad := 1, ""
	if s.client {
		n = r.IntN(12)
	}
	if r.IntN(4) == 0 {
		pad = string(make([]byte, r.IntN(40_000)))
	}
	for range n {
		if r.IntN(3) == 0 {
			virtual.Sleep(time.Duration(r.IntN(60)) * ms)
		}
		s.offered++
		if s.sendErr = cs.SendMsg(s.request(fmt.Sprint(s.offered, ";", pad))); s.sendErr != nil {
			return
		}
		s.sent++
	}
	if r.IntN(8) > 0 {
		s.closed = cs.CloseSend() == nil
		_ = cs.CloseSend() // once more does no harm
	}
}

func (s *randomStream) receive(t *testing.T, cs grpc.ClientStream, r *rand.Rand) {
	pause := func() {
		if r.IntN(3) == 0 {
			virtual.Sleep(time.Duration(r.IntN(150)) * ms)
		}
	}
	pause()
	if r.IntN(4) == 0 {
		s.header, _ = cs.Header()
	}
	for limit := r.IntN(20); limit > 0; limit-- {
		pause()
		m := s.newReply()
		if err := cs.RecvMsg(m); err != nil {
			s.recvErr = err
			again := cs.RecvMsg(s.newReply())
			assert.Equal(t, status.Code(err), status.Code(again), "RecvMsg after the end: %v, then %v", err, again)
			return
		}
		f := m.ProtoReflect().Descriptor().Fields()
		at := fmt.Sprint(m.ProtoReflect().Get(f.ByName("attempt")).Int())
		if i := f.ByName("index"); i != nil {
			at += "." + fmt.Sprint(m.ProtoReflect().Get(i).Int())
		}
		s.received = append(s.received, at)
		if !s.server {
			s.recvErr = io.EOF
			return
		}
	}
}

func (s *randomStream) check(t *testing.T, srv *testsrv.Server, p policy.Policy) {
	what := fmt.Sprintf("%s: received %v, then %v; sent %d of %d, then %v\n%v", s.method, s.received, s.recvErr, s.sent, s.offered, s.sendErr, &s.tl)
	arrivals := srv.Arrivals(s.method)

	// What the application saw is the beginning of one attempt's messages.
	kept := 0
	for i, at := range s.received {
		var attempt, index int
		_, err := fmt.Sscanf(at+".0", "%d.%d", &attempt, &index)
		require.NoError(t, err)
		if i == 0 {
			kept = attempt
		}
		require.Equal(t, fmt.Sprint(kept, i), fmt.Sprint(attempt, index), what)
	}

	// Every attempt saw the beginning of what was sent, once and in order.
	for i, a := range arrivals {
		for j, m := range a.Received {
			var n int
			_, err := fmt.Sscanf(string(m.(interface{ GetPayload() []byte }).GetPayload()), "%d;", &n)
			require.NoError(t, err)
			require.Equal(t, j+1, n, "attempt %d: %s", i+1, what)
		}
		if a.HalfClosed {
			require.Len(t, a.Received, s.offered, "attempt %d saw the end too early: %s", i+1, what)
			require.True(t, s.closed, what)
		}
	}
	if errors.Is(s.recvErr, io.EOF) && s.server {
		ok := false
		for _, a := range arrivals {
			ok = ok || a.Status.Code() == codes.OK && (kept == 0 || a.Attempt == kept)
		}
		require.True(t, ok, "a clean end that no attempt had: %s", what)
	}

	assert.Equal(t, 1, s.finished, "OnFinish: %s", what)
	assert.NotEqual(t, interceptor.EndUnfinished, s.tl.Reason, what)
	assert.LessOrEqual(t, len(s.tl.Attempts), min(p.Retry.MaxAttempts, interceptor.DefaultMaxAttempts), what)
	assert.Equal(t, s.tl.Code == codes.OK, s.tl.Reason == interceptor.EndSucceeded, what)
	if s.recvErr != nil && !errors.Is(s.recvErr, io.EOF) {
		if left := s.tl.Reason == interceptor.EndCallerCancelled || s.tl.Reason == interceptor.EndDeadline; !left { // then its status may be there, too
			assert.Equal(t, s.tl.Code, status.Code(s.recvErr), what)
		}
		require.ErrorAs(t, s.recvErr, new(*interceptor.Error), what)
	}
	won := 0
	for i, a := range s.tl.Attempts {
		assert.Equal(t, i+1, a.Number, what)
		assert.NotEqual(t, interceptor.AttemptRunning, a.Result, what)
		if a.Result == interceptor.AttemptWon {
			won++
		}
		if a.Number > 1 && !p.Hedge.Asked() && p.Idempotency == classify.IdempotencyUnknown && s.method != testsrv.Get {
			before := s.tl.Attempts[i-1]
			assert.True(t, before.Delivery == classify.DeliveryNotSent || before.Hint.Asks(), "may have been executed: %s", what)
		}
	}
	assert.Equal(t, won == 1, s.tl.Reason == interceptor.EndSucceeded, what)
}
