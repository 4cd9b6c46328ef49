package testsrv

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"
)

// network is the server's side of the wire: where it listens, and which
// connections it has. A connection is known by its remote address, because
// that is what a handler learns of it (through peer).
type network struct {
	grpc    *grpc.Server
	addr    net.Addr          // the address clients see
	memory  *bufconn.Listener // nil over TCP
	serving sync.WaitGroup    // goroutines in grpc.Server.Serve

	mu       sync.Mutex
	tcp      net.Listener // nil while refusing, and in memory
	refusing bool
	closed   bool
	accepted int
	conns    map[string]*conn
}

func newNetwork(g *grpc.Server, hostname string) *network {
	return &network{grpc: g, addr: memoryAddr(hostname), conns: make(map[string]*conn)}
}

// listenMemory serves in memory. The buffer is above HTTP/2's initial window,
// so that flow control, not the pipe, is what makes a sender wait.
func (n *network) listenMemory() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.memory = bufconn.Listen(256 << 10)
	n.serveLocked(n.memory)
}

func (n *network) listenTCP(addr string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	n.tcp, n.addr = l, l.Addr()
	n.serveLocked(l)
	return nil
}

// serveLocked starts a goroutine that ends when l is closed.
func (n *network) serveLocked(l net.Listener) {
	n.serving.Go(func() {
		// Serve returns when its listener is closed, which only Refuse and
		// Close do: its error says nothing more.
		_ = n.grpc.Serve(&listener{Listener: l, net: n})
	})
}

func (n *network) refuse(refuse bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return errors.New("testsrv: server closed")
	}
	if refuse == n.refusing {
		return nil
	}
	switch {
	case n.memory != nil:
	case refuse:
		if err := n.tcp.Close(); err != nil {
			return err
		}
		n.tcp = nil
	default:
		l, err := net.Listen("tcp", n.addr.String())
		if err != nil {
			return fmt.Errorf("testsrv: listen again: %w", err)
		}
		n.tcp = l
		n.serveLocked(l)
	}
	n.refusing = refuse
	return nil
}

func (n *network) dial(ctx context.Context) (net.Conn, error) {
	if n.memory == nil {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", n.addr.String())
	}
	n.mu.Lock()
	refusing := n.refusing || n.closed
	n.mu.Unlock()
	if refusing {
		return nil, &net.OpError{Op: "dial", Net: n.addr.Network(), Addr: n.addr, Err: syscall.ECONNREFUSED}
	}
	c, err := n.memory.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	return &memoryConn{Conn: c, remote: n.addr}, nil
}

func (n *network) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
}

func (n *network) add(c net.Conn) net.Conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.accepted++
	if n.memory != nil {
		c = &memoryConn{Conn: c, remote: memoryAddr(fmt.Sprintf("client-%d", n.accepted))}
	}
	tracked := &conn{Conn: c, net: n}
	n.conns[tracked.key()] = tracked
	return tracked
}

// kill cuts the connection from the given address, if it is still there.
func (n *network) kill(remote string) {
	n.mu.Lock()
	c := n.conns[remote]
	n.mu.Unlock()
	if c != nil {
		c.kill()
	}
}

func (n *network) killAll() {
	n.mu.Lock()
	conns := slices.Collect(maps.Values(n.conns))
	n.mu.Unlock()
	for _, c := range conns {
		c.kill()
	}
}

// listener adds what it accepts to the network's connections.
type listener struct {
	net.Listener
	net *network
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.net.add(c), nil
}

// conn is an accepted connection; it leaves the network's table when closed.
type conn struct {
	net.Conn
	net *network
}

func (c *conn) key() string { return c.RemoteAddr().String() }

func (c *conn) Close() error {
	c.net.mu.Lock()
	if c.net.conns[c.key()] == c {
		delete(c.net.conns, c.key())
	}
	c.net.mu.Unlock()
	return c.Conn.Close()
}

// kill closes the connection as a crash would: over TCP without lingering, so
// that the kernel sends a reset and drops what it has.
func (c *conn) kill() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// memoryConn gives an in-memory connection an address of its own.
type memoryConn struct {
	net.Conn
	remote net.Addr
}

func (c *memoryConn) RemoteAddr() net.Addr { return c.remote }

type memoryAddr string

func (memoryAddr) Network() string  { return "memory" }
func (a memoryAddr) String() string { return string(a) }
