package interceptor

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/policy"
)

const ms = time.Millisecond

var day = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// at is a moment of a call without a deadline, within a call that ends at most.
func at(d time.Duration) moment { return moment{now: day.Add(d)} }

func (m moment) within(d time.Duration) moment {
	m.deadline, m.bounded = day.Add(d), true
	return m
}

// newCourse is of a call with four attempts and 100 ms of backoff that doubles. Its first
// attempt has started.
func newCourse(changes ...func(k *course)) *course {
	k := &course{rules: &rules{
		maxAttempts: 4, attemptTimeout: time.Second, backoff: policy.Backoff{Initial: 100 * ms, Max: time.Minute, Jitter: policy.JitterNone},
	}}
	k.started()
	for _, change := range changes {
		change(k)
	}
	return k
}

func isHedged(k *course)    { k.hedged = true }
func grpcsRules(k *course)  { k.rules.asGRPC = true }
func retriesOff(k *course)  { k.rules.retriesOff = true }
func twoAttempts(k *course) { k.rules.maxAttempts = 2 }

// how an attempt ends.
type how func(a *attemptState)

func down(a *attemptState) {
	a.Code, a.Outcome, a.survivable = codes.Unavailable, classify.Outcome{Class: classify.Retryable, Reason: classify.ReasonUnavailable}, true
}

func succeeds(a *attemptState) { a.Outcome = classify.Outcome{Class: classify.Success} }

func fatal(code codes.Code) how {
	return func(a *attemptState) {
		a.Code, a.Outcome = code, classify.Outcome{Class: classify.NonRetryable, Reason: classify.ReasonFatalCode}
	}
}

func cancelled(a *attemptState) {
	a.Code, a.left, a.Outcome = codes.Canceled, EndCallerCancelled, classify.Outcome{Class: classify.Abort, Reason: classify.ReasonCallerDone}
}

func local(a *attemptState) { fatal(codes.ResourceExhausted)(a); a.local = true }

func forbids(a *attemptState) {
	down(a)
	a.Outcome, a.Hint.Kind = classify.Outcome{Class: classify.NonRetryable, Reason: classify.ReasonPushbackStop}, classify.HintStop
}

func pushesBack(d time.Duration) how {
	return func(a *attemptState) { down(a); a.Hint = classify.Hint{Kind: classify.HintPushback, After: d} }
}

func afterHeader(a *attemptState) { down(a); a.hasHeader = true }

