package twin

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// errOfMeddler is what tells the errors of interceptors from others.
var errOfMeddler = errors.New("meddled")

// meddler is an interceptor at work.
type meddler struct {
	Meddler
	below bool // rego

	mu    sync.Mutex
	calls map[callID]int
}

func newMeddlers(ms []Meddler, below bool) []*meddler {
	var made []*meddler
	for _, m := range ms {
		made = append(made, &meddler{Meddler: m, below: below, calls: make(map[callID]int)})
	}
	return made
}

// meddles reports whether it does something about this invocation or, below rego, about
// this attempt.
func (m *meddler) meddles(ctx context.Context) bool {
	if m.below {
		return m.Nth == 0 || m.Nth == attemptOf(ctx)
	}
	id, _ := ctx.Value(callKey{}).(callID)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls[id]++
	return m.Nth == 0 || m.Nth == m.calls[id]
}

func refused() error { return status.Error(codes.ResourceExhausted, "the limiter says no") }

func (m *meddler) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if !m.meddles(ctx) {
		return invoker(ctx, method, req, reply, cc, opts...)
	}
	next := func() error { return invoker(ctx, method, req, reply, cc, opts...) }
	switch m.Do {
	case Wrap:
		ctx = metadata.AppendToOutgoingContext(ctx, "wrapped", "yes")
		return wrapped(next())
	case DropOptions:
		return invoker(ctx, method, req, reply, cc)
	case Refuse:
		return refused()
	case FailRaw:
		return fmt.Errorf("timeout of %w: %w", errOfMeddler, context.DeadlineExceeded)
	case Answer:
		for _, o := range opts {
			if h, ok := o.(grpc.HeaderCallOption); ok {
				*h.HeaderAddr = metadata.Pairs("which", "the cache")
			}
		}
		setText(reply, "from the cache", 0)
		return nil
	case ReturnEarly:
		return m.returnEarly(ctx, next)
	case Again:
		if err := next(); err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(1234567) // so that nothing of the first is left
		return next()
	case FailSend, FailRecv:
	}
	return next()
}

func wrapped(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errOfMeddler, err)
}

func (m *meddler) returnEarly(ctx context.Context, next func() error) error {
	done := make(chan error, 1)
	go func() { // ends with the call, at the latest with the program
		defer func() {
			if p := recover(); p != nil {
				done <- status.Errorf(codes.Internal, "panic: %v", p)
			}
		}()
		done <- next()
	}()
	early := time.NewTimer(m.After)
	defer early.Stop()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return <-done
	case <-early.C:
		return status.Error(codes.DeadlineExceeded, "returned early")
	}
}

func (m *meddler) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if !m.meddles(ctx) {
		return streamer(ctx, desc, cc, method, opts...)
	}
	switch m.Do {
	case Wrap:
		ctx = metadata.AppendToOutgoingContext(ctx, "wrapped", "yes")
		cs, err := streamer(ctx, desc, cc, method, opts...)
		if err != nil {
			return nil, wrapped(err)
		}
		return &meddledStream{ClientStream: cs}, nil
	case DropOptions:
		return streamer(ctx, desc, cc, method)
	case Refuse:
		return nil, refused()
	case FailRaw:
		return nil, fmt.Errorf("timeout of %w: %w", errOfMeddler, context.DeadlineExceeded)
	case FailSend, FailRecv:
		cs, err := streamer(ctx, desc, cc, method, opts...)
		if err != nil {
			return nil, err
		}
		return &meddledStream{ClientStream: cs, failSend: m.Do == FailSend, failRecv: m.Do == FailRecv}, nil
	case Answer, ReturnEarly, Again:
	}
	return streamer(ctx, desc, cc, method, opts...)
}

// meddledStream is a stream with one more layer, which may fail the second message.
type meddledStream struct {
	grpc.ClientStream
	failSend, failRecv bool
	sent, received     int
}

func (s *meddledStream) SendMsg(m any) error {
	if s.sent++; s.failSend && s.sent == 2 {
		return status.Error(codes.InvalidArgument, "not valid")
	}
	return s.ClientStream.SendMsg(m)
}

func (s *meddledStream) RecvMsg(m any) error {
	if s.received++; s.failRecv && s.received == 2 {
		return status.Error(codes.DataLoss, "not valid")
	}
	return s.ClientStream.RecvMsg(m)
}
