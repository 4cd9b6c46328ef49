package twin

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// schedule is which attempts rego made: for each call, and for each time that it came
// to rego, since an interceptor above may make it twice.
type schedule struct {
	began time.Time

	mu     sync.Mutex
	passes map[callID][]*pass
}

// pass is a call on its way through rego.
type pass struct {
	attempts []*made
	returned time.Duration
	err      error
}

// made is an attempt that was made.
type made struct {
	number    int
	again     bool // rego has made it before, and waited for a connection
	start     time.Duration
	deadline  time.Duration // that it had of its own; zero if it had the call's
	cancelled time.Duration // when it alone was cancelled; zero if it was not
	end       time.Duration // of a stream when it showed an end
	ended     bool
	err       error
	stream    bool
	answered  bool // of a stream: it had a message, or a clean end
	unclear   bool // of a stream: whether it was that is not known
}

func newSchedule(began time.Time) *schedule {
	return &schedule{began: began, passes: make(map[callID][]*pass)}
}

func (s *schedule) now() time.Duration { return time.Since(s.began) }

// enter begins a pass, and leave ends it.
func (s *schedule) enter(ctx context.Context) (context.Context, *pass) {
	id, _ := ctx.Value(callKey{}).(callID)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := new(pass)
	s.passes[id] = append(s.passes[id], p)
	return context.WithValue(ctx, passKey{}, &passing{p, ctx}), p
}

func (s *schedule) leave(p *pass, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.returned, p.err = s.now(), err
}

// errPanicked is the error of a pass that a panic has torn down.
var errPanicked = errors.New("panicked")

// lostStatus reports whether grpc itself has ended a unary attempt with io.EOF. It does
// now and then if the server refuses a stream a second time, just as grpc sends the
// request again: a race of its own, which a bare client loses as well.
func (s *schedule) lostStatus() bool {
	for _, passes := range s.passes {
		for _, p := range passes {
			if p.err == io.EOF { //nolint:errorlint // grpc does not wrap it
				return true
			}
			for _, m := range p.attempts {
				if !m.stream && m.err == io.EOF { //nolint:errorlint // as above
					return true
				}
			}
		}
	}
	return false
}

type passKey struct{}

// passing is what an attempt learns of its call.
type passing struct {
	*pass
	ctx context.Context // of the call
}

// attempt notes that an attempt begins, or that it is made again: by grpc itself, or by rego,
// after it has waited for a connection, and then again is true. What it returns is to be called
// when the attempt ends.
func (s *schedule) attempt(ctx context.Context, again bool) (m *made, end func(error)) {
	m = &made{number: attemptOf(ctx), start: s.now()}
	p, ok := ctx.Value(passKey{}).(*passing)
	if !ok {
		return m, func(error) {}
	}
	s.mu.Lock()
	if n := slices.IndexFunc(p.attempts, func(have *made) bool { return have.number == m.number }); n >= 0 && !again {
		m = p.attempts[n]
		m.ended = false
	} else {
		m.again = n >= 0
		p.attempts = append(p.attempts, m)
	}
	if d, ok := ctx.Deadline(); ok {
		if of, ok := p.ctx.Deadline(); !ok || d.Before(of) {
			m.deadline = d.Sub(s.began)
		}
	}
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !m.ended && s.isAlone(p.ctx, m) {
			m.cancelled = s.now()
		}
	})
	return m, func(err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if m.ended {
			return
		}
		if ctx.Err() != nil && m.cancelled == 0 && s.isAlone(p.ctx, m) {
			m.cancelled = s.now() // and the function above has not run yet
		}
		m.end, m.ended, m.err = s.now(), true, err
		stop()
	}
}

// isAlone reports whether an attempt whose context has ended was cancelled by itself: not
// with its call, and not at a deadline, whose timer may be late.
func (s *schedule) isAlone(call context.Context, m *made) bool {
	d, bounded := call.Deadline()
	return call.Err() == nil && (!bounded || time.Now().Before(d)) && (m.deadline == 0 || s.now() < m.deadline)
}

// attemptOf reads the number of an attempt from what is sent along.
func attemptOf(ctx context.Context) int {
	md, _ := metadata.FromOutgoingContext(ctx)
	vs := md.Get("grpc-previous-rpc-attempts")
	if len(vs) == 0 {
		return 1
	}
	n, _ := strconv.Atoi(vs[0])
	return n + 1
}

// record wraps rego's interceptors so that the schedule knows what they do. What notes the
// attempts stands below them, or is told of them by grpc.
func (s *schedule) record(m middleware, direct bool) middle {
	r := s.around(m)
	if direct {
		r.unary, r.stream = r.unary[:2], r.stream[:2]
		r.conn = []grpc.DialOption{grpc.WithStatsHandler(&listener{schedule: s})}
	}
	return r
}