// String is for tables.
func (s step) String() string {
	var words []string
	add := func(is bool, format string, args ...any) {
		if is {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	add(s.end != EndUnfinished, "end: %v", s.end)
	add(s.denied != DeniedNothing, "denied: %v", s.denied)
	add(s.keep, "keep")
	add(s.giveBack, "give back")
	add(s.hedge, "hedge now")
	add(s.take || s.ask || s.inherit, "%v%v%v after %v %v", map[bool]string{true: "ask "}[s.ask],
		map[bool]string{true: "inherit "}[s.inherit], s.next.kind, s.next.wait, s.next.why)
	add(s.waits, "wait in the queue")
	add(s.setTimer, "set timer")
	add(s.expire, "expire")
	return strings.Join(words, ", ")
}

// TestOrderOfReasons: of all that is wrong with another attempt, the first is the reason.
func TestOrderOfReasons(t *testing.T) {
	t.Parallel()
	k, a, m, spoilt := newCourse(), new(attemptState), at(0), false
	down(a)
	faults := []struct {
		add  func()
		want string
	}{ // from the last to the first
		{func() {}, "ask retry after 100ms backoff"},
		{func() { m = m.within(100 * ms) }, "end: deadline-too-close, denied: deadline-too-close"},
		{func() { spoilt = true }, "end: committed, denied: reply-type"},
		{func() { k.rules.retriesOff = true }, "end: disabled"},
		{func() { k.rules.asGRPC, a.hasHeader = true, true }, "end: committed"},
		{func() { k.commit(1, CommitBufferFull) }, "end: replay-buffer-full"},
		{func() { k.rules.maxAttempts = 1 }, "end: attempts-exhausted"},
		{func() { k.chained = true }, "end: chain-stopped"},
		{func() { a.unpaid = true }, "end: budget-denied"},
		{func() { a.unreachable = true }, "end: unreachable"},
		{func() { a.Outcome = classify.Outcome{Class: classify.NonRetryable} }, "end: non-retryable"},
		{func() { a.Hint.Kind = classify.HintStop }, "end: pushback"},
		{func() { a.Outcome.Reason = classify.ReasonNotIdempotent }, "end: not-idempotent"},
		{func() { a.left = EndDeadline }, "end: deadline"},
	}
	for _, f := range faults {
		f.add()
		kept := *k
		assert.Equal(t, f.want, k.afterFailure(a, m, spoilt).String())
		*k = kept
	}
	assert.Equal(t, "end: budget-denied, denied: budget-denied", step{ask: true}.deniedByBudget().String())
}

func TestAfterFailure(t *testing.T) {
	t.Parallel()
	committed := func(why CommitReason) func(k *course) { return func(k *course) { k.commit(1, why) } }
	for _, r := range []struct {
		name    string
		changes []func(k *course)
		ends    how
		m       moment
		want    string
	}{
		{"a retry", nil, down, at(0), "ask retry after 100ms backoff"},
		{"pushback", nil, pushesBack(30 * ms), at(0), "ask retry after 30ms pushback"},
		{"pushback of nothing", nil, pushesBack(0), at(0), "ask retry after 0s pushback"},
		{"fatal", nil, fatal(codes.NotFound), at(0), "end: non-retryable"},
		{"the caller has left", nil, cancelled, at(0), "end: caller-cancelled"},
		{"the wait fits", nil, down, at(0).within(101 * ms), "ask retry after 100ms backoff"},
		{"the wait takes all there is", nil, down, at(0).within(100 * ms), "end: deadline-too-close, denied: deadline-too-close"},
		{"pushback is too long", nil, pushesBack(time.Second), at(0).within(time.Second), "end: deadline-too-close, denied: deadline-too-close"},
		{"the deadline has passed", nil, pushesBack(0), at(5 * ms).within(4 * ms), "end: deadline-too-close, denied: deadline-too-close"},
		{"a fast attempt does not fit", nil, down, moment{day, day.Add(150 * ms), true, 50 * ms}, "end: deadline-too-close, denied: deadline-too-close"},
		{"a fast attempt fits", nil, down, moment{day, day.Add(151 * ms), true, 50 * ms}, "ask retry after 100ms backoff"},
		{"what is fast matters not without a deadline", nil, down, moment{now: day, fast: time.Hour}, "ask retry after 100ms backoff"},
		{"a header, and not gRPC's rules", nil, afterHeader, at(0), "ask retry after 100ms backoff"},
		{"a header commits in gRPC's", []func(k *course){grpcsRules}, afterHeader, at(0), "end: committed"},
		{"one before was forbidden", []func(k *course){func(k *course) { k.pushedBack = true }}, down, at(0), "end: pushback"},
		{"one before was forbidden, and this is fatal", []func(k *course){func(k *course) { k.pushedBack = true }}, fatal(codes.NotFound), at(0), "end: non-retryable"},
		{"committed: answer", []func(k *course){committed(CommitAnswer)}, down, at(0), "end: committed"},
		{"committed: header", []func(k *course){committed(CommitHeader)}, down, at(0), "end: committed"},
		{"committed: message type", []func(k *course){committed(CommitMessageType)}, down, at(0), "end: committed"},
		{"committed: buffer full", []func(k *course){committed(CommitBufferFull)}, down, at(0), "end: replay-buffer-full"},
		{"committed: one attempt", []func(k *course){committed(CommitOneAttempt)}, down, at(0), "end: disabled"},
		{"committed, and no attempt is left", []func(k *course){committed(CommitOneAttempt), func(k *course) { k.rules.maxAttempts = 1 }}, down, at(0), "end: attempts-exhausted"},
		{"resumed", []func(k *course){committed(CommitAnswer), (*course).resume}, down, at(0), "ask retry after 100ms backoff"},
		{"retries are off", []func(k *course){retriesOff}, pushesBack(ms), at(0), "end: disabled"},
		{"retries are off, hedged", []func(k *course){retriesOff, isHedged}, down, at(0), "end: disabled"},
		{"retries are off, hedged, the server asks", []func(k *course){retriesOff, isHedged}, pushesBack(ms), at(0), "ask hedge after 1ms pushback"},
	} {
		k, a := newCourse(r.changes...), &attemptState{Attempt: Attempt{Number: 1}}
		r.ends(a)
		assert.Equal(t, r.want, k.afterFailure(a, r.m, false).String(), r.name)
	}
}

// notSent is an attempt that found no connection.
func notSent(a *attemptState) {
	down(a)
	a.Delivery, a.Outcome.Reason = classify.DeliveryNotSent, classify.ReasonNotSent
}

// TestNotSentIsNotBilled: what follows an attempt that was not sent has what that was granted.
func TestNotSentIsNotBilled(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		changes []func(k *course)
		ends    how
		want    string
	}{
		{nil, notSent, "inherit retry after 100ms backoff"},
		{nil, down, "ask retry after 100ms backoff"},
		{[]func(k *course){isHedged}, notSent, "ask retry after 100ms backoff"}, // others run on what was granted
		{[]func(k *course){func(k *course) { k.chained = true }}, notSent, "end: chain-stopped"},
	} {
		k, a := newCourse(r.changes...), new(attemptState)
		r.ends(a)
		a.keepsLease = k.keepsLease(a)
		assert.Equal(t, r.want, k.afterFailure(a, at(0), false).String())
	}
}

// TestUnsentHedges: a hedge that finds no connection does not count, and one that finds one does.
func TestUnsentHedges(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		away bool
		want string
	}{{true, "ask retry after 100ms backoff"}, {false, "end: attempts-exhausted"}} {
		k := newCourse(isHedged, twoAttempts)
		k.roundBegins(day, answer{after: time.Second})
		lead, hedge := new(attemptState), &attemptState{Attempt: Attempt{Kind: budget.Hedge}}
		down(lead)
		k.attemptEnded(lead)
		k.asking++
		_, starts := k.budgetGranted()
		require.True(t, starts)
		notSent(hedge)
		hedge.away = r.away
		k.attemptEnded(hedge)
		assert.Equal(t, r.want, k.afterFailure(hedge, at(0), false).String())
	}
}

