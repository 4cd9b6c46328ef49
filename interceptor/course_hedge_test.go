package interceptor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/budget"
)

// TestDeniedHedges: a hedge that a budget has denied keeps its place, waits in the queue and
// is asked for again; it is told once.
func TestDeniedHedges(t *testing.T) {
	t.Parallel()
	plain := []func(k *course){isHedged}
	const asked, firstDenied = "ask hedge after 100ms hedge-delay", "denied: budget-denied, wait in the queue, set timer 100ms"
	waiting := []line{{begins(0), "set timer 100ms"}, {due(at(100 * ms)), asked}, {denied, firstDenied}}
	after := func(before []line, more ...line) []line { return append(append([]line(nil), before...), more...) }
	playRounds(t, []roundCase{
		{"granted when the timer has run down", plain, after(waiting,
			line{due(at(150 * ms)), "early by 50ms"},
			line{due(at(200 * ms)), "ask hedge after 200ms budget"}, line{granted, "2, set timer 100ms"},
			line{due(at(300 * ms)), asked}, line{granted, "3, set timer 100ms"})},
		{"called before that", plain,
			after(waiting, line{called(at(130 * ms)), "ask hedge after 130ms budget"}, line{granted, "2, set timer 100ms"},
				line{due(at(229 * ms)), "early by 1ms"})},
		{"asked for more and more slowly", plain, after(waiting,
			line{due(at(200 * ms)), "ask hedge after 200ms budget"}, line{denied, "wait in the queue, set timer 200ms"},
			line{due(at(400 * ms)), "ask hedge after 400ms budget"}, line{denied, "wait in the queue, set timer 400ms"},
			line{called(at(500 * ms)), "ask hedge after 500ms budget"}, line{denied, "wait in the queue, set timer 800ms"},
			line{due(at(1300 * ms)), "ask hedge after 1.3s budget"}, line{denied, "wait in the queue, set timer 1s"},
			line{due(at(2300 * ms)), "ask hedge after 2.3s budget"}, line{denied, "wait in the queue, set timer 1s"})},
		{"it has not had its place", []func(k *course){isHedged, twoAttempts},
			after(waiting, line{due(at(200 * ms)), "ask hedge after 200ms budget"}, line{granted, "2"})},
		{"nor have two that were denied", []func(k *course){isHedged, func(k *course) { k.rules.maxAttempts = 3 }}, after(waiting,
			line{due(at(200 * ms)), "ask hedge after 200ms budget"}, line{granted, "2, set timer 100ms"},
			line{due(at(300 * ms)), asked}, line{denied, firstDenied},
			line{called(at(310 * ms)), "ask hedge after 110ms budget"}, line{granted, "3"})},
		{"the attempt answers", plain, after(waiting, line{ends(1, 150*ms, succeeds), "won, decides, cancels @150ms"}, line{due(at(200 * ms)), ""})},
		{"the attempt answers while the budget is asked again", plain, after(waiting, line{due(at(200 * ms)), "ask hedge after 200ms budget"},
			line{ends(1, 200*ms, succeeds), "won, decides, cancels @200ms"}, line{denied, "denied: budget-denied"})},
		{"the attempt fails, and all that was wanted is one in its place", plain, after(waiting, line{ends(1, 150*ms, down), "failed, decides: hedge now"},
			line{due(at(150 * ms)), "ask hedge after 0s "}, line{denied, "denied: budget-denied"},
			line{called(at(170 * ms)), "ask hedge after 170ms budget"}, line{granted, "2, set timer 100ms"})},
		{"one in its place is granted, and the next comes at the delay", plain, after(waiting, line{ends(1, 150*ms, down), "failed, decides: hedge now"},
			line{due(at(150 * ms)), "ask hedge after 0s "}, line{granted, "2, set timer 100ms"}, line{due(at(200 * ms)), "early by 50ms"})},
		{"one in its place is granted, and that was the last", []func(k *course){isHedged, twoAttempts},
			after(waiting, line{ends(1, 150*ms, down), "failed, decides: hedge now"},
				line{due(at(150 * ms)), "ask hedge after 0s "}, line{granted, "2"}, line{due(at(200 * ms)), ""})},
		{"one in the place of a failed one waits too", plain,
			[]line{{begins(0), "set timer 100ms"}, {due(at(100 * ms)), asked}, {granted, "2, set timer 100ms"},
				{ends(2, 120*ms, down), "failed, decides: hedge now"}, {due(at(120 * ms)), "ask hedge after 0s "}, {denied, firstDenied},
				{called(at(140 * ms)), "ask hedge after 20ms budget"}, {granted, "3, set timer 100ms"}}},
		{"pushback takes its place", plain, []line{{begins(0), "set timer 100ms"}, {due(at(100 * ms)), asked}, {granted, "2, set timer 100ms"},
			{due(at(200 * ms)), asked}, {denied, firstDenied},
			{ends(2, 220*ms, pushesBack(300*ms)), "failed, decides: set timer 300ms"},
			{due(at(300 * ms)), "early by 220ms"}, {due(at(520 * ms)), "ask hedge after 300ms pushback"}, {denied, firstDenied},
			{called(at(530 * ms)), "ask hedge after 310ms budget"}}},
		{"it is forbidden meanwhile", plain, []line{{begins(0), "set timer 100ms"}, {due(at(100 * ms)), asked}, {granted, "2, set timer 100ms"},
			{due(at(200 * ms)), asked}, {denied, firstDenied}, {ends(2, 220*ms, forbids), "failed, decides"}, {called(at(230 * ms)), ""}}},
		{"the connection is lost meanwhile", plain, after(waiting, line{dueIf(at(200*ms), false, false), "denied: not-ready, set timer 100ms"},
			line{due(at(300 * ms)), asked}, line{denied, firstDenied})},
		{"the caller leaves meanwhile", plain, after(waiting, line{dueIf(at(200*ms), true, true), ""})},
		{"the attempt shows that it is not slow", plain,
			after(waiting, line{func(r *race) string { r.isAlive(); return "" }, ""}, line{called(at(150 * ms)), ""})},
		{"in gRPC's rules it has had its place", []func(k *course){isHedged, grpcsRules, func(k *course) { k.rules.maxAttempts = 3 }},
			[]line{{begins(0), "set timer 100ms"},
				{due(at(100 * ms)), asked}, {denied, "denied: budget-denied, set timer 100ms"},
				{due(at(200 * ms)), asked}, {denied, "denied: budget-denied"}}},
		{"without a delay it asks each millisecond at most", plain,
			[]line{{trigger(answer{}), ""}, {begins(0), "set timer 0s"}, {due(at(0)), "ask hedge after 0s hedge-delay"},
				{denied, "denied: budget-denied, wait in the queue, set timer 1ms"}, {due(at(ms)), "ask hedge after 1ms budget"},
				{denied, "wait in the queue, set timer 2ms"}}},
		{"a long delay is its pace", plain,
			[]line{{trigger(answer{after: 5 * time.Second}), ""}, {begins(0), "set timer 5s"},
				{due(at(5 * time.Second)), "ask hedge after 5s hedge-delay"},
				{denied, "denied: budget-denied, wait in the queue, set timer 5s"}, {due(at(10 * time.Second)), "ask hedge after 10s budget"},
				{denied, "wait in the queue, set timer 5s"}}},
	})
}

