package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/retry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/rego-go/rego/examples/internal/openloop"
	"github.com/rego-go/rego/interceptor"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// client is one way to call the server.
type client struct {
	name string
	dial func() ([]grpc.DialOption, error)
	call func(context.Context, testv1.TestServiceClient) error
}

// The proto file says that Get is idempotent, and nothing of Pay.
var clients = []client{
	{"bare", none, get()},
	{"bare, WaitForReady", none, get(grpc.WaitForReady(true))},
	{"go-grpc-middleware, 5 attempts from 100 ms", middleware, get()},
	{"rego, default, idempotent", rego, get()},
	{"rego, default, idempotency unknown", rego, pay},
}

func none() ([]grpc.DialOption, error) { return nil, nil }

func middleware() ([]grpc.DialOption, error) {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(retry.UnaryClientInterceptor(
		retry.WithMax(5), retry.WithBackoff(retry.BackoffExponential(100*time.Millisecond))))}, nil
}

func rego() ([]grpc.DialOption, error) {
	it, err := interceptor.New()
	if err != nil {
		return nil, err
	}
	return it.DialOptions(), nil
}

func get(opts ...grpc.CallOption) func(context.Context, testv1.TestServiceClient) error {
	return func(ctx context.Context, c testv1.TestServiceClient) error {
		_, err := c.Get(ctx, &testv1.GetRequest{Id: "user-1"}, opts...)
		return err
	}
}

func pay(ctx context.Context, c testv1.TestServiceClient) error {
	_, err := c.Pay(ctx, &testv1.PayRequest{Id: "order-1"})
	return err
}

// measured is what an outage cost each client.
type measured struct {
	outage outage
	back   time.Time // when the server took connections again
	counts []*count
}

// count is what became of the calls of a client.
type count struct {
	client client
	conn   *grpc.ClientConn

	mu        sync.Mutex
	calls     int
	failed    int
	running   int
	inFlight  int  // when the server stopped
	gone      bool // the connection to it is
	stopped   time.Time
	lastBegan time.Time       // of the calls that failed
	late      []time.Duration // what calls took that failed later than 5.5 s after that
	dials     []time.Time
	mostDials int
}

const (
	deadline = 2 * time.Second
	before   = time.Second // that calls go on for before the server stops
	longAway = 5500 * time.Millisecond
)

// measure stops and starts a server under the load of all clients.
func measure(o outage, after time.Duration) (m measured, err error) {
	addr, err := freeAddress()
	if err != nil {
		return m, err
	}
	server, err := start(addr)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, server.stop(false)) }()
	m.outage = o
	for _, cl := range clients {
		c := &count{client: cl}
		if err := c.open(addr); err != nil {
			return m, err
		}
		defer c.conn.Close()
		m.counts = append(m.counts, c)
	}
	var load sync.WaitGroup
	for i, c := range m.counts {
		load.Go(func() {
			at := openloop.Poisson(rand.New(rand.NewPCG(uint64(i), 1)), o.rate, before+o.down+after)
			openloop.Offer(at, openloop.Sleep, func(int, time.Time) { c.call() })
		})
	}
	time.Sleep(before)
	for _, c := range m.counts {
		c.stops()
	}
	if err := server.stop(o.graceful); err != nil {
		return m, err
	}
	time.Sleep(o.down)
	server, err = start(addr)
	m.back = time.Now()
	load.Wait()
	for _, c := range m.counts {
		c.mostDials = c.dialsInASecond()
	}
	return m, err
}

func (c *count) open(addr string) error {
	opts, err := c.client.dial()
	if err != nil {
		return err
	}
	c.conn, err = grpc.NewClient(addr, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(c.dialled))...)
	if err != nil {
		return err
	}
	return c.client.call(context.Background(), testv1.NewTestServiceClient(c.conn)) // it is connected
}

func (c *count) dialled(ctx context.Context, addr string) (net.Conn, error) {
	c.mu.Lock()
	c.dials = append(c.dials, time.Now())
	c.mu.Unlock()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &watched{conn, c}, nil
}

// watched is a connection that tells when it is gone.
type watched struct {
	net.Conn
	count *count
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if err != nil {
		w.count.isGone()
	}
	return n, err
}

func (c *count) call() {
	c.mu.Lock()
	c.calls++
	c.running++
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	began := time.Now()
	err := c.client.call(ctx, testv1.NewTestServiceClient(c.conn))
	took := time.Since(began)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	if err == nil {
		return
	}
	c.failed++
	if began.After(c.lastBegan) {
		c.lastBegan = began
	}
	if !c.stopped.IsZero() && began.Sub(c.stopped) > longAway {
		c.late = append(c.late, took)
	}
}

// stops notes that the server is about to stop, and isGone that the client's connection is
// gone: all that began before that may have been in flight.
func (c *count) stops() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped, c.inFlight = time.Now(), c.running-c.calls
}

func (c *count) isGone() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopped.IsZero() && !c.gone {
		c.gone = true
		c.inFlight += c.calls
	}
}

// dialsInASecond returns the most dials within one second.
func (c *count) dialsInASecond() (most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, first := range c.dials {
		n, _ := slices.BinarySearchFunc(c.dials[i:], first.Add(time.Second), time.Time.Compare)
		most = max(most, n)
	}
	return most
}

// lateFailure returns the median of what calls took to fail when the server had been away for
// long.
func (c *count) lateFailure() (time.Duration, bool) {
	if len(c.late) == 0 {
		return 0, false
	}
	slices.Sort(c.late)
	return c.late[len(c.late)/2], true
}