// TestReconnectRules: who may wait for a connection, and until when. The channel has been
// without one for a second.
func TestReconnectRules(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		name   string
		change func(k *course, a *attemptState)
		m      moment
		until  time.Duration // zero if it does not wait
	}{
		{"as long as the channel may be away", nil, at(time.Second), 5 * time.Second},
		{"to the deadline", nil, at(time.Second).within(3 * time.Second), 3 * time.Second},
		{"and what a fast attempt takes", nil, moment{now: day.Add(time.Second), deadline: day.Add(3 * time.Second), bounded: true, fast: 100 * ms}, 2900 * ms},
		{"the deadline has passed", nil, at(time.Second).within(time.Second), 0},
		{"away for too long", nil, at(5 * time.Second), 0},
		{"waits a second time, in all not for longer", func(k *course, _ *attemptState) { k.hasWaited(4 * time.Second) }, at(time.Second), 2 * time.Second},
		{"has waited for all that it may", func(k *course, _ *attemptState) { k.hasWaited(5 * time.Second) }, at(time.Second), 0},
		{"a stream that got on since, and is resumed", func(k *course, _ *attemptState) { k.hasWaited(5 * time.Second); k.resume() }, at(time.Second), 5 * time.Second},
		{"has waited, and was not sent for all that", func(_ *course, a *attemptState) { a.reconnected = true }, at(0), 0},
		{"hedges do not", func(_ *course, a *attemptState) { a.Kind = budget.Hedge }, at(0), 0},
		{"it may have been executed", func(_ *course, a *attemptState) { a.Delivery = classify.DeliveryUnknown }, at(0), 0},
		{"its own timeout ended it", func(_ *course, a *attemptState) { a.Code = codes.DeadlineExceeded }, at(0), 0},
		{"final", func(_ *course, a *attemptState) { a.Outcome.Class = classify.NonRetryable }, at(0), 0},
		{"the caller has left", func(_ *course, a *attemptState) { a.left = EndCallerCancelled }, at(0), 0},
		{"switched off", func(k *course, _ *attemptState) { k.rules.retriesOff = true }, at(0), 0},
		{"one attempt", func(k *course, _ *attemptState) { k.rules.maxAttempts = 1 }, at(0), 0},
		{"no wait", func(k *course, _ *attemptState) { k.rules.reconnect = policy.NoWait }, at(0), 0},
		{"a stream that is committed", func(k *course, _ *attemptState) { k.commit(1, CommitHeader) }, at(0), 0},
	} {
		k, a := newCourse(func(k *course) { k.rules.reconnect = 5 * time.Second }), new(attemptState)
		notSent(a)
		if r.change != nil {
			r.change(k, a)
		}
		if !k.mayReconnect(a) {
			assert.Zero(t, r.until, r.name)
			continue
		}
		until, waits := k.reconnect(a, r.m, day)
		assert.Equal(t, r.until > 0, waits, r.name)
		assert.Equal(t, !waits, a.unreachable, r.name)
		if waits {
			assert.Equal(t, r.until, until.Sub(day), r.name)
		}
	}
}

func TestAttemptsRunOut(t *testing.T) {
	t.Parallel()
	k, a := newCourse(), new(attemptState)
	down(a)
	for _, want := range []string{"ask retry after 100ms backoff", "ask retry after 200ms backoff", "ask retry after 400ms backoff", "end: attempts-exhausted"} {
		s := k.afterFailure(a, at(0), false)
		require.Equal(t, want, s.String())
		if s.end == EndUnfinished {
			k.started()
		}
	}
	assert.Equal(t, 4, k.made)
}

