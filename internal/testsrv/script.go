package testsrv

import (
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
)

// A Step is what one attempt does: a single operation, or several put together
// with [Do]. Some operations end the attempt (OK, Reply, Echo, Fail, Hang,
// KillConn); after any other one the next follows, and OK after the last. An
// operation that waits ends the attempt when its context is done. A step may
// serve many attempts at once. A nil Step is [Echo].
type Step func(*attempt) (done bool, err error)

// Script sets what arriving attempts of the method do from now on: the first
// executes the first step, the n-th the n-th, and the last step repeats.
// Without steps, as without a script, attempts execute [Echo].
func (s *Server) Script(method string, steps ...Step) {
	m := s.method(method)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.steps, m.next, m.handle = steps, 0, nil
}

// Handle lets f choose the step of every attempt of the method from now on,
// instead of a script. f is called on the attempt's goroutine, concurrently for
// concurrent attempts, and Close waits for it. A panic in f is not recovered.
func (s *Server) Handle(method string, f func(Arrival) Step) {
	m := s.method(method)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.steps, m.next, m.handle = nil, 0, f
}

// Do executes the operations one after the other, until one ends the attempt.
func Do(ops ...Step) Step {
	return func(a *attempt) (bool, error) {
		for _, op := range ops {
			if done, err := a.do(op); done || err != nil {
				return true, err
			}
		}
		return false, nil
	}
}

// OK ends the attempt well. Where the server answers once, the answer echoes
// what was received so far (of several messages: the first id and all
// payloads). A stream to the client just ends.
func OK() Step {
	return func(*attempt) (bool, error) { return true, nil }
}

// Reply is [OK] with msg as the answer or, on a stream to the client, as the
// last message. If msg has no attempt number, the arrival's is put in.
func Reply(msg proto.Message) Step {
	// A script's message may serve many attempts, so each sends a copy.
	return func(a *attempt) (bool, error) { return true, a.send(proto.Clone(msg)) }
}

// Echo reads what there is to read and answers everything, as an unscripted
// method does: the unary methods reply, Watch sends one message, Upload reads
// to the end and replies, Chat answers message by message until the client is
// done.
func Echo() Step {
	return func(a *attempt) (bool, error) { return true, a.echoAll() }
}

// Fail ends the attempt with a status. With code OK it is [OK].
func Fail(code codes.Code, text string, details ...proto.Message) Step {
	st := status.New(code, text)
	if len(details) > 0 {
		v1 := make([]protoadapt.MessageV1, len(details))
		for i, d := range details {
			v1[i] = protoadapt.MessageV1Of(d)
		}
		with, err := st.WithDetails(v1...)
		if err != nil {
			with = status.Newf(codes.Internal, "testsrv: details: %v", err)
		}
		st = with
	}
	return func(*attempt) (bool, error) { return true, st.Err() }
}

// Pushback sets the grpc-retry-pushback-ms trailer (gRFC A6), once per value.
func Pushback(values ...string) Step {
	return Trailer(metadata.MD{"grpc-retry-pushback-ms": values})
}

// Header adds to the header. It goes out with the first message or, if there is
// none, before the status.
func Header(md metadata.MD) Step {
	return func(a *attempt) (bool, error) { return false, grpc.SetHeader(a.ctx, md) }
}

// SendHeader adds to the header and sends it now, even if md is empty.
func SendHeader(md metadata.MD) Step {
	return func(a *attempt) (bool, error) { return false, grpc.SendHeader(a.ctx, md) }
}

// Trailer adds to the trailer.
func Trailer(md metadata.MD) Step {
	return func(a *attempt) (bool, error) { return false, grpc.SetTrailer(a.ctx, md) }
}

// Delay waits for d.
func Delay(d time.Duration) Step {
	return func(a *attempt) (bool, error) { return false, sleep(a.ctx, d) }
}

// Wait waits until ch is closed, or something is received from it.
func Wait(ch <-chan struct{}) Step {
	return func(a *attempt) (bool, error) {
		select {
		case <-ch:
			return false, nil
		case <-a.ctx.Done():
			return true, contextError(a.ctx)
		}
	}
}

// Hang waits until the context is done: the client cancels, its deadline
// passes, the connection is lost or the server closes.
func Hang() Step {
	return func(a *attempt) (bool, error) {
		<-a.ctx.Done()
		return true, contextError(a.ctx)
	}
}

// KillConn closes the attempt's connection without a word, and with it every
// call on that connection. Over TCP the client's socket is reset; gRPC reports
// that as "connection reset by peer", "broken pipe" or "EOF", always as
// UNAVAILABLE. What was sent just before may get lost too: put a [Delay] between
// where the client is to have it.
func KillConn() Step {
	return func(a *attempt) (bool, error) {
		a.srv.net.kill(a.arrival.Peer)
		// The status goes nowhere; waiting makes sure of that.
		<-a.ctx.Done()
		return true, status.Error(codes.Unavailable, "testsrv: connection killed")
	}
}

// Send sends n messages to the client of Watch or Chat. Each echoes the last
// message received and carries its place in the stream.
func Send(n int) Step {
	return func(a *attempt) (bool, error) {
		for range n {
			if err := a.stream("Send"); err != nil {
				return true, err
			}
			if err := a.send(a.echo()); err != nil {
				return true, err
			}
		}
		return false, nil
	}
}

// SendMsg sends msg to the client of Watch or Chat. If it has no attempt
// number, the arrival's is put in.
func SendMsg(msg proto.Message) Step {
	return func(a *attempt) (bool, error) {
		if err := a.stream("SendMsg"); err != nil {
			return true, err
		}
		return false, a.send(proto.Clone(msg))
	}
}

// Recv reads n messages from the client of Upload or Chat. A client that ends
// its stream earlier fails with INVALID_ARGUMENT.
func Recv(n int) Step {
	return func(a *attempt) (bool, error) {
		for i := range n {
			more, err := a.recv()
			if err != nil {
				return true, err
			}
			if !more {
				return true, status.Errorf(codes.InvalidArgument, "testsrv: client closed after %d of %d messages", i, n)
			}
		}
		return false, nil
	}
}

// RecvAll reads from the client of Upload or Chat until it closes its side.
func RecvAll() Step {
	return func(a *attempt) (bool, error) {
		for {
			more, err := a.recv()
			if err != nil || !more {
				return err != nil, err
			}
		}
	}
}

// misuse is the status of an operation the method has no place for: the script
// is wrong, not the client.
func misuse(format string, args ...any) error {
	return status.Error(codes.Internal, "testsrv: "+fmt.Sprintf(format, args...))
}
