package twin

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/rego-go/rego/interceptor"
)

// callID is a lane and a place in it.
type callID struct{ lane, n int }

func (id callID) String() string { return fmt.Sprintf("%d.%d", id.lane, id.n) }

// callHeader is the request metadata that tells the server which call it is.
const callHeader = "twin-call"

func parseCallID(s string) (id callID) {
	lane, n, _ := strings.Cut(s, ".")
	id.lane, _ = strconv.Atoi(lane)
	id.n, _ = strconv.Atoi(n)
	return id
}

func (p Program) call(id callID) *Call {
	if id.lane >= len(p.Lanes) || id.n >= len(p.Lanes[id.lane]) {
		return nil
	}
	return &p.Lanes[id.lane][id.n]
}

// settling is what passes at least between two things that one side does, so that all
// that follows from the first has happened before the second.
const (
	settling       = 10_000 * time.Nanosecond
	serverSettling = 7_919 * time.Nanosecond // never at the same instant
)

// patience is when the application gives up on calls that have no deadline.
const patience = 10 * time.Second

// reconnect is how long grpc waits before it dials again: none of the times at which rego
// makes an attempt, so that no attempt meets the new connection in the instant it is there.
const reconnect = 73_019 * time.Microsecond

// middle is what stands between the interceptors above and below: rego, or what plays
// its part bare.
type middle struct {
	unary  []grpc.UnaryClientInterceptor
	stream []grpc.StreamClientInterceptor
	conn   []grpc.DialOption
}

// run plays the program once, in a bubble of its own time.
func run(p Program, tr *trace, m middle) {
	srv := newServer(p, tr)
	above, below := newMeddlers(p.Above, false), newMeddlers(p.Below, true)
	var unary []grpc.UnaryClientInterceptor
	var stream []grpc.StreamClientInterceptor
	for _, x := range above {
		unary, stream = append(unary, x.unary), append(stream, x.stream)
	}
	unary, stream = append(unary, m.unary...), append(stream, m.stream...)
	for _, x := range below {
		unary, stream = append(unary, x.unary), append(stream, x.stream)
	}
	conn, err := grpc.NewClient("passthrough:///twin", append(append(p.serviceConfig(), m.conn...),
		grpc.WithContextDialer(srv.dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableRetry(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: reconnect, Multiplier: 1, MaxDelay: reconnect},
			MinConnectTimeout: patience,
		}),
		grpc.WithChainUnaryInterceptor(unary...), grpc.WithChainStreamInterceptor(stream...))...)
	if err != nil {
		panic(err) // of this package's own making
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(patience, cancel)
	app := &application{program: p, trace: tr, conn: conn}
	var lanes sync.WaitGroup
	for i := range p.Lanes {
		lanes.Go(func() { app.lane(ctx, i) })
	}
	lanes.Wait()
	// Leave the server time to do what it would do, then end what was abandoned.
	time.Sleep(time.Second)
	cancel()
	synctest.Wait()
	app.reading.Lock()
	for _, read := range app.later {
		read()
	}
	app.reading.Unlock()
	if err := conn.Close(); err != nil {
		tr.add("end", "close", err.Error())
	}
	srv.close()
	synctest.Wait()
}

func (p Program) serviceConfig() []grpc.DialOption {
	if p.ServiceTimeout <= 0 {
		return nil
	}
	return []grpc.DialOption{grpc.WithDefaultServiceConfig(fmt.Sprintf(
		`{"methodConfig":[{"name":[{}],"timeout":"%.9fs"}]}`, p.ServiceTimeout.Seconds()))}
}

// application makes the calls of a program.
type application struct {
	program Program
	trace   *trace
	conn    *grpc.ClientConn

	reading sync.Mutex
	later   []func() // what is read when all is over, since it may be written until then
}

// kept is what a lane uses again.
type kept struct{ request, reply [2]any } // of either codec

func (a *application) lane(ctx context.Context, i int) {
	k := new(kept)
	for j := range k.request {
		k.request[j], k.reply[j] = newMessage(j == 1), newMessage(j == 1)
	}
	for n := range a.program.Lanes[i] {
		id := callID{i, n}
		call := a.program.call(id)
		time.Sleep(call.Think + settling)
		a.call(ctx, id, call, k)
	}
}

