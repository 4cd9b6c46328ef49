package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// proxy is between clients and the control plane, which it can change, and cut off.
type proxy struct {
	listener net.Listener

	mu     sync.Mutex
	target string
	cut    bool // what is sent gets lost, but connections stay
	conns  map[net.Conn]bool
}

func newProxy(t *testing.T) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{listener: l, conns: make(map[net.Conn]bool)}
	go p.serve() // until the listener is closed
	t.Cleanup(func() {
		assert.NoError(t, l.Close())
		p.to("")
	})
	return p
}

// to sends connections elsewhere, and closes those that there are.
func (p *proxy) to(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

func (p *proxy) partition(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
}

func (p *proxy) serve() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		far, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = near.Close()
			p.mu.Unlock()
			continue
		}
		p.conns[near], p.conns[far] = true, true
		p.mu.Unlock()
		go p.pass(near, far)
		go p.pass(far, near)
	}
}

// pass hands on what from sends, until either end is closed.
func (p *proxy) pass(from, to net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		cut := p.cut
		p.mu.Unlock()
		if cut {
			_, _ = io.Copy(io.Discard, from) // what was lost once cannot come later
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// liar is a control plane that serves what a test wants it to.
type liar struct {
	regov1.UnimplementedPolicyDiscoveryServiceServer
	lie

	mu    sync.Mutex
	heard map[string]bool // instances of clients that have refused or left
}

func (l *liar) StreamPolicies(s regov1.PolicyDiscoveryService_StreamPoliciesServer) error {
	hello, err := s.Recv()
	if err != nil {
		return err
	}
	if l.silent {
		l.hear(hello)
	}
	go func() { // until the stream ends
		for {
			r, err := s.Recv()
			if err != nil || len(r.GetFaults()) > 0 {
				l.hear(hello)
			}
			if err != nil {
				return
			}
		}
	}()
	return l.serve(s)
}

func (l *liar) hear(hello *regov1.StreamPoliciesRequest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard[hello.GetNode().GetInstance()] = true
}

// byAll reports whether all clients have heard the lie.
func (l *liar) byAll() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.heard) == clients
}

// startLiar starts one that has the certificate of the control plane: somebody has taken it over.
func startLiar(t *testing.T, certs string, what lie) (l *liar, address string) {
	t.Helper()
	own, trusted, err := identity(certs, "server")
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l = &liar{lie: what, heard: make(map[string]bool)}
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{own}, ClientCAs: trusted, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	})))
	regov1.RegisterPolicyDiscoveryServiceServer(g, l)
	go func() { _ = g.Serve(listener) }() // until Stop
	t.Cleanup(g.Stop)
	return l, listener.Addr().String()
}

type lie struct {
	name   string
	silent bool // nothing is to be heard
	serve  func(regov1.PolicyDiscoveryService_StreamPoliciesServer) error
}

// says is a lie in one message.
func says(name string, m *regov1.Set) lie {
	return lie{name, false, func(s regov1.PolicyDiscoveryService_StreamPoliciesServer) error {
		if err := s.Send(&regov1.StreamPoliciesResponse{Set: m, Nonce: "x"}); err != nil {
			return err
		}
		<-s.Context().Done()
		return nil
	}}
}

// others are the last lies, which are more than a message.
const others = 3