// TestTriggers: what a trigger says, when an attempt has started and when a hedge is due.
func TestTriggers(t *testing.T) {
	t.Parallel()
	plain := []func(k *course){isHedged}
	in := func(d time.Duration) answer { return answer{after: d} }
	never := answer{denied: DeniedByTrigger}
	playRounds(t, []roundCase{
		{"each time something else", plain, []line{{begins(0), "set timer 100ms"}, {putOff(100*ms, in(0)), "is due"}, {trigger(in(20 * ms)), ""},
			{due(at(100 * ms)), "ask hedge after 100ms hedge-delay"}, {granted, "2, set timer 20ms"},
			{trigger(in(0)), ""}, {due(at(120 * ms)), "ask hedge after 20ms hedge-delay"}, {granted, "3, set timer 0s"}}},
		{"it is put off", plain, []line{{begins(0), "set timer 100ms"}, {putOff(100*ms, in(30*ms)), "set timer 30ms"}, {due(at(110 * ms)), "early by 20ms"},
			{putOff(130*ms, in(0)), "is due"}, {due(at(130 * ms)), "ask hedge after 130ms hedge-delay"}}},
		{"by less than a millisecond once only", plain, []line{{begins(0), "set timer 100ms"}, {putOff(100*ms, in(1)), "set timer 1ns"},
			{putOff(100*ms+1, in(1)), "set timer 1ms"}, {putOff(101*ms+1, in(1)), "set timer 1ms"}}},
		{"and once for each hedge", plain,
			[]line{{begins(0), "set timer 100ms"}, {putOff(100*ms, in(1)), "set timer 1ns"},
				{due(at(100*ms + 1)), "ask hedge after 100.000001ms hedge-delay"},
				{granted, "2, set timer 100ms"}, {putOff(201*ms, in(1)), "set timer 1ns"}}},
		{"none after the first", plain,
			[]line{{begins(0), "set timer 100ms"}, {trigger(never), ""}, {due(at(100 * ms)), "ask hedge after 100ms hedge-delay"},
				{granted, "2, denied: trigger"},
				{ends(1, 150*ms, down), "failed, decides: hedge now"}, {due(at(150 * ms)), ""}}},
		{"none when it is due", plain, []line{{begins(0), "set timer 100ms"}, {putOff(100*ms, never), "denied: trigger"}, {putOff(101*ms, never), ""}}},
		{"none in a later round", plain, []line{{trigger(answer{denied: DeniedTooSlow}), ""}, {begins(0), "denied: too-slow"}, {begins(0), ""}}},
		{"put off in a round that is decided", plain,
			[]line{{begins(0), "set timer 100ms"}, {ends(1, 100*ms, succeeds), "won, decides, cancels @100ms"}, {putOff(100*ms, in(ms)), ""}}},
		{"none after the first, and an attempt that times out is replaced", plain,
			[]line{{begins(0), "set timer 100ms"}, {trigger(never), ""}, {due(at(100 * ms)), "ask hedge after 100ms hedge-delay"},
				{granted, "2, denied: trigger"},
				{timesOut(1, at(0).within(time.Second)), "ask hedge after 0s "}, {says(1, at(0).within(time.Second), true), "keep, expire"},
				{ends(1, 150*ms, down), "failed, decides: hedge after 0s "}, {granted, "3"}}},
		{"it has panicked", plain, []line{{begins(0), "set timer 100ms"}, {func(r *race) string { r.decline(); return "" }, ""}, {due(at(100 * ms)), ""}}},
	})
}

// TestAskingIsBounded: however long a budget denies a hedge, and whoever calls, what the
// timer asks for is bounded.
func TestAskingIsBounded(t *testing.T) {
	t.Parallel()
	for _, delay := range []time.Duration{0, 10 * time.Microsecond, ms, 6 * ms, time.Second, time.Minute} {
		k := newCourse(isHedged)
		k.roundBegins(day, answer{after: delay})
		asked, now := 0, day.Add(delay)
		for ; now.Sub(day) < time.Hour; now = k.due {
			s := k.hedgeDue(moment{now: now}, k.scheduled, true, false)
			require.True(t, s.ask)
			s = k.budgetDenied(now, s)
			assert.Equal(t, asked == 0, s.denied == DeniedByBudget, "it is told once")
			assert.Equal(t, budget.Hedge, s.next.kind)
			assert.GreaterOrEqual(t, k.due.Sub(now), max(delay, ms))
			asked++
		}
		assert.Less(t, asked, 3620, delay)
	}
}