// returnsEarly reports whether outputs may be written after a call has returned, by the
// program's own doing.
func (p Program) returnsEarly() bool {
	return has(p.Above, ReturnEarly) || has(p.Below, ReturnEarly)
}

// failsRecv reports whether RecvMsg may return an error of a stream that has not ended.
func (p Program) failsRecv() bool { return has(p.Above, FailRecv) || has(p.Below, FailRecv) }

// session is a call that the application makes.
type session struct {
	*application
	*Call
	id      callID
	track   string
	merges  bool
	cancel  context.CancelFunc
	request any
	reply   any

	header, trailer metadata.MD
	peer            peer.Peer
	timeline        interceptor.Timeline
	opts            []grpc.CallOption
}

func (a *application) call(ctx context.Context, id callID, c *Call, k *kept) {
	s := &session{application: a, Call: c, id: id, track: fmt.Sprintf("call %v", id)}
	if c.Deadline > 0 {
		ctx, s.cancel = context.WithTimeout(ctx, c.Deadline)
	} else {
		ctx, s.cancel = context.WithCancel(ctx)
	}
	if c.Cancel > 0 {
		time.AfterFunc(c.Cancel, s.cancel)
	}
	ctx = metadata.AppendToOutgoingContext(ctx, callHeader, id.String())
	ctx = context.WithValue(ctx, callKey{}, id)
	s.configure(k)
	defer func() {
		if p := recover(); p != nil {
			a.trace.add(s.track, "panic", fmt.Sprint(p))
		}
		if c.Kind == Unary {
			s.read()
		}
		s.cancel()
	}()
	method := fmt.Sprintf("/twin.Service/%v%d", c.Kind, c.Method&1)
	if c.Kind == Unary {
		err := a.conn.Invoke(ctx, method, s.request, s.reply, s.opts...)
		a.trace.add(s.track, "invoke", showError(err))
		return
	}
	stream, err := a.conn.NewStream(ctx, c.Kind.desc(), method, s.opts...)
	a.trace.add(s.track, "open", showError(err))
	if err == nil {
		s.play(stream)
	}
}

type callKey struct{}

func (k Kind) desc() *grpc.StreamDesc {
	return &grpc.StreamDesc{ServerStreams: k == Watch || k == Chat, ClientStreams: k == Upload || k == Chat}
}

// configure makes the call's options and messages.
func (s *session) configure(k *kept) {
	reuse := [2]bool{}
	for _, o := range s.Options {
		switch o {
		case WantHeader:
			s.opts = append(s.opts, grpc.Header(&s.header))
		case WantTrailer:
			s.opts = append(s.opts, grpc.Trailer(&s.trailer))
		case WantPeer:
			s.opts = append(s.opts, grpc.Peer(&s.peer))
		case WantFinish:
			s.opts = append(s.opts, grpc.OnFinish(func(err error) { s.trace.add(s.track, "finish", showError(err)) }))
		case FinishPanics:
			// Of a stream it would panic on a goroutine of grpc's. And interceptors
			// below rego do not see it: rego calls OnFinish at the end of the call.
			if s.Kind != Unary || len(s.program.Below) > 0 {
				break
			}
			s.opts = append(s.opts, grpc.OnFinish(func(error) { panic("from OnFinish") }))
		case WantTimeline:
			s.opts = append(s.opts, interceptor.WithTimeline(&s.timeline))
		case WaitForReady:
			s.opts = append(s.opts, grpc.WaitForReady(true))
		case FailFast:
			s.opts = append(s.opts, grpc.WaitForReady(false))
		case StaticMethod:
			s.opts = append(s.opts, grpc.StaticMethod())
		case JSON:
			s.opts = append(s.opts, grpc.ForceCodec(merging{}))
			s.merges = true
		case SmallSend:
			s.opts = append(s.opts, grpc.MaxCallSendMsgSize(4))
		case SmallRecv:
			s.opts = append(s.opts, grpc.MaxCallRecvMsgSize(4))
		case NoSuchCompressor:
			s.opts = append(s.opts, grpc.UseCompressor("none-such"))
		case Credentials:
			s.opts = append(s.opts, grpc.PerRPCCredentials(token{}))
		case ReuseRequest:
			reuse[0] = true
		case ReuseReply:
			reuse[1] = true
		}
	}
	s.request, s.reply = newMessage(s.merges), newMessage(s.merges)
	own := 0
	if s.merges {
		own = 1
	}
	if reuse[0] && !s.program.returnsEarly() {
		s.request = k.request[own]
	}
	if reuse[1] && !s.program.returnsEarly() {
		s.reply = k.reply[own]
	}
	setText(s.request, "request of "+s.id.String(), 0)
}