func TestWaits(t *testing.T) {
	t.Parallel()
	overloaded := func(a *attemptState) { down(a); a.Code = codes.ResourceExhausted }
	info := func(d time.Duration) how {
		return func(a *attemptState) { down(a); a.Hint = classify.Hint{Kind: classify.HintRetryInfo, After: d} }
	}
	for _, r := range []struct {
		ends        []how
		least, most []time.Duration
		why         WaitReason // of the last
	}{
		{[]how{down, down, down}, []time.Duration{100 * ms, 200 * ms, 400 * ms}, nil, WaitBackoff},
		{[]how{down, down, pushesBack(7 * ms), down, down}, []time.Duration{100 * ms, 200 * ms, 7 * ms, 100 * ms, 200 * ms}, nil, WaitBackoff}, // anew
		{[]how{down, pushesBack(7 * ms)}, []time.Duration{100 * ms, 7 * ms}, nil, WaitPushback},
		{[]how{overloaded, overloaded}, []time.Duration{time.Second, 2 * time.Second}, nil, WaitBackoff},
		{[]how{info(time.Second), down}, []time.Duration{time.Second, 200 * ms}, []time.Duration{1500 * ms, 200 * ms}, WaitBackoff}, // counts
		{[]how{down, info(ms)}, []time.Duration{100 * ms, 200 * ms}, nil, WaitRetryInfo},                                            // at least
	} {
		k := newCourse()
		for i, end := range r.ends {
			a := new(attemptState)
			end(a)
			s := k.afterFailure(a, at(0), false)
			most := r.least[i]
			if r.most != nil {
				most = r.most[i]
			}
			assert.GreaterOrEqual(t, s.next.wait, r.least[i], "%+v, %d", r, i)
			assert.LessOrEqual(t, s.next.wait, most, "%+v, %d", r, i)
			if i == len(r.ends)-1 {
				assert.Equal(t, r.why, s.next.why, "%+v", r)
			}
		}
	}
}

// race plays the events of a round against a course, with a trigger that wants a hedge
// every 100 ms unless it is told otherwise.
type race struct {
	*course
	says     answer
	attempts map[int]*attemptState
	step     // the last
	now      time.Time
}

type event func(r *race) string

// begins a round with an attempt that has started.
func begins(d time.Duration) event {
	return func(r *race) string {
		r.attempts[r.made] = &attemptState{Attempt: Attempt{Number: r.made}}
		r.now = day.Add(d)
		return r.does(r.roundBegins(r.now, r.says))
	}
}

// does notes a step, and what it means for the timer.
func (r *race) does(s step) string {
	r.step = s
	if !s.setTimer {
		return s.String()
	}
	return fmt.Sprintf("%v %v", s, r.due.Sub(r.now))
}

// says has the trigger say something else from now on.
func trigger(says answer) event {
	return func(r *race) string { r.says = says; return "" }
}

// ends an attempt, and if the round goes on asks for another one in its place.
func ends(number int, d time.Duration, end how) event {
	return func(r *race) string {
		a := r.attempts[number]
		end(a)
		r.now = day.Add(d)
		a.End = r.now
		v := r.attemptEnded(a)
		text := a.Result.String()
		if v.decides {
			text += ", decides"
		}
		if v.cancels && v.cancelledAt.IsZero() {
			text += ", the caller cancels"
		} else if v.cancels {
			text += fmt.Sprintf(", cancels @%v", v.cancelledAt.Sub(day))
		}
		if r.step = (step{}); !r.over {
			if does := r.does(r.attemptFailed(a)); does != "" {
				text += ": " + does
			}
		}
		return text
	}
}

// due is when a hedge is due, by the timer or at once, with what the driver knows of it.
func due(m moment) event { return dueIf(m, true, false) }
func dueIf(m moment, canSend, gone bool) event {
	return func(r *race) string {
		r.now = m.now
		if early := r.untilDue(m.now); early > 0 && !r.hedge {
			return fmt.Sprintf("early by %v", early)
		}
		return r.isDue(m, canSend, gone)
	}
}

// called is when the queue calls before the timer has run down.
func called(m moment) event {
	return func(r *race) string { r.now = m.now; return r.isDue(m, true, false) }
}

// putOff is when a hedge is due, and the trigger says something.
func putOff(d time.Duration, says answer) event {
	return func(r *race) string {
		r.now = day.Add(d)
		s, isDue := r.triggerSaysWhenDue(r.now, says)
		if isDue {
			return "is due"
		}
		return r.does(s)
	}
}

func (r *race) isDue(m moment, canSend, gone bool) string {
	next := r.scheduled
	if r.hedge {
		next = r.next
	}
	s := r.hedgeDue(m, next, canSend, gone)
	if s.ask || !s.trigger {
		return r.does(s)
	}
	return r.does(s) + r.asks()
}

// asks the trigger about the next hedge.
func (r *race) asks() string {
	if text := r.does(r.triggerSays(r.now, r.says)); text != "" {
		return ", " + text
	}
	return ""
}