func (s *schedule) around(m middleware) middle {
	return middle{
		unary: []grpc.UnaryClientInterceptor{
			func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				ctx, p := s.enter(ctx)
				err := errPanicked
				defer func() { s.leave(p, err) }()
				err = invoker(ctx, method, req, reply, cc, opts...)
				return err
			},
			m.unary,
			func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				_, end := s.attempt(ctx, true)
				err := invoker(ctx, method, req, reply, cc, opts...)
				end(err)
				return err
			},
		},
		stream: []grpc.StreamClientInterceptor{
			func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				ctx, p := s.enter(ctx)
				cs, err := streamer(ctx, desc, cc, method, opts...)
				s.leave(p, err)
				return cs, err
			},
			m.stream,
			func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				m, end := s.attempt(ctx, true)
				// First, since rego may end the call, and so the context, when it is told.
				told := append([]grpc.CallOption{grpc.OnFinish(end)}, opts...)
				cs, err := streamer(ctx, desc, cc, method, told...)
				if err != nil {
					end(err)
					return nil, err
				}
				m.stream = true
				return &recordedStream{ClientStream: cs, schedule: s, made: m, end: end}, nil
			},
		},
	}
}

// recordedStream notes how an attempt of a stream ends.
type recordedStream struct {
	grpc.ClientStream
	schedule *schedule
	made     *made
	end      func(error)
}

func (r *recordedStream) RecvMsg(m any) error {
	err := r.ClientStream.RecvMsg(m)
	r.schedule.mu.Lock()
	r.made.answered = r.made.answered || err == nil || err == io.EOF
	r.schedule.mu.Unlock()
	if err != nil {
		r.end(err)
	}
	return err
}

// decider returns the attempt that the caller was told of. Where several may be it, since
// they ended at the same instant, it is now this one and now that as it is asked again.
func (p *pass) decider(rules Rules, again int) *made {
	if n := len(p.attempts); rules.HedgeAfter == 0 && p.attempts[n-1].stream {
		return p.attempts[n-1] // one after the other
	}
	var last, answered []*made
	for _, m := range p.attempts {
		switch {
		case m.answered, m.ended && m.err == nil && m.cancelled == 0:
			answered = append(answered, m)
		case m.cancelled > 0 && !m.timedOut(rules) && len(p.attempts) > 1: // it has lost
		case len(last) == 0, m.end > last[0].end:
			last = []*made{m}
		case m.end == last[0].end:
			last = append(last, m)
		}
	}
	if len(answered) > 0 {
		return answered[again%len(answered)]
	}
	if len(last) == 0 { // all were cancelled, in the instant in which one of them has decided
		last = slices.Clone(p.attempts)
	}
	said := slices.DeleteFunc(slices.Clone(last), func(m *made) bool { return m.err == nil || p.err == nil || m.err.Error() != p.err.Error() })
	if len(said) > 0 {
		last = said
	}
	return last[rand.New(rand.NewPCG(uint64(again), uint64(p.returned))).IntN(len(last))]
}

// timedOut reports whether its own timeout has cancelled an attempt.
func (m *made) timedOut(rules Rules) bool {
	return m.cancelled > 0 && rules.AttemptTimeout > 0 && (m.cancelled-m.start)%rules.AttemptTimeout == 0
}

// replay makes the same attempts at the same times, without rego.
type replay struct {
	*schedule // of the run with rego
	began     time.Time
	program   Program
	again     int

	mu   sync.Mutex
	next map[callID]int
}

func newReplay(s *schedule, p Program, began time.Time, again int) *replay {
	return &replay{schedule: s, began: began, program: p, again: again, next: make(map[callID]int)}
}

func (r *replay) middle() middle {
	return middle{unary: []grpc.UnaryClientInterceptor{r.unary}, stream: []grpc.StreamClientInterceptor{r.stream}}
}

// pass returns what rego did with the call at hand, nil if it had not seen it.
func (r *replay) pass(ctx context.Context) *pass {
	id, _ := ctx.Value(callKey{}).(callID)
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.next[id]
	r.next[id]++
	if ps := r.passes[id]; n < len(ps) {
		return ps[n]
	}
	return nil
}

// call prepares a call as its policy says: what of it does not depend on attempts.
func (r *replay) call(ctx context.Context, opts []grpc.CallOption) (context.Context, context.CancelFunc, []grpc.CallOption) {
	rules := r.rules(ctx)
	cancel := func() {}
	if rules.Timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, rules.Timeout)
	}
	says := slices.ContainsFunc(opts, func(o grpc.CallOption) bool { _, ok := o.(grpc.FailFastCallOption); return ok })
	if rules.WaitForReady && !says {
		opts = append(slices.Clip(opts), grpc.WaitForReady(true))
	}
	return ctx, cancel, opts
}

func (r *replay) rules(ctx context.Context) Rules {
	id, _ := ctx.Value(callKey{}).(callID)
	return r.program.Rules[r.program.call(id).Method&1]
}

// expiring is a context that ends as it is told.
type expiring struct {
	context.Context
	done chan struct{}

	mu  sync.Mutex
	err error
}