type token struct{}

func (token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"token": "secret"}, nil
}
func (token) RequireTransportSecurity() bool { return false }

var _ credentials.PerRPCCredentials = token{}

// read notes what the call has left behind, as soon as it may be read.
func (s *session) read() {
	s.reading.Lock()
	defer s.reading.Unlock()
	if s.program.returnsEarly() || s.program.failsRecv() {
		s.later = append(s.later, s.outputs)
		return
	}
	s.outputs()
}

func (s *session) outputs() {
	if s.Kind == Unary {
		s.trace.add(s.track, "reply", show(s.reply))
	}
	for _, o := range s.Options {
		switch o {
		case WantHeader:
			s.trace.add(s.track, "header", showMD(s.header))
		case WantTrailer:
			s.trace.add(s.track, "trailer", showMD(s.trailer))
		case WantPeer:
			s.trace.add(s.track, "peer", fmt.Sprint(s.peer.Addr))
		default:
		}
	}
}

// play does the operations of a stream, on one goroutine or two.
func (s *session) play(stream grpc.ClientStream) {
	var beside sync.WaitGroup
	if len(s.Beside) > 0 {
		beside.Go(func() { s.operate(stream, s.track+" beside", s.Beside) })
	}
	s.operate(stream, s.track, s.Ops)
	beside.Wait()
	time.Sleep(settling)
}

// operate does operations in order.
func (s *session) operate(stream grpc.ClientStream, track string, ops []Op) {
	defer func() {
		if p := recover(); p != nil {
			s.trace.add(track, "panic", fmt.Sprint(p))
		}
	}()
	o := &operator{session: s, stream: stream, track: track}
	for _, op := range ops {
		time.Sleep(op.Think + settling)
		o.do(op)
	}
}

// operator is a goroutine that uses a stream.
type operator struct {
	*session
	stream grpc.ClientStream
	track  string
	sent   int
	ended  bool
}

func (o *operator) do(op Op) {
	add := func(what, saw string) { o.trace.add(o.track, what, saw) }
	switch op.Do {
	case Send:
		o.sent++
		m := o.message(op.Big)
		err := o.stream.SendMsg(m)
		add("send", showError(err))
		if o.uses(ReuseRequest) {
			setText(m, "changed after it was sent", 3)
		}
	case CloseSend:
		add("close send", showError(o.stream.CloseSend()))
	case Recv:
		o.receive()
	case Drain:
		for n := 0; !o.ended && n < 100; n++ {
			o.receive()
			time.Sleep(settling)
		}
	case Header:
		md, err := o.stream.Header()
		add("header", showMD(md)+" "+showError(err))
	case Trailer:
		if o.ended && !o.program.failsRecv() {
			add("trailer", showMD(o.stream.Trailer()))
		}
	case Context:
		ctx := o.stream.Context()
		add("context", showError(ctx.Err()))
		own := fmt.Sprintf("%s context at %v", o.track, o.trace.now())
		context.AfterFunc(ctx, func() { o.trace.add(own, "done", showError(ctx.Err())) })
	case Cancel:
		o.cancel()
	}
}

func (o *operator) uses(option Option) bool {
	return slices.Contains(o.Options, option) && !o.program.returnsEarly()
}

func (o *operator) message(big bool) any {
	m := o.request
	if !o.uses(ReuseRequest) {
		m = newMessage(o.merges)
	}
	size := 0
	if big {
		size = 40_000
	}
	setText(m, fmt.Sprintf("request %d of %v", o.sent, o.id), size)
	return m
}

func (o *operator) receive() {
	m := newMessage(o.merges)
	err := o.stream.RecvMsg(m)
	if err != nil {
		o.trace.add(o.track, "recv", showError(err))
	} else {
		o.trace.add(o.track, "recv", show(m))
	}
	if err != nil || !o.Kind.desc().ServerStreams {
		if !o.ended {
			o.read()
		}
		o.ended = true
	}
}
