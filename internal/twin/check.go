package twin

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/policy"
)

// Difference is what rego showed and a bare client did not.
type Difference struct {
	Program Program
	Track   string // where it shows first
	Bare    string // all that the bare run showed
	Rego    string
	// Unsteady says that bare runs differ among each other.
	Unsteady bool
}

func (d *Difference) String() string {
	unsteady := ""
	if d.Unsteady {
		unsteady = ", where bare runs differ among each other, too"
	}
	return fmt.Sprintf("on %s%s\n--- bare\n%s--- rego\n%s", d.Track, unsteady, d.Bare, d.Rego)
}

// bareRuns is how often a program is played bare before its difference counts: where
// events meet in one instant, a bare client itself shows now this and now that.
const bareRuns = 100

// Check plays a program with rego and bare, and returns how they differ, nil if they do
// not.
func Check(t *testing.T, p Program) *Difference {
	return check(t, p, func() middleware {
		b := new(books)
		it := p.interceptor(b)
		return middleware{it.Unary(), it.Stream(), func() string {
			if !p.isCounted() {
				return ""
			}
			return b.disagree(it.State())
		}}
	})
}

// middleware is what is held against a bare client: rego, and in tests of the twin itself
// something else.
type middleware struct {
	unary  grpc.UnaryClientInterceptor
	stream grpc.StreamClientInterceptor
	// miscounts says what is wrong with its counts once the program has been played; nil if
	// it counts nothing.
	miscounts func() string
}

// check builds the middleware in the time that it is for.
func check(t *testing.T, p Program, build func() middleware) *Difference {
	var with *trace
	var s *schedule
	var miscounted string
	leaked := inBubble(t, func() {
		with = newTrace()
		s = newSchedule(with.began)
		m := build()
		run(p, with, s.record(m, p.isDirect()))
		if m.miscounts != nil {
			miscounted = m.miscounts()
		}
	})
	if leaked != "" {
		return &Difference{Program: p, Track: "goroutines", Rego: leaked + "\n" + with.text()}
	}
	if miscounted != "" {
		return &Difference{Program: p, Track: "counts", Rego: miscounted + "\n" + with.text()}
	}
	if s.lostStatus() {
		return nil
	}
	// Where several things meet in one instant, each track is held against all that bare
	// runs have shown on it.
	var first *Difference
	var before *trace
	var open map[string]bool // tracks that no bare run has shown as rego did; nil before the first
	for n := range bareRuns {
		var bare *trace
		if leaked := inBubble(t, func() {
			bare = newTrace()
			run(p, bare, newReplay(s, p, bare.began, n).middle())
		}); leaked != "" {
			return nil // a bare client leaks, too
		}
		differ := make(map[string]bool)
		for _, track := range differences(p, s, bare, with) {
			differ[track] = open == nil || open[track]
			if first == nil {
				first = &Difference{Program: p, Bare: bare.text(), Rego: with.text()}
			}
		}
		maps.DeleteFunc(differ, func(_ string, still bool) bool { return !still })
		if open = differ; len(open) == 0 {
			return nil
		}
		first.Unsteady = first.Unsteady || before != nil && before.text() != bare.text()
		before = bare
	}
	first.Track = slices.Min(slices.Collect(maps.Keys(open)))
	return first
}

// inBubble runs f in a time of its own, and returns what is wrong if goroutines are left.
func inBubble(t *testing.T, f func()) (leaked string) {
	defer func() {
		if p := recover(); p != nil {
			leaked = fmt.Sprint(p)
		}
	}()
	synctest.Test(t, func(*testing.T) { f() })
	return ""
}

// interceptor is the one of the program.
func (p Program) interceptor(b *books) *interceptor.Interceptor {
	opts := []interceptor.Option{
		interceptor.WithLogger(slog.New(slog.DiscardHandler)),
		interceptor.WithTargetBudget(func(string) budget.Budget { return nil }),
		interceptor.WithMaxAttempts(10),
	}
	for i, r := range p.Rules {
		rule := policy.Rule{Policy: r.policy()}
		for _, k := range []Kind{Unary, Watch, Upload, Chat} {
			rule.Methods = append(rule.Methods, fmt.Sprintf("/twin.Service/%v%d", k, i))
		}
		opts = append(opts, interceptor.WithRules(rule))
	}
	switch {
	case p.Watched:
		opts = append(opts, interceptor.WithObserver(b))
	case p.isCounted():
		opts = append(opts, interceptor.WithRecorder(b))
	}
	it, err := interceptor.New(opts...)
	if err != nil {
		panic(fmt.Sprintf("%#v: %v", p, err))
	}
	return it
}

