package etcdtest

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
)

// gate is open or shut. What is on its way waits while it is shut, as packets do that are
// sent again and again.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // closed while the gate is open
}

func newGate() *gate {
	g := &gate{open: make(chan struct{})}
	close(g.open)
	return g
}

func (g *gate) set(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
		if !open {
			g.open = make(chan struct{})
		}
	default:
		if open {
			close(g.open)
		}
	}
}

// wait returns when the gate is open, or done is closed.
func (g *gate) wait(done <-chan struct{}) error {
	for {
		g.mu.Lock()
		open := g.open
		g.mu.Unlock()
		select {
		case <-open:
			return nil
		case <-done:
			return net.ErrClosed
		}
	}
}

// gated is a connection whose bytes pass gates, both ways.
type gated struct {
	net.Conn
	gates  []*gate
	once   sync.Once
	closed chan struct{}
}

func newGated(c net.Conn, gates ...*gate) *gated {
	return &gated{Conn: c, gates: gates, closed: make(chan struct{})}
}

func (c *gated) wait() error {
	for _, g := range c.gates {
		if err := g.wait(c.closed); err != nil {
			return err
		}
	}
	return nil
}

func (c *gated) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if gateErr := c.wait(); gateErr != nil {
		return 0, gateErr
	}
	return n, err
}

func (c *gated) Write(p []byte) (int, error) {
	if err := c.wait(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *gated) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// address is where a member listens; it has another each time that it is started.
type address struct {
	mu    sync.Mutex
	value string // empty while the member is down
}

func (a *address) set(value string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.value = value
}

func (a *address) get() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.value
}

func (a *address) dial(ctx context.Context) (net.Conn, error) {
	to := a.get()
	if to == "" {
		return nil, errors.New("etcdtest: the member is down")
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", to)
}

// front is a TCP proxy before a member: the address that clients have of it.
type front struct {
	listener net.Listener
	to       *address
	gate     *gate
	copies   sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
}

func newFront(to *address) (*front, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f := &front{listener: l, to: to, gate: newGate(), conns: make(map[net.Conn]struct{})}
	f.copies.Go(f.serve)
	return f, nil
}

// serve returns when the listener is closed.
func (f *front) serve() {
	for {
		in, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.copies.Go(func() { f.pass(in) })
	}
}

func (f *front) pass(in net.Conn) {
	defer in.Close() //nolint:errcheck // it is over
	plain, err := f.to.dial(context.Background())
	if err != nil {
		return
	}
	out := newGated(plain, f.gate)
	if !f.keep(in, out) {
		return
	}
	defer f.drop(in, out)
	f.copies.Go(func() {
		_, _ = io.Copy(out, in)
		_, _ = in.Close(), out.Close()
	})
	_, _ = io.Copy(in, out)
}

// keep has connections closed with the front, or at once if that is closed.
func (f *front) keep(conns ...net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range conns {
		if f.closed {
			_ = c.Close()
			continue
		}
		f.conns[c] = struct{}{}
	}
	return !f.closed
}

func (f *front) drop(conns ...net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
		delete(f.conns, c)
	}
}

func (f *front) close() {
	_ = f.listener.Close()
	f.mu.Lock()
	f.closed = true
	for c := range f.conns {
		_ = c.Close()
	}
	f.mu.Unlock()
	f.copies.Wait()
}

// way is the HTTP proxy that all requests of one member to the others go through. So each pair
// of members has connections of its own, which is what a partition needs.
type way struct {
	server    *http.Server
	transport *http.Transport
	url       string
}

// newWay dials the host of a request, which is a name that only dial knows.
func newWay(dial func(ctx context.Context, host string) (net.Conn, error)) (*way, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &way{url: "http://" + l.Addr().String()}
	w.transport = &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		return dial(ctx, host)
	}}
	quiet := log.New(io.Discard, "", 0) // members come and go
	w.server = &http.Server{ErrorLog: quiet, Handler: &httputil.ReverseProxy{
		Rewrite:       func(*httputil.ProxyRequest) {}, // a request to a proxy says where it goes
		Transport:     w.transport,
		FlushInterval: -1,
		ErrorLog:      quiet,
	}}
	go func() { _ = w.server.Serve(l) }() // until close
	return w, nil
}

func (w *way) close() {
	_ = w.server.Close()
	w.transport.CloseIdleConnections()
}