// granted is what a budget says, or said in advance.
func granted(r *race) string {
	number, starts := r.budgetGranted()
	if !starts {
		return "too late"
	}
	r.attempts[number] = &attemptState{Attempt: Attempt{Number: number, Kind: budget.Hedge}}
	return fmt.Sprint(number) + r.asks()
}

func denied(r *race) string {
	s := r.budgetDenied(r.now, r.step)
	if s.trigger {
		return r.does(s) + r.asks()
	}
	return r.does(s)
}

func commits(number int) event {
	return func(r *race) string {
		r.commit(number, CommitHeader)
		r.stop()
		return ""
	}
}

// timesOut is when an attempt's timeout has passed.
func timesOut(number int, m moment) event {
	return func(r *race) string {
		r.step = r.attemptTimedOut(r.attempts[number], m, true)
		return r.step.String()
	}
}

// answers is what the budget says to that.
func says(number int, m moment, granted bool) event {
	return func(r *race) string {
		r.step = r.replacementAnswered(r.attempts[number], m, r.step, granted)
		return r.step.String()
	}
}

func asking(r *race) string { return fmt.Sprint(r.asking) }

// line is what happens to a round, and what it comes to.
type line struct {
	event event
	want  string
}

// roundCase is a round from its beginning on, as a ledger: one line for each event.
type roundCase struct {
	name    string
	changes []func(k *course) // of newCourse
	lines   []line
}

func playRounds(t *testing.T, cases []roundCase) {
	t.Helper()
	for _, r := range cases {
		k := newCourse(r.changes...)
		p := &race{course: k, says: answer{after: 100 * ms}, attempts: map[int]*attemptState{}}
		for i, l := range r.lines {
			require.Equal(t, l.want, l.event(p), "%v: line %d", r.name, i)
		}
		assert.LessOrEqual(t, k.made+k.asking, k.rules.maxAttempts, r.name)
	}
}