// isCounted reports whether the counts are held against timelines, which calls have that are
// watched, and get afterwards in half of the programs in which they are not.
func (p Program) isCounted() bool { return p.Watched || len(p.Lanes)%2 == 0 }

func (r Rules) policy() policy.Policy {
	p := policy.Policy{
		Timeout:        max(r.Timeout, 0),
		AttemptTimeout: max(r.AttemptTimeout, 0),
		WaitForReady:   r.WaitForReady,
		Retry: policy.Retry{
			Off:         r.RetryOff,
			MaxAttempts: max(r.MaxAttempts, 1),
			Backoff:     policy.Backoff{Initial: 10 * time.Millisecond, Multiplier: 2, Max: time.Second, Jitter: policy.JitterNone},
			Reconnect:   policy.NoWait,
		},
	}
	if r.Reconnect {
		p.Retry.Reconnect = policy.DefaultReconnect
	}
	if p.Timeout > 0 {
		p.AttemptTimeout = min(p.AttemptTimeout, p.Timeout)
	}
	if r.Idempotent {
		p.Idempotency = classify.Idempotent
	}
	switch {
	case r.None:
		p.Classifier = policy.ClassifierNone
	case r.ListsCodes:
		p.Retry.Codes = []codes.Code{codes.Unavailable, codes.ResourceExhausted}
	}
	if r.HedgeAfter > 0 {
		p.Hedge.Delay = r.HedgeAfter
	}
	return p
}

// differences returns the tracks on which two runs differ. Of a stream with several
// attempts the bare run knows what the deciding one shows, but not when; so it compares
// that, and nothing of what comes after.
func differences(p Program, s *schedule, bare, with *trace) (tracks []string) {
	if s.leftWaiting(p) {
		return nil // the caller has left a stream while it waited for a retry: bare it had ended
	}
	if id, ok := s.loose(p); ok {
		return looseDifferences(p, s, id, bare, with)
	}
	exceptions := s.exceptions(p)
	for _, track := range slices.Compact(slices.Sorted(slices.Values(append(bare.names(), with.names()...)))) {
		a, b := bare.tracks[track].withoutRepeatedFinish(), with.tracks[track]
		for _, e := range exceptions {
			a, b = e(track, a), e(track, b)
		}
		if !slices.Equal(a, b) {
			tracks = append(tracks, track)
		}
	}
	return tracks
}

