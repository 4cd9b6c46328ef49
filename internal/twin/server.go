package twin

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// server plays scripts on the frames of HTTP/2, since a gRPC server cannot refuse a
// stream, or say of one that it was not processed. It ends when its connections do.
type server struct {
	trace   *trace
	program Program

	mu      sync.Mutex
	dials   int
	conns   map[*serverConn]bool
	arrived map[string]int // streams of an attempt so far
	closed  bool
	ends    sync.WaitGroup
}

func newServer(p Program, tr *trace) *server {
	return &server{trace: tr, program: p, conns: make(map[*serverConn]bool), arrived: make(map[string]int)}
}

// dial connects to the server, each time at another address.
func (s *server) dial(ctx context.Context, _ string) (net.Conn, error) {
	s.mu.Lock()
	s.dials++
	addr := address(fmt.Sprintf("server-%d", s.dials))
	refused := s.closed
	s.mu.Unlock()
	for _, o := range s.program.Outages {
		at := s.trace.now()
		refused = refused || at >= o.From && at < o.To
	}
	if refused {
		return nil, &net.OpError{Op: "dial", Net: addr.Network(), Addr: address("server"), Err: syscall.ECONNREFUSED}
	}
	// The pipe is wider than a stream's window, so that flow control is what makes a
	// sender wait.
	l := bufconn.Listen(80 << 10)
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept() // fails for a listener that is closed
		accepted <- c
	}()
	client, err := l.DialContext(ctx)
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	c := &serverConn{server: s, conn: <-accepted, name: string(addr), streams: make(map[uint32]*serverStream)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = true
	s.ends.Go(c.serve)
	return &dialled{client, addr}, nil
}

// close cuts all connections, and waits until nothing of the server is left.
func (s *server) close() {
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		_ = c.conn.Close()
	}
	s.mu.Unlock()
	s.ends.Wait()
}

type address string

func (address) Network() string  { return "twin" }
func (a address) String() string { return string(a) }

type dialled struct {
	net.Conn
	remote net.Addr
}

func (d *dialled) RemoteAddr() net.Addr { return d.remote }

// serverConn is a connection at the server's side.
type serverConn struct {
	server *server
	conn   net.Conn
	name   string

	mu      sync.Mutex // guards what follows, and writing
	framer  *http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer
	streams map[uint32]*serverStream
}

func (c *serverConn) serve() {
	defer c.end()
	preface := make([]byte, len(http2.ClientPreface))
	for n := 0; n < len(preface); {
		m, err := c.conn.Read(preface[n:])
		if err != nil {
			return
		}
		n += m
	}
	c.framer = http2.NewFramer(c.conn, c.conn)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.encoder = hpack.NewEncoder(&c.block)
	c.write(func() {
		_ = c.framer.WriteSettings()
		_ = c.framer.WriteWindowUpdate(0, 1<<30) // of the connection: only streams make senders wait
	})
	for {
		f, err := c.framer.ReadFrame()
		if err != nil {
			return
		}
		c.frame(f)
	}
}

func (c *serverConn) end() {
	_ = c.conn.Close()
	c.server.mu.Lock()
	delete(c.server.conns, c)
	c.server.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.streams {
		s.stop()
	}
}

func (c *serverConn) write(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func (c *serverConn) frame(f http2.Frame) {
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			c.write(func() { _ = c.framer.WriteSettingsAck() })
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			c.write(func() { _ = c.framer.WritePing(true, f.Data) })
		}
	case *http2.MetaHeadersFrame:
		c.arrive(f)
	case *http2.DataFrame:
		if s := c.stream(f.StreamID); s != nil {
			s.data(slices.Clone(f.Data()), f.StreamEnded())
		}
	case *http2.RSTStreamFrame:
		if s := c.stream(f.StreamID); s != nil {
			s.stop()
		}
	}
}

func (c *serverConn) stream(id uint32) *serverStream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[id]
}