func TestRounds(t *testing.T) {
	t.Parallel()
	const asked = "ask hedge after 100ms hedge-delay"
	second := []line{{begins(0), "set timer 100ms"}, {due(at(100 * ms)), asked}, {granted, "2, set timer 100ms"}}
	after := func(before []line, more ...line) []line { return append(slices.Clip(before), more...) }
	plain := []func(k *course){isHedged}
	soon := at(0).within(time.Second)
	playRounds(t, []roundCase{
		{"no hedge is sent", plain,
			[]line{{begins(0), "set timer 100ms"}, {ends(1, 50*ms, succeeds), "won, decides, cancels @50ms"}, {due(at(60 * ms)), ""}}},
		{"all are sent", plain, after(second,
			line{due(at(150 * ms)), "early by 50ms"},
			line{due(at(200 * ms)), asked}, line{granted, "3, set timer 100ms"},
			line{due(at(300 * ms)), asked}, line{granted, "4"}, // no place is left
			line{ends(3, 310*ms, succeeds), "won, decides, cancels @310ms"},
			line{ends(1, 310*ms, cancelled), "lost"}, line{ends(2, 311*ms, succeeds), "lost"}, line{ends(4, 312*ms, down), "lost"})},
		{"a hedge that is denied for good has had its place", []func(k *course){isHedged, func(k *course) { k.rules.maxAttempts = 3 }},
			[]line{{begins(0), "set timer 100ms"},
				{dueIf(at(100*ms), false, false), "denied: not-ready, set timer 100ms"},
				{due(at(200 * ms).within(200 * ms)), "denied: deadline-too-close"}}},
		{"not ready is asked before the deadline", plain,
			[]line{{begins(0), "set timer 100ms"}, {dueIf(at(100*ms).within(0), false, false), "denied: not-ready, set timer 100ms"}}},
		{"the caller has left", plain, []line{{begins(0), "set timer 100ms"}, {dueIf(at(100*ms), true, true), ""}}},
		{"two attempts", []func(k *course){isHedged, twoAttempts}, []line{{begins(0), "set timer 100ms"}, {due(at(100 * ms)), asked}, {granted, "2"}}},
		{"the round of the last attempt", []func(k *course){isHedged, func(k *course) { k.made = 4 }}, []line{{begins(0), ""}, {due(at(100 * ms)), ""}}},
		{"one that is asked for counts", []func(k *course){isHedged, twoAttempts},
			[]line{{begins(0), "set timer 100ms"}, {due(at(100 * ms)), asked}, {due(at(100 * ms)), ""}}},
		{"the round is decided while a budget is asked", plain,
			[]line{{begins(0), "set timer 100ms"}, {due(at(100 * ms)), asked}, {ends(1, 101*ms, succeeds), "won, decides, cancels @101ms"},
				{granted, "too late"}}},

		{"a failure is replaced at once", plain, after(second, line{ends(1, 120*ms, down), "failed, decides: hedge now"},
			line{due(at(120 * ms)), "ask hedge after 0s "}, line{granted, "3, set timer 100ms"},
			line{ends(3, 130*ms, succeeds), "won, decides, cancels @130ms"})},
		{"the last to fail decides", []func(k *course){isHedged, twoAttempts},
			[]line{{begins(0), "set timer 100ms"}, {due(at(100 * ms)), asked}, {granted, "2"},
				{ends(1, 120*ms, down), "failed, decides: hedge now"}, {due(at(120 * ms)), ""},
				{ends(2, 130*ms, down), "failed, decides: hedge now"}, {due(at(130 * ms)), ""}}},
		{"fatal of the lead", plain,
			after(second, line{ends(1, 120*ms, fatal(codes.NotFound)), "failed, decides, cancels @120ms"},
				line{ends(2, 121*ms, down), "cancelled"})},
		{"fatal of a hedge", plain, after(second, line{ends(2, 120*ms, fatal(codes.NotFound)), "failed, decides"},
			line{due(at(200 * ms)), ""}, line{ends(1, 210*ms, succeeds), "won, decides, cancels @210ms"})},
		{"fatal of a hedge that runs alone", plain,
			after(second, line{ends(1, 110*ms, pushesBack(ms)), "failed, decides: set timer 1ms"},
				line{ends(2, 120*ms, fatal(codes.NotFound)), "failed, decides, cancels @120ms"})},
		{"fatal of a hedge, as gRPC", []func(k *course){isHedged, grpcsRules},
			after(second, line{ends(2, 120*ms, fatal(codes.NotFound)), "failed, decides, cancels @120ms"})},
		{"INVALID_ARGUMENT of a hedge", plain, after(second, line{ends(2, 120*ms, fatal(codes.InvalidArgument)), "failed, decides, cancels @120ms"})},
		{"what this side refuses, of a hedge", plain, after(second, line{ends(2, 120*ms, local), "failed, decides, cancels @120ms"})},
		{"the caller leaves", plain,
			after(second, line{ends(2, 120*ms, cancelled), "cancelled, decides, the caller cancels"},
				line{ends(1, 121*ms, cancelled), "cancelled"})},

		{"pushback that forbids", plain,
			after(second, line{ends(1, 120*ms, forbids), "failed, decides"}, line{due(at(200 * ms)), ""},
				line{ends(2, 210*ms, succeeds), "won, decides, cancels @210ms"})},
		{"pushback that delays", plain, after(second, line{ends(1, 120*ms, pushesBack(300*ms)), "failed, decides: set timer 300ms"},
			line{due(at(200 * ms)), "early by 220ms"}, line{due(at(420 * ms)), "ask hedge after 300ms pushback"},
			line{granted, "3, set timer 100ms"})},
		{"pushback of nothing", plain, after(second, line{ends(1, 120*ms, pushesBack(0)), "failed, decides: hedge now"})},
		{"a header and then a failure", plain, after(second, line{ends(2, 120*ms, afterHeader), "failed, decides: hedge now"})},
		{"a header and then a failure, as gRPC", []func(k *course){isHedged, grpcsRules},
			after(second, line{ends(2, 120*ms, afterHeader), "failed, decides"}, line{due(at(200 * ms)), ""})},
		{"no other reply could be made", []func(k *course){isHedged, func(k *course) { k.lastHedge = true }},
			[]line{{begins(0), "set timer 100ms"}, {due(at(100 * ms)), ""}}},

		{"committed to one", plain,
			after(second, line{commits(2), ""}, line{due(at(200 * ms)), ""}, line{ends(1, 210*ms, cancelled), "lost"},
				line{ends(2, 220*ms, down), "failed, decides"})},
		{"committed before", []func(k *course){isHedged, func(k *course) { k.commit(1, CommitHeader) }},
			[]line{{begins(0), ""}, {ends(1, ms, succeeds), "won, decides"}}},

		{"an attempt that times out is replaced", plain,
			[]line{{begins(0), "set timer 100ms"}, {timesOut(1, soon), "ask hedge after 0s "}, {says(1, soon, true), "keep, expire"},
				{timesOut(1, soon), ""}, // one at a time
				{ends(1, 50*ms, down), "failed, decides: hedge after 0s "}, {granted, "2, set timer 100ms"}}},
		{"an attempt that times out answers in time", plain,
			[]line{{begins(0), "set timer 100ms"}, {timesOut(1, soon), "ask hedge after 0s "}, {says(1, soon, true), "keep, expire"},
				{ends(1, 50*ms, succeeds), "won, decides, cancels @50ms"}}},
		{"an attempt that times out is forbidden another one", plain,
			[]line{{begins(0), "set timer 100ms"}, {timesOut(1, soon), "ask hedge after 0s "}, {says(1, soon, true), "keep, expire"},
				{ends(1, 50*ms, forbids), "failed, decides: give back"}}},
		{"an attempt that times out is pushed back", plain,
			[]line{{begins(0), "set timer 100ms"}, {timesOut(1, soon), "ask hedge after 0s "}, {says(1, soon, true), "keep, expire"},
				{ends(1, 50*ms, pushesBack(70*ms)), "failed, decides: give back, set timer 70ms"}}},
		{"what was granted in advance counts", []func(k *course){isHedged, twoAttempts},
			[]line{{begins(0), "set timer 100ms"}, {timesOut(1, soon), "ask hedge after 0s "}, {says(1, soon, true), "keep, expire"},
				{due(at(100 * ms)), ""}}},
		{"the round is decided while a budget is asked for an attempt that times out", plain,
			after(second, line{timesOut(1, soon), "ask hedge after 0s "}, line{ends(2, 110*ms, succeeds), "won, decides, cancels @110ms"},
				line{says(1, soon, true), "give back"}, line{asking, "0"})},
		{"the replacement of an attempt that times out takes a place", []func(k *course){isHedged, twoAttempts},
			[]line{{begins(0), "set timer 100ms"}, {timesOut(1, soon), "ask hedge after 0s "}, {says(1, soon, true), "keep, expire"},
				{ends(1, 50*ms, down), "failed, decides: hedge after 0s "}, {asking, "1"}, {granted, "2"}, {asking, "0"}}},
	})
}