// exceptions are where rego and a bare client differ rightly. Each leaves that out of a
// track. docs/conformance.md has them.
func (s *schedule) exceptions(p Program) (list []func(track string, ls lines) lines) {
	add := func(e func(track string, ls lines) lines) { list = append(list, e) }
	several := s.hasSeveral()
	if has(p.Below, Again) {
		// rego calls OnFinish once for a call, grpc for whatever is called.
		add(func(_ string, ls lines) lines { return ls.finishedOnce() })
	}
	if several {
		// What is in the reply of a call that failed means nothing.
		add(func(_ string, ls lines) lines { return ls.withoutReplyOfFailures() })
	}
	if several && p.anyCall(func(c Call) bool { return slices.Contains(c.Options, ReuseReply) }) {
		// Nor does what such a call leaves of what an earlier one has written there.
		add(func(_ string, ls lines) lines { return ls.without("reply") })
	}
	if several && has(p.Below, Again) && (p.Rules[0].HedgeAfter > 0 || p.Rules[1].HedgeAfter > 0) {
		// What runs beside each other are calls of grpc, more than there are attempts, and
		// which of them is the last to fail is a matter of luck.
		add(func(string, lines) lines { return nil })
	}
	if several && len(p.Lanes) > 1 && (p.anyStep(Kill) || p.anyStep(GoAway)) {
		// So is which connection a call finds that another one has just broken.
		add(func(string, lines) lines { return nil })
	}
	if p.anyStep(GoAwayBelow) {
		// Which stream of a connection is below another is a matter of luck where
		// several are opened in one instant.
		switch {
		case len(p.Lanes) > 1:
			add(func(string, lines) lines { return nil })
		case several:
			add(withoutServer)
		}
	}
	if several && has(p.Above, Again) {
		// Outputs that held something before are empty if the original has written
		// them, and the deciding attempt had nothing to write.
		add(func(_ string, ls lines) lines { return ls.without("header", "trailer", "peer") })
	}
	if several && has(p.Below, Again) && p.ServiceTimeout > 0 {
		// The timeout of the service config bounds the call, not each time that an
		// interceptor below calls grpc.
		add(func(string, lines) lines { return nil })
	}
	if p.anyCall(func(c Call) bool { return len(c.Beside) > 0 }) {
		add(func(_ string, ls lines) lines { return ls.inAnyOrder() })
	}
	if p.anyCall(p.isWatched) {
		// rego notices that such a stream has ended when it does, and not when the
		// application looks.
		add(withoutEnd)
	}
	if p.anyCall(Call.isRefused) && (has(p.Below, FailSend) || has(p.Below, FailRecv)) {
		// Whether it is an interceptor that has refused a message rego finds out from the
		// context of grpc's stream. To look at that commits the stream for grpc, which then
		// does not send it again by itself.
		add(func(string, lines) lines { return nil })
	}
	if has(p.Below, DropOptions) {
		// grpc does not tell rego how a stream ends whose options an interceptor keeps to
		// itself. Then the end is noticed when the application receives.
		add(withoutEnd)
	}
	if has(p.Below, FailSend) && p.anyCall(func(c Call) bool { return c.Kind != Unary && p.Rules[c.Method&1].HedgeAfter > 0 }) {
		// A message of a hedged stream that an interceptor refuses ends the stream.
		add(func(string, lines) lines { return nil })
	}
	if p.anyCall(p.isRefusedStream) {
		// rego looks for the header of a stream that is hedged, or that the client sends on, as
		// soon as it is open. So grpc sends one that is refused again, and hears that it is
		// refused again, before the application does anything.
		add(func(string, lines) lines { return nil })
	}
	if has(p.Below, ReturnEarly) && (p.Rules[0].cancels() || p.Rules[1].cancels()) {
		// rego cancels what such an attempt has left running, which otherwise goes on to
		// do whatever it does.
		add(func(string, lines) lines { return nil })
	}
	if has(p.Below, ReturnEarly) && (several || has(p.Below, Again)) {
		add(withoutServer)
		add(func(_ string, ls lines) lines { return ls.without("finish", "header", "trailer", "peer", "reply") })
	}
	return list
}

// withoutEnd leaves out when a stream was seen to have ended.
func withoutEnd(track string, ls lines) lines {
	if strings.Contains(track, " context ") {
		return nil
	}
	return ls.without("finish", "context")
}

func withoutServer(track string, ls lines) lines {
	if strings.HasPrefix(track, "server") {
		return nil
	}
	return ls
}

// isWatched reports whether a call is a stream whose header rego looks for as soon as it is
// open.
func (p Program) isWatched(c Call) bool {
	r := p.Rules[c.Method&1]
	return r.MaxAttempts > 1 && (c.Kind == Upload || c.Kind == Chat || c.Kind == Watch && (r.HedgeAfter > 0 || r.AttemptTimeout > 0))
}

// isRefusedStream reports whether a call is a stream that the server refuses, and whose
// header rego looks for.
func (p Program) isRefusedStream(c Call) bool { return p.isWatched(c) && c.isRefused() }

// isRefused reports whether the server refuses a call as unprocessed.
func (c Call) isRefused() bool {
	return slices.ContainsFunc(c.Attempts, func(a Attempt) bool {
		return a.Refuse > 0 || slices.ContainsFunc(a.Steps, func(s Step) bool { return s.Do == Refused || s.Do == GoAwayBelow })
	})
}

func (p Program) anyCall(is func(Call) bool) bool {
	return slices.ContainsFunc(p.Lanes, func(lane []Call) bool { return slices.ContainsFunc(lane, is) })
}

func (p Program) anyStep(do Action) bool {
	return p.anyCall(func(c Call) bool {
		return slices.ContainsFunc(c.Attempts, func(a Attempt) bool {
			return slices.ContainsFunc(a.Steps, func(s Step) bool { return s.Do == do })
		})
	})
}