func newExpiring(parent context.Context) *expiring {
	e := &expiring{Context: parent, done: make(chan struct{})}
	context.AfterFunc(parent, func() { e.end(parent.Err()) })
	return e
}

func (e *expiring) Done() <-chan struct{} { return e.done }

func (e *expiring) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

func (e *expiring) end(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		e.err = err
		close(e.done)
	}
}

// own gives an attempt the context that rego gave it.
func (r *replay) own(ctx context.Context, m *made) (context.Context, context.CancelFunc) {
	cancel := func() {}
	if m.deadline > 0 {
		ctx, cancel = context.WithDeadline(ctx, r.began.Add(m.deadline))
	}
	if m.cancelled > 0 {
		e := newExpiring(ctx)
		_, bounded := ctx.Deadline()
		err := context.Canceled
		if !bounded && m.timedOut(r.rules(ctx)) {
			err = context.DeadlineExceeded // rego says it as a bare deadline does
		}
		time.AfterFunc(m.cancelled-time.Since(r.began), func() { e.end(err) })
		ctx, cancel = e, func() { e.end(context.Canceled) }
	}
	if m.number > 1 {
		md, _ := metadata.FromOutgoingContext(ctx)
		if md == nil {
			md = metadata.MD{}
		}
		md.Set("grpc-previous-rpc-attempts", strconv.Itoa(m.number-1))
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	return ctx, cancel
}

func (r *replay) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	p := r.pass(ctx)
	ctx, cancel, opts := r.call(ctx, opts)
	defer cancel()
	if p == nil || len(p.attempts) == 0 {
		return invoker(ctx, method, req, reply, cc, opts...)
	}
	decider := p.decider(r.rules(ctx), r.again)
	left := p.returned > decider.end && (isContextError(p.err) || errors.Is(p.err, errPanicked)) && decider.err != nil
	waited := p.returned > decider.end && !left && decider.err != nil // for a connection, in vain
	var err error
	var panicked any
	var running sync.WaitGroup
	ended := make(map[*made]chan struct{})
	for _, m := range p.attempts {
		ended[m] = make(chan struct{})
	}
	for _, m := range p.attempts {
		running.Go(func() {
			defer close(ended[m])
			defer func() {
				if p := recover(); p != nil {
					panicked = p // of the decider: others have no OnFinish
				}
			}()
			time.Sleep(m.start - time.Since(r.began))
			for _, other := range p.attempts {
				if other.number < m.number && other.end == m.start { // it takes its place
					<-ended[other]
				}
			}
			actx, cancel := r.own(ctx, m)
			defer cancel()
			with := opts
			if m.again { // in the instant in which the connection is there
				with = append(slices.Clip(opts), grpc.WaitForReady(true))
			}
			if m != decider {
				_ = invoker(actx, method, req, newReply(reply), cc, withoutOutputs(with)...)
				return
			}
			if left || waited {
				with = withoutFinish(with)
			}
			err = invoker(actx, method, req, reply, cc, with...)
		})
	}
	running.Wait()
	if panicked != nil {
		panic(panicked)
	}
	switch {
	case left: // while rego waited for a retry
		<-ctx.Done()
		err = status.FromContextError(ctx.Err()).Err()
	case waited:
		time.Sleep(p.returned - time.Since(r.began))
	}
	if left || waited {
		for _, o := range opts {
			if f, ok := o.(grpc.OnFinishCallOption); ok {
				f.OnFinish(err)
			}
		}
	}
	return err
}

func isContextError(err error) bool {
	c := status.Code(err)
	return c == 1 || c == 4 // CANCELLED, DEADLINE_EXCEEDED
}

func newReply(like any) any {
	_, merges := like.(*note)
	return newMessage(merges)
}

func withoutFinish(opts []grpc.CallOption) []grpc.CallOption {
	return slices.DeleteFunc(slices.Clone(opts), func(o grpc.CallOption) bool {
		_, ok := o.(grpc.OnFinishCallOption)
		return ok
	})
}

func withoutOutputs(opts []grpc.CallOption) []grpc.CallOption {
	return slices.DeleteFunc(withoutFinish(opts), func(o grpc.CallOption) bool {
		switch o.(type) {
		case grpc.HeaderCallOption, grpc.TrailerCallOption, grpc.PeerCallOption:
			return true
		}
		return false
	})
}

// stream plays the deciding attempt, if there were several.
func (r *replay) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	p := r.pass(ctx)
	ctx, _, opts = r.call(ctx, opts)
	if p == nil || len(p.attempts) == 0 {
		return streamer(ctx, desc, cc, method, opts...)
	}
	m := p.attempts[0]
	if len(p.attempts) > 1 {
		m = &made{number: p.decider(r.rules(ctx), r.again).number}
	}
	ctx, _ = r.own(ctx, m)
	return streamer(ctx, desc, cc, method, opts...)
}
