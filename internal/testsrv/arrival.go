package testsrv

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// An Arrival is what the server knows of one attempt. The messages are shared
// with the server and must not be changed; everything else is a copy.
type Arrival struct {
	Method   string
	Attempt  int         // 1 for the first arrival of this method on this server
	Previous int         // grpc-previous-rpc-attempts; 0 without it
	Metadata metadata.MD // all that the client sent
	Peer     string      // the client's address, unique per connection
	Time     time.Time   // when the handler began
	Deadline time.Time   // the deadline the client sent along; zero without one

	// Received are the request messages read so far. For Watch and the unary
	// methods it is the one request, from the start.
	Received []proto.Message
	// HalfClosed says that the server has read the end of the client's stream.
	// It stays false where there is none to read: Watch and unary methods.
	HalfClosed bool

	// Ended is when the handler ended; zero while it runs.
	Ended time.Time
	// Status is what the handler returned; nil while it runs. If Cancelled, the
	// client did not get it.
	Status *status.Status
	// Cancelled says that the context was done when the handler ended: the
	// client cancelled, its deadline passed, or the connection was lost.
	Cancelled bool
}

// Request is the first message received, nil if none has been read.
func (a Arrival) Request() proto.Message {
	if len(a.Received) == 0 {
		return nil
	}
	return a.Received[0]
}

// Arrivals returns the attempts of the method so far, in the order in which
// they arrived. A handler may still run for a moment after its client has
// returned: wait with synctest.Wait or [Server.Close] before looking at how
// attempts ended.
func (s *Server) Arrivals(method string) []Arrival {
	m := s.method(method)
	m.mu.Lock()
	defer m.mu.Unlock()
	arrivals := make([]Arrival, len(m.arrivals))
	for i, a := range m.arrivals {
		arrivals[i] = a.copy()
	}
	return arrivals
}

// Count is the number of attempts of the method that arrived so far, recorded
// or not.
func (s *Server) Count(method string) int {
	m := s.method(method)
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.count
}

func (a Arrival) copy() Arrival {
	a.Metadata = a.Metadata.Copy()
	a.Received = slices.Clone(a.Received)
	return a
}

// method is what the server keeps per method: the script and the arrivals.
type method struct {
	mu       sync.Mutex
	count    int
	steps    []Step
	next     int                // the step of the next attempt
	handle   func(Arrival) Step // instead of steps
	arrivals []*Arrival         // written only by their own attempts, with mu held
}

func (s *Server) method(name string) *method {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.methods[name]
	if !ok {
		m = &method{}
		s.methods[name] = m
	}
	return m
}

// arrive notes an attempt and returns what it is to do. req is nil where the
// client streams.
func (m *method) arrive(ctx context.Context, name string, req proto.Message, record bool) (*Arrival, Step) {
	a := &Arrival{Method: name, Time: time.Now()}
	a.Metadata, _ = metadata.FromIncomingContext(ctx)
	if v := a.Metadata.Get("grpc-previous-rpc-attempts"); len(v) > 0 {
		a.Previous, _ = strconv.Atoi(v[0])
	}
	if p, ok := peer.FromContext(ctx); ok {
		a.Peer = p.Addr.String()
	}
	a.Deadline, _ = ctx.Deadline()
	if req != nil {
		a.Received = []proto.Message{req}
	}

	step, handle := m.add(a, record)
	if handle != nil {
		// Outside the lock, so that a handler may wait and may ask the server.
		return a, handle(a.copy())
	}
	return a, step
}

func (m *method) add(a *Arrival, record bool) (Step, func(Arrival) Step) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count++
	a.Attempt = m.count
	if record {
		m.arrivals = append(m.arrivals, a)
	}
	if len(m.steps) == 0 {
		return nil, m.handle
	}
	step := m.steps[min(m.next, len(m.steps)-1)]
	m.next++
	return step, nil
}

func (m *method) received(a *Arrival, msg proto.Message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a.Received = append(a.Received, msg)
}

func (m *method) halfClosed(a *Arrival) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a.HalfClosed = true
}

func (m *method) ended(ctx context.Context, a *Arrival, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a.Ended = time.Now()
	a.Status = status.Convert(err)
	a.Cancelled = ctx.Err() != nil
}