// cancels reports whether attempts have contexts that rego ends with them.
func (r Rules) cancels() bool { return r.HedgeAfter > 0 || r.AttemptTimeout > 0 }

// isDirect reports whether grpc tells of attempts. It does not tell apart their deadlines and
// that of the service config.
func (p Program) isDirect() bool { return p.Direct && len(p.Below) == 0 && p.ServiceTimeout <= 0 }

func has(ms []Meddler, what Meddling) bool {
	return slices.ContainsFunc(ms, func(m Meddler) bool { return m.Do == what })
}

func (s *schedule) hasSeveral() bool {
	for _, passes := range s.passes {
		for _, p := range passes {
			if len(p.attempts) > 1 {
				return true
			}
		}
	}
	return false
}

// leftWaiting reports whether the attempts of a stream may all have failed before its caller
// left.
func (s *schedule) leftWaiting(p Program) bool {
	for id, passes := range s.passes {
		c := p.call(id)
		r := p.Rules[c.Method&1]
		if c.Kind == Unary || r.MaxAttempts < 2 || r.RetryOff || !c.cancels() && c.Deadline == 0 && r.Timeout <= 0 && p.ServiceTimeout <= 0 {
			continue
		}
		for _, pass := range passes {
			if n := len(pass.attempts); n > 0 && n < r.MaxAttempts && (pass.attempts[n-1].failed() || r.AttemptTimeout > 0 && pass.attempts[n-1].cancelled > 0) {
				return true
			}
		}
	}
	return false
}

// cancels reports whether the application cancels a call.
func (c Call) cancels() bool {
	return c.Cancel > 0 || slices.ContainsFunc(append(slices.Clone(c.Ops), c.Beside...), func(o Op) bool { return o.Do == Cancel })
}

// failed reports whether an attempt ended in a way that may be retried.
func (m *made) failed() bool {
	c := status.Code(m.err)
	return m.ended && !m.answered && (c == codes.Unavailable || c == codes.ResourceExhausted || c == codes.Aborted)
}

// loose returns the first stream with several attempts.
func (s *schedule) loose(p Program) (callID, bool) {
	for lane := range p.Lanes {
		for n, c := range p.Lanes[lane] {
			id := callID{lane, n}
			for _, pass := range s.passes[id] {
				if c.Kind != Unary && len(pass.attempts) > 1 {
					return id, true
				}
			}
		}
	}
	return callID{}, false
}

// looseDifferences compares what a stream showed, without times, unless the
// application's own time had a part in it.
func looseDifferences(p Program, s *schedule, id callID, bare, with *trace) (tracks []string) {
	call := p.call(id)
	rules := p.Rules[call.Method&1]
	timed := call.cancels() || call.Deadline > 0 || rules.Timeout > 0 || p.ServiceTimeout > 0 ||
		len(p.Outages) > 0 || len(s.passes[id]) > 1
	if has(p.Below, FailSend) || has(p.Below, FailRecv) || slices.ContainsFunc(p.Below, func(m Meddler) bool { return m.Nth > 0 }) {
		return nil // what an interceptor does to an attempt is a matter of its number
	}
	if rules.HedgeAfter > 0 && p.anyStep(Kill) {
		return nil // which of several on one connection ends first when that breaks is luck
	}
	if rules.HedgeAfter > 0 && slices.ContainsFunc(s.passes[id][0].attempts, func(m *made) bool { return m.unclear }) {
		return nil // which attempt has decided is not known
	}
	decider := s.passes[id][0].decider(rules, 0)
	if call.isRefused() {
		return nil // a context that the application looks at commits the stream, bare and for grpc
	}
	if timed || !decider.stream && decider.number > 1 {
		return nil // an application that has a stream is told by RecvMsg of what cannot be opened
	}
	exceptions := s.exceptions(p)
	for _, track := range []string{fmt.Sprintf("call %v", id), fmt.Sprintf("call %v beside", id)} {
		a, b := bare.tracks[track], with.tracks[track]
		for _, e := range exceptions {
			a, b = e(track, a), e(track, b)
		}
		if !slices.Equal(a.received(len(call.Beside) > 0), b.received(len(call.Beside) > 0)) {
			tracks = append(tracks, track)
		}
	}
	return tracks
}