// TestTimesOut: an attempt alone, whose timeout has passed.
func TestTimesOut(t *testing.T) {
	t.Parallel()
	soon, unbounded := at(0).within(time.Second), at(0)
	const ask = "ask retry after 100ms backoff"
	for _, r := range []struct {
		name      string
		changes   []func(k *course)
		m         moment
		retryable bool
		want      string
		granted   bool
		then      string
		retry     string // once it has ended
	}{
		{"granted", nil, soon, true, ask, true, "keep, expire", "retry after 100ms backoff"},
		{"granted, without a deadline", nil, unbounded, true, ask, true, "keep, expire", "retry after 100ms backoff"},
		{"denied", nil, soon, true, ask, false, "denied: budget-denied", "ask retry after 100ms backoff"},
		{"denied, without a deadline", nil, unbounded, true, ask, false, "expire", "ask retry after 100ms backoff"},
		{"not retryable", nil, soon, false, "", false, "", ""},
		{"not retryable, without a deadline", nil, unbounded, false, "expire", false, "", ""},
		{"no attempt is left", []func(k *course){func(k *course) { k.rules.maxAttempts = 1 }}, soon, true, "", false, "", "end: attempts-exhausted"},
		{"the wait does not fit", nil, at(0).within(100 * ms), true, "denied: deadline-too-close", false, "", "end: deadline-too-close, denied: deadline-too-close"},
		{"retries are off", []func(k *course){retriesOff}, unbounded, true, ask, true, "keep, expire", "end: disabled"},
	} {
		k, a := newCourse(r.changes...), &attemptState{Attempt: Attempt{Number: 1}}
		s := k.attemptTimedOut(a, r.m, r.retryable)
		require.Equal(t, r.want, s.String(), r.name)
		if s.ask {
			s = k.replacementAnswered(a, r.m, s, r.granted)
			require.Equal(t, r.then, s.String(), r.name)
		}
		assert.Equal(t, s.expire, a.timedOut, r.name)
		if r.retry != "" {
			down(a)
			assert.Equal(t, r.retry, k.afterFailure(a, r.m, false).String(), r.name)
		}
		if r.then == "keep, expire" && r.retry != "end: disabled" {
			assert.Equal(t, "ask retry after 200ms backoff", k.afterFailure(a, r.m, false).String(), "%v: its wait counts", r.name)
		}
	}
}

// TestGrantedInAdvance: what was granted in advance is for the attempt that timed out, and
// for one of its kind.
func TestGrantedInAdvance(t *testing.T) {
	t.Parallel()
	soon := at(0).within(time.Minute)
	for _, r := range []struct {
		changes []func(k *course)
		failed  int
		want    string
	}{
		{nil, 1, "retry after 100ms backoff"},
		{nil, 2, "give back, ask retry after 100ms backoff"},
		{[]func(k *course){isHedged}, 1, "give back, ask retry after 0s "}, // it is a hedge's
	} {
		k, a := newCourse(r.changes...), []*attemptState{{}, {}}
		require.Equal(t, "keep, expire", k.replacementAnswered(a[0], soon, k.attemptTimedOut(a[0], soon, true), true).String())
		require.Equal(t, 1, k.asking)
		down(a[r.failed-1])
		assert.Equal(t, r.want, k.afterFailure(a[r.failed-1], soon, false).String())
		assert.Zero(t, k.asking)
	}
}