// arrive begins a stream and what its script says.
func (c *serverConn) arrive(f *http2.MetaHeadersFrame) {
	s := &serverStream{conn: c, id: f.StreamID, attempt: 1, stopped: make(chan struct{}), changed: make(chan struct{}, 1)}
	var shown []string
	for _, h := range f.Fields {
		switch h.Name {
		case callHeader:
			s.call = parseCallID(h.Value)
		case "grpc-previous-rpc-attempts":
			n, _ := strconv.Atoi(h.Value)
			s.attempt = n + 1
		case "content-type":
			s.json = strings.HasSuffix(h.Value, "json")
		case ":method", ":scheme", "te", "user-agent":
			continue
		}
		shown = append(shown, h.Name+"="+h.Value)
	}
	slices.Sort(shown)
	srv := c.server
	srv.mu.Lock()
	key := fmt.Sprintf("%v attempt %d", s.call, s.attempt)
	srv.arrived[key]++
	nth := srv.arrived[key]
	srv.mu.Unlock()
	s.track = fmt.Sprintf("server %s stream %d", key, nth)
	srv.trace.add(s.track, "arrives", c.name+" "+strings.Join(shown, " "))

	c.mu.Lock()
	c.streams[s.id] = s
	c.mu.Unlock()
	if f.StreamEnded() {
		s.data(nil, true)
	}
	script := srv.script(s.call, s.attempt)
	if nth <= script.Refuse {
		s.reset(http2.ErrCodeRefusedStream)
		return
	}
	srv.ends.Go(func() { s.play(script.Steps) })
}

// script returns what the n-th attempt of a call meets.
func (s *server) script(id callID, n int) Attempt {
	call := s.program.call(id)
	if call == nil || len(call.Attempts) == 0 {
		return Attempt{}
	}
	return call.Attempts[min(n, len(call.Attempts))-1]
}

// serverStream is a stream at the server's side.
type serverStream struct {
	conn    *serverConn
	id      uint32
	call    callID
	attempt int
	json    bool
	track   string

	mu       sync.Mutex
	buffer   []byte
	unread   int // bytes of messages that the script has not read
	messages int
	read     int // messages that the script has read
	ended    bool
	stopped  chan struct{} // closed when there is nobody to answer any more
	isOver   bool
	changed  chan struct{}

	headed bool
	sent   int
}

// stop ends the stream from the client's side. Whether that resets the stream or drops the
// connection with it is a matter of luck where it was the last one.
func (s *serverStream) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isOver {
		s.isOver = true
		s.conn.server.trace.add(s.track, "gone", "")
		close(s.stopped)
	}
}

// over ends it from the server's side, unless it has ended.
func (s *serverStream) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isOver {
		return true
	}
	s.isOver = true
	close(s.stopped)
	return false
}

func (s *serverStream) data(b []byte, end bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isOver {
		return
	}
	s.buffer = append(s.buffer, b...)
	for len(s.buffer) >= 5 {
		n := int(binary.BigEndian.Uint32(s.buffer[1:5]))
		if len(s.buffer) < 5+n {
			break
		}
		s.messages++
		s.unread += 5 + n
		s.conn.server.trace.add(s.track, "message", describe(s.buffer[5:5+n], s.json))
		s.buffer = s.buffer[5+n:]
	}
	if end {
		s.ended = true
		s.conn.server.trace.add(s.track, "closed", "")
	}
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// play does what the script says, until the stream has ended.
func (s *serverStream) play(steps []Step) {
	for _, step := range steps {
		if !s.sleep(step.Wait+serverSettling) || !s.do(step) {
			return
		}
	}
	if s.sleep(serverSettling) {
		s.do(Step{Do: Status})
	}
}

func (s *serverStream) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.stopped:
		return false
	}
}

// do reports whether the stream goes on.
func (s *serverStream) do(step Step) bool {
	c := s.conn
	switch step.Do {
	case SendHeader:
		s.header()
	case SendMessage:
		s.header()
		s.message()
	case Status:
		if !s.over() {
			s.status(step)
		}
		return false
	case Reset:
		s.reset(http2.ErrCodeInternal)
		return false
	case Refused:
		s.reset(http2.ErrCodeRefusedStream)
		return false
	case GoAway:
		c.write(func() { _ = c.framer.WriteGoAway(s.id, http2.ErrCodeNo, nil) })
	case GoAwayBelow:
		if !s.over() {
			c.write(func() { _ = c.framer.WriteGoAway(max(s.id, 2)-2, http2.ErrCodeNo, nil) })
		}
		return false
	case Kill:
		_ = c.conn.Close()
		return false
	case ReadN:
		return s.readUntil(func() bool { return s.read >= step.N })
	case ReadAll:
		return s.readUntil(func() bool { return false })
	case Hang:
		<-s.stopped
		return false
	}
	return true
}

