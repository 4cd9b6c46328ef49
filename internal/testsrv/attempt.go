package testsrv

import (
	"context"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// attempt is an arriving attempt while its handler runs.
type attempt struct {
	ctx     context.Context
	srv     *Server
	method  *method
	arrival *Arrival

	request  proto.Message     // empty, the type of what the client streams; nil if it does not
	response proto.Message     // empty, the type of the answers
	ss       grpc.ServerStream // nil if the call is unary
	sends    bool              // the server streams

	reply proto.Message // the one answer, where the server does not stream
	sent  int           // messages sent, where it does
}

// service puts every method of TestService through one attempt.
type service struct {
	testv1.UnimplementedTestServiceServer
	srv *Server
}

func (s service) Get(ctx context.Context, req *testv1.GetRequest) (*testv1.GetResponse, error) {
	return unary(ctx, s.srv, Get, req, &testv1.GetResponse{})
}

func (s service) Put(ctx context.Context, req *testv1.PutRequest) (*testv1.PutResponse, error) {
	return unary(ctx, s.srv, Put, req, &testv1.PutResponse{})
}

func (s service) Pay(ctx context.Context, req *testv1.PayRequest) (*testv1.PayResponse, error) {
	return unary(ctx, s.srv, Pay, req, &testv1.PayResponse{})
}

func (s service) Watch(req *testv1.WatchRequest, ss grpc.ServerStreamingServer[testv1.WatchResponse]) error {
	a := &attempt{ctx: ss.Context(), srv: s.srv, response: &testv1.WatchResponse{}, ss: ss, sends: true}
	return a.run(Watch, req)
}

func (s service) Upload(ss grpc.ClientStreamingServer[testv1.UploadRequest, testv1.UploadResponse]) error {
	a := &attempt{
		ctx: ss.Context(), srv: s.srv, ss: ss,
		request: &testv1.UploadRequest{}, response: &testv1.UploadResponse{},
	}
	return a.run(Upload, nil)
}

func (s service) Chat(ss grpc.BidiStreamingServer[testv1.ChatRequest, testv1.ChatResponse]) error {
	a := &attempt{
		ctx: ss.Context(), srv: s.srv, ss: ss, sends: true,
		request: &testv1.ChatRequest{}, response: &testv1.ChatResponse{},
	}
	return a.run(Chat, nil)
}

func unary[Res proto.Message](ctx context.Context, s *Server, method string, req proto.Message, res Res) (Res, error) {
	var none Res
	a := &attempt{ctx: ctx, srv: s, response: res}
	if err := a.run(method, req); err != nil {
		return none, err
	}
	return a.reply.(Res), nil
}

// run serves the attempt: arrival, workers, rpc-behavior, script. If it returns
// nil and the server does not stream, there is a reply.
func (a *attempt) run(name string, req proto.Message) (err error) {
	a.method = a.srv.method(name)
	arrival, step := a.method.arrive(a.ctx, name, req, a.srv.record)
	a.arrival = arrival
	defer func() { a.method.ended(a.ctx, arrival, err) }()

	if err := a.srv.workers.work(a.ctx); err != nil {
		return err
	}
	if _, err := a.do(Do((*attempt).behave, step)); err != nil {
		return err
	}
	return a.answer()
}

func (a *attempt) do(op Step) (bool, error) {
	if op == nil {
		op = Echo()
	}
	return op(a)
}

// echo is the default answer: the fields of the last message, or, where the
// server answers once, those of the first with the payloads of all.
func (a *attempt) echo() proto.Message {
	m := a.response.ProtoReflect().New()
	received := a.arrival.Received
	if len(received) == 0 {
		return m.Interface()
	}
	if a.sends {
		copyFields(m, received[len(received)-1].ProtoReflect())
		return m.Interface()
	}
	var payload []byte
	for _, r := range received {
		payload = append(payload, r.(interface{ GetPayload() []byte }).GetPayload()...)
	}
	setField(m, "payload", protoreflect.ValueOfBytes(payload))
	copyFields(m, received[0].ProtoReflect())
	return m.Interface()
}

// answer completes an attempt that ended well.
func (a *attempt) answer() error {
	if a.sends {
		return nil
	}
	if a.reply == nil {
		if err := a.send(a.echo()); err != nil {
			return err
		}
	}
	if a.ss == nil {
		return nil // the unary handler returns it
	}
	return a.ss.SendMsg(a.reply)
}

// echoAll answers everything the client sends.
func (a *attempt) echoAll() error {
	for a.request != nil {
		more, err := a.recv()
		if err != nil {
			return err
		}
		if !more {
			return nil
		}
		if a.sends {
			if err := a.send(a.echo()); err != nil {
				return err
			}
		}
	}
	if a.sends {
		return a.send(a.echo())
	}
	return nil
}

// send sends msg or, where the server answers once, makes it the answer. It
// writes to msg.
func (a *attempt) send(msg proto.Message) error {
	want := a.response.ProtoReflect().Descriptor().FullName()
	if msg == nil || msg.ProtoReflect().Descriptor().FullName() != want {
		return misuse("%s answers with %s, not with %T", a.arrival.Method, want, msg)
	}
	m := msg.ProtoReflect()
	setField(m, "attempt", protoreflect.ValueOfInt32(int32(a.arrival.Attempt)))
	setField(m, "index", protoreflect.ValueOfInt32(int32(a.sent)))
	if !a.sends {
		a.reply = msg
		return nil
	}
	if err := a.ss.SendMsg(msg); err != nil {
		return err
	}
	a.sent++
	return nil
}

// recv reads the client's next message; more is false at the end of its stream.
func (a *attempt) recv() (more bool, err error) {
	if a.request == nil {
		return false, misuse("%s has no stream to receive from", a.arrival.Method)
	}
	msg := a.request.ProtoReflect().New().Interface()
	switch err := a.ss.RecvMsg(msg); err {
	case nil:
		a.method.received(a.arrival, msg)
		return true, nil
	case io.EOF:
		a.method.halfClosed(a.arrival)
		return false, nil
	default:
		return false, err
	}
}

// stream checks that the method streams to the client.
func (a *attempt) stream(op string) error {
	if a.sends {
		return nil
	}
	return misuse("%s has no stream for %s", a.arrival.Method, op)
}

// copyFields sets the fields of to that from has under the same name.
func copyFields(to, from protoreflect.Message) {
	from.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		setField(to, fd.Name(), v)
		return true
	})
}

// setField sets a field if the message has one of that name and it is not set.
func setField(m protoreflect.Message, name protoreflect.Name, v protoreflect.Value) {
	if fd := m.Descriptor().Fields().ByName(name); fd != nil && !m.Has(fd) {
		m.Set(fd, v)
	}
}

// sleep waits for d, or for the context.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return contextError(ctx)
	}
}

// contextError is what a handler returns when its context is done. A client
// whose deadline passes resets its stream at the moment at which the server's
// own timer fires, so the context's error would be a matter of luck.
func contextError(ctx context.Context) error {
	err := ctx.Err()
	if d, ok := ctx.Deadline(); ok && !time.Now().Before(d) {
		err = context.DeadlineExceeded
	}
	return status.FromContextError(err).Err()
}