// lies are the kinds of bad input that a control plane can send.
func lies() []lie {
	rule := func(p *regov1.Policy) *regov1.Set {
		return &regov1.Set{Version: "lie", Rules: []*regov1.Rule{{Methods: []string{"*"}, Policy: p}}}
	}
	future := rule(nil)
	future.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
	backoff := func(m float64) *regov1.Set {
		return rule(&regov1.Policy{Retry: &regov1.Retry{Backoff: &regov1.Backoff{Multiplier: m}}})
	}
	overlapping := rule(nil)
	overlapping.Rules = append(overlapping.Rules, overlapping.GetRules()[0])
	many := rule(nil)
	for range policy.MaxRules {
		many.Rules = append(many.Rules, many.GetRules()[0])
	}
	return []lie{
		says("unknown field", future),
		says("negative duration", rule(&regov1.Policy{Timeout: durationpb.New(-time.Second)})),
		says("huge duration", rule(&regov1.Policy{Timeout: &durationpb.Duration{Seconds: math.MaxInt64}})),
		says("NaN", backoff(math.NaN())),
		says("infinite multiplier", backoff(math.Inf(1))),
		says("overlapping rules", overlapping),
		says("too many rules", many),
		says("more than the clients allow", rule(&regov1.Policy{Retry: &regov1.Retry{MaxAttempts: 99}})),
		says("a budget that nobody has", rule(&regov1.Policy{Budget: "none-such"})),
		says("a version that goes backwards", &regov1.Set{Version: "lie", Revision: 1}),
		says("a message that is too large", &regov1.Set{Version: strings.Repeat("x", policy.MaxSize)}),
		says("no set", nil),
		{"an endless stream of updates", false, func(s regov1.PolicyDiscoveryService_StreamPoliciesServer) error {
			for i := 0; ; i++ {
				bad := rule(&regov1.Policy{Retry: &regov1.Retry{MaxAttempts: -1}})
				if err := s.Send(&regov1.StreamPoliciesResponse{Set: bad, Nonce: fmt.Sprint(i)}); err != nil {
					return err
				}
			}
		}},
		{"accepts and never answers", true, func(s regov1.PolicyDiscoveryService_StreamPoliciesServer) error {
			<-s.Context().Done()
			return nil
		}},
		{"fails", false, func(regov1.PolicyDiscoveryService_StreamPoliciesServer) error {
			return status.Error(codes.PermissionDenied, "no")
		}},
	}
}

const shop = `
  policy:
    name: shop
    timeout: %s
    retry: {max_attempts: 4}
    hedge: {max_extra_load: 0.05}`

// TestChaos does to the control plane what can happen to one, while clients call a
// backend all the time: no call fails, none takes longer than its two seconds, and the
// last good policies stay in force, until the control plane is good again. With -long it tells
// every lie.
func TestChaos(t *testing.T) {
	t.Parallel()
	s := &stage{out: t.Output(), rego: command(t)}
	defer s.close()
	require.NoError(t, s.open(false))
	p := newProxy(t)
	control := s.control()
	p.to(control)
	anew := func() { // all clients, through the proxy, with nothing but their snapshots
		s.via = p.listener.Addr().String()
		for i, c := range s.clients {
			s.count(c)
			c.kill()
			require.NoError(t, s.startClient(i))
		}
	}
	anew()

	n := 0
	good := func(what string) { // the control plane is good: clients follow it
		n++
		version := fmt.Sprint("good", n)
		require.NoError(t, s.write(version+"\nrevision: "+fmt.Sprint(100+n), fmt.Sprintf(shop, fmt.Sprint(10+n, "s"))))
		took, err := s.all(version)
		require.NoError(t, err, "after %s", what)
		t.Logf("%-36s in force again after %v", what, took.Round(10*time.Millisecond))
	}
	calls := func() { require.NoError(t, settle(s.clients)) }
	holds := func(what string) { // the last good policies are in force
		for _, c := range s.clients {
			assert.Equal(t, fmt.Sprint("good", n), c.last().Policies, "%s: %s", what, c.name)
		}
	}

	good("the start")
	s.replicas[0].killReplica()
	calls()
	holds("killed")
	require.NoError(t, s.startReplicas())
	good("killed and restarted")

	require.NoError(t, s.replicas[0].cmd.Process.Signal(syscall.SIGSTOP))
	calls()
	holds("paused")
	require.NoError(t, s.replicas[0].cmd.Process.Signal(syscall.SIGCONT))
	good("paused")

	p.partition(true)
	calls()
	holds("partitioned")
	p.partition(false)
	p.to(control) // the connections did not survive
	good("partitioned")

	told := lies()
	if !*long { // one that is a message, and the others
		told = slices.Concat(told[:1], told[len(told)-others:])
	}
	for _, lie := range told {
		// A client that has lost its control plane waits up to 30 s before it connects again, one
		// that has just been started 2 s.
		p.to(control)
		anew()
		good("they were started again")
		l, address := startLiar(t, s.dir, lie)
		p.to(address)
		took, err := await("all have heard it", l.byAll)
		require.NoError(t, err, lie.name)
		t.Logf("%-36s heard by all after %v", lie.name, took.Round(10*time.Millisecond))
		calls()
		holds(lie.name)
	}
	p.to(control)
	good("all lies")

	s.replicas[0].killReplica()
	anew()
	calls()
	holds("restarted without a control plane")
	for _, c := range s.clients {
		assert.Equal(t, "stale", c.last().State)
		assert.Equal(t, "snapshot", c.last().Source)
	}
	require.NoError(t, s.startReplicas())
	good("restarted without a control plane")
	require.NoError(t, s.sum())
}