// readUntil reads messages until there are enough, or the client has sent its last.
func (s *serverStream) readUntil(enough func() bool) bool {
	for {
		s.mu.Lock()
		n := s.unread
		s.read, s.unread = s.messages, 0
		done := enough() || s.ended
		s.mu.Unlock()
		if n > 0 {
			s.conn.write(func() { _ = s.conn.framer.WriteWindowUpdate(s.id, uint32(n)) })
		}
		if done {
			return true
		}
		select {
		case <-s.changed:
		case <-s.stopped:
			return false
		}
	}
}

func (s *serverStream) reset(code http2.ErrCode) {
	if !s.over() {
		s.conn.write(func() { _ = s.conn.framer.WriteRSTStream(s.id, code) })
	}
}

func (s *serverStream) header() {
	if s.headed {
		return
	}
	s.headed = true
	s.headers(false, s.contentType(), hpack.HeaderField{Name: "which", Value: fmt.Sprintf("header of attempt %d", s.attempt)})
}

func (s *serverStream) contentType() hpack.HeaderField {
	if s.json {
		return hpack.HeaderField{Name: "content-type", Value: "application/grpc+json"}
	}
	return hpack.HeaderField{Name: "content-type", Value: "application/grpc"}
}

func (s *serverStream) headers(end bool, fields ...hpack.HeaderField) {
	c := s.conn
	c.write(func() {
		c.block.Reset()
		if !end || !s.headed {
			_ = c.encoder.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
		}
		for _, f := range fields {
			_ = c.encoder.WriteField(f)
		}
		_ = c.framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: s.id, BlockFragment: c.block.Bytes(), EndHeaders: true, EndStream: end,
		})
	})
}

// message sends one that says what it is.
func (s *serverStream) message() {
	s.sent++
	text := fmt.Sprintf("message %d of attempt %d", s.sent, s.attempt)
	b := encode(text, s.json)
	frame := make([]byte, 5, 5+len(b))
	binary.BigEndian.PutUint32(frame[1:], uint32(len(b)))
	s.conn.write(func() { _ = s.conn.framer.WriteData(s.id, false, append(frame, b...)) })
}

func (s *serverStream) status(step Step) {
	var fields []hpack.HeaderField
	if !s.headed {
		if step.Code == codes.OK && s.conn.server.answersOnce(s.call) {
			s.header()
			s.message()
		} else {
			fields = append(fields, s.contentType())
		}
	}
	field := func(name, value string) { fields = append(fields, hpack.HeaderField{Name: name, Value: value}) }
	field("grpc-status", strconv.Itoa(int(step.Code)))
	if step.Code != codes.OK {
		field("grpc-message", fmt.Sprintf("status of attempt %d", s.attempt))
	}
	switch step.MD {
	case Plain:
	case WithTrailer:
		field("which", fmt.Sprintf("trailer of attempt %d", s.attempt))
	case Pushback0:
		field("grpc-retry-pushback-ms", "0")
	case PushbackNo:
		field("grpc-retry-pushback-ms", "-1")
	case QuotaInfo:
		if step.Code != codes.OK {
			field("grpc-status-details-bin", encodeBin(details(step.Code, s.attempt)))
		}
	}
	s.headers(true, fields...)
}

// answersOnce reports whether calls of this kind end with an error unless there is a
// message.
func (s *server) answersOnce(id callID) bool {
	c := s.program.call(id)
	return c != nil && (c.Kind == Unary || c.Kind == Upload)
}

func details(code codes.Code, attempt int) []byte {
	st, err := status.New(code, fmt.Sprintf("status of attempt %d", attempt)).WithDetails(
		&errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{{Subject: "per minute"}}},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(20 * time.Millisecond)})
	if err != nil {
		panic(err) // the code is not OK
	}
	b, err := proto.Marshal(st.Proto())
	if err != nil {
		panic(err)
	}
	return b
}