func TestTimeoutOf(t *testing.T) {
	t.Parallel()
	committed := func(k *course) { k.commit(1, CommitHeader) }
	for _, r := range []struct {
		changes []func(k *course)
		number  int
		bounded bool
		want    time.Duration
	}{
		{nil, 1, true, time.Second},
		{nil, 3, true, time.Second},
		{nil, 4, true, 0}, // none can follow
		{nil, 4, false, time.Second},
		{[]func(k *course){committed}, 1, true, 0},
		{[]func(k *course){committed}, 1, false, time.Second},
		{[]func(k *course){committed, (*course).resume}, 1, true, time.Second},
		{[]func(k *course){retriesOff}, 1, true, 0},
		{[]func(k *course){retriesOff, isHedged}, 1, true, time.Second},
		{[]func(k *course){func(k *course) { k.rules.attemptTimeout = 0 }}, 1, false, 0},
	} {
		assert.Equal(t, r.want, newCourse(r.changes...).timeoutOf(r.number, r.bounded), "%+v", r)
	}
}

func TestLeaseResults(t *testing.T) {
	t.Parallel()
	notSent := func(a *attemptState) { down(a); a.Delivery = classify.DeliveryNotSent }
	notIdempotent := func(a *attemptState) {
		a.Outcome = classify.Outcome{Class: classify.NonRetryable, Reason: classify.ReasonNotIdempotent}
	}
	for _, r := range []struct {
		end  how
		want budget.Result
	}{
		{succeeds, budget.Success},
		{down, budget.Failure},
		{notSent, budget.Unsent},
		{forbids, budget.Failure},
		{notIdempotent, budget.Failure},
		{fatal(codes.NotFound), budget.Neutral},
		{cancelled, budget.Neutral},
	} {
		a := new(attemptState)
		r.end(a)
		assert.Equal(t, r.want, a.leaseResult(), "%+v", a)
	}
}

// TestCoursesAtRandom: whatever happens in whatever order, there are no more attempts than
// the rules allow, none starts in a round that is decided, and one wins at most.
func TestCoursesAtRandom(t *testing.T) {
	t.Parallel()
	endings := []how{down, down, succeeds, fatal(codes.NotFound), fatal(codes.InvalidArgument), forbids, pushesBack(0), pushesBack(50 * ms), afterHeader, cancelled, local}
	for seed := range uint64(5000) {
		r := rand.New(rand.NewPCG(seed, 0))
		k := newCourse(isHedged)
		k.rules.asGRPC, k.rules.maxAttempts = r.IntN(2) == 0, 1+r.IntN(5)
		asked, kept, won := 0, 0, 0
		for round := 0; ; round++ {
			lead := &attemptState{Attempt: Attempt{Number: k.made}}
			running := []*attemptState{lead}
			k.roundBegins(day, answer{})
			var last *attemptState
			start := func() {
				over := k.over
				if n, starts := k.budgetGranted(); starts {
					require.False(t, over, seed)
					running = append(running, &attemptState{Attempt: Attempt{Number: n, Kind: budget.Hedge}})
				}
			}
			for len(running) > 0 || asked > 0 {
				m := at(time.Duration(r.IntN(1000)) * ms).within(time.Duration(r.IntN(2000)) * ms)
				var a *attemptState
				if len(running) > 0 {
					a = running[r.IntN(len(running))]
				}
				switch what := r.IntN(5); {
				case asked > 0 && what == 0:
					asked--
					start()
				case asked > 0 && what == 1:
					asked--
					k.budgetDenied(m.now, step{next: wanted{kind: budget.Hedge}})
				case what == 2 && k.hedgeDue(m, k.scheduled, r.IntN(4) > 0, false).ask:
					asked++
				case a == nil:
				case what == 3:
					if s := k.attemptTimedOut(a, m, r.IntN(4) > 0); s.ask && k.replacementAnswered(a, m, s, r.IntN(2) == 0).keep {
						kept++
					}
				case what == 4:
					running = slices.DeleteFunc(running, func(x *attemptState) bool { return x == a })
					endings[r.IntN(len(endings))](a)
					if k.attemptEnded(a).decides {
						last = a
					}
					if a.Result == AttemptWon {
						won++
					}
					assert.Equal(t, len(running), k.racing, seed)
					if k.over {
						break
					}
					switch s := k.attemptFailed(a); {
					case s.take:
						kept--
						start()
					case s.giveBack:
						kept--
					}
				}
				require.LessOrEqual(t, k.made+k.asking, k.rules.maxAttempts, seed)
				require.Equal(t, asked+kept, k.asking, seed)
			}
			k.stop()
			if last.Result != AttemptFailed {
				break
			}
			s := k.afterFailure(last, at(0), false)
			if s.take || s.giveBack {
				kept--
			}
			if s.end != EndUnfinished {
				break
			}
			k.started()
		}
		assert.Equal(t, kept, k.asking, seed)
		assert.LessOrEqual(t, won, 1, seed)
	}
}
