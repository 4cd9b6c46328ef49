package spread

import (
	"context"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/metadata"

	"github.com/rego-go/rego/internal/backends"
)

// inTurn is a child picker as cheap as round_robin's.
type inTurn struct {
	conns []balancer.SubConn
	next  atomic.Uint32
}

func (p *inTurn) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	return balancer.PickResult{SubConn: p.conns[p.next.Add(1)%uint32(len(p.conns))]}, nil
}

// one is the picker of a pick_first that is ready.
type one struct{ r balancer.PickResult }

func (p one) Pick(balancer.PickInfo) (balancer.PickResult, error) { return p.r, nil }

const benchTarget = "dns:///backends:443"

// asGRPC is what grpc makes of the context of a call: it can be cancelled, and has values.
func asGRPC(ctx context.Context) balancer.PickInfo {
	ctx, cancel := context.WithCancel(ctx)
	_ = cancel
	type rpcInfo struct{}
	return balancer.PickInfo{FullMethodName: "/pkg.Service/Method", Ctx: context.WithValue(ctx, rpcInfo{}, 1)}
}

func withMetadata() context.Context {
	return metadata.NewOutgoingContext(context.Background(), metadata.Pairs("key", "value"))
}

// forAttempt is a pick for a second attempt, whose call has used a backend if there is one.
func forAttempt(used string) (balancer.PickInfo, *backends.Attempt) {
	c := backends.NewCall(benchTarget)
	if used != "" {
		backends.From(c.Attempt(context.Background(), 1), benchTarget).Take(used)
	}
	info := asGRPC(c.Attempt(withMetadata(), 2))
	return info, backends.From(info.Ctx, benchTarget)
}

// BenchmarkPick is what the policies add to the pick of round_robin, which is "child".
func BenchmarkPick(b *testing.B) {
	names := []string{"10.0.0.1:443", "10.0.0.2:443", "10.0.0.3:443"}
	plain, wrapped, ready := new(inTurn), new(inTurn), new(turns)
	for _, name := range names {
		sc := &subConn{SubConn: new(fakeConn), backend: name}
		plain.conns, wrapped.conns = append(plain.conns, sc.SubConn), append(wrapped.conns, sc)
		ready.ready = append(ready.ready, member{one{balancer.PickResult{SubConn: sc.SubConn}}, name})
	}
	spreads := &picker{child: wrapped, target: benchTarget, known: new(atomic.Pointer[map[string]bool])}
	spreads.known.Store(&map[string]bool{names[0]: true, names[1]: true, names[2]: true})
	ready.target = benchTarget

	noList := asGRPC(withMetadata())
	first, firstAttempt := forAttempt("")
	second, secondAttempt := forAttempt(names[0])
	for name, p := range map[string]balancer.Picker{"child": plain, Name: spreads, RoundRobin: ready} {
		b.Run(name+"/no list", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = p.Pick(noList)
			}
		})
		b.Run(name+"/list", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				firstAttempt.Forget()
				_, _ = p.Pick(first)
			}
		})
		b.Run(name+"/one more pick", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				secondAttempt.Forget()
				wrapped.next.Store(2)
				ready.next.Store(2)
				_, _ = p.Pick(second)
			}
		})
	}
}

type fakeConn struct{ balancer.SubConn }
