package classify_test

import (
	"encoding"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/classify"
)

var (
	retryable    = classify.Outcome{Class: classify.Retryable}
	nonRetryable = classify.Outcome{Class: classify.NonRetryable}
	undecided    = classify.Outcome{}
)

// says returns a classifier that always says o and counts how often it is asked.
func says(o classify.Outcome, asked *int) classify.Classifier {
	return classify.Func(func(*classify.EndedAttempt) classify.Outcome {
		*asked++
		return o
	})
}

func TestFirst(t *testing.T) {
	t.Parallel()
	rows := []struct {
		say   []classify.Outcome
		want  classify.Outcome
		asked int
	}{
		{nil, undecided, 0},
		{[]classify.Outcome{undecided}, undecided, 1},
		{[]classify.Outcome{undecided, undecided}, undecided, 2},
		{[]classify.Outcome{retryable, nonRetryable}, retryable, 1}, // the first word is the last
		{[]classify.Outcome{undecided, nonRetryable, retryable}, nonRetryable, 2},
		{[]classify.Outcome{{Reason: classify.ReasonSoftFailure}, retryable}, retryable, 2}, // a reason alone decides nothing
	}
	for _, r := range rows {
		asked := 0
		var cs []classify.Classifier
		for _, o := range r.say {
			cs = append(cs, says(o, &asked))
		}
		assert.Equal(t, r.want, classify.First(cs...).Classify(&classify.EndedAttempt{}), "%v", r.say)
		assert.Equal(t, r.asked, asked, "%v", r.say)
	}
}

func TestFuncSeesTheAttempt(t *testing.T) {
	t.Parallel()
	a := ended(codes.Aborted)
	a.Method = "/a.B/C"
	var seen *classify.EndedAttempt
	f := classify.Func(func(a *classify.EndedAttempt) classify.Outcome {
		seen = a
		return retryable
	})
	assert.Equal(t, retryable, f.Classify(&a))
	assert.Same(t, &a, seen)
}

type job struct{ pending bool }

func (j *job) Pending() bool { return j.pending }

func TestReply(t *testing.T) {
	t.Parallel()
	soft := classify.Outcome{Class: classify.Retryable, Reason: classify.ReasonSoftFailure}
	unsafe := classify.Outcome{Class: classify.NonRetryable, Reason: classify.ReasonNotIdempotent}
	failed := ended(codes.Unavailable).Err
	rows := []struct {
		reply       any
		err         error
		idempotency classify.Idempotency
		want        classify.Outcome
		asked       int
	}{
		{&job{pending: true}, nil, classify.NoSideEffects, soft, 1},
		{&job{pending: true}, nil, classify.Idempotent, soft, 1},
		{&job{pending: true}, nil, classify.NotIdempotent, unsafe, 1}, // it was executed
		{&job{pending: true}, nil, classify.IdempotencyUnknown, unsafe, 1},
		{&job{}, nil, classify.Idempotent, undecided, 1},
		{&job{pending: true}, failed, classify.Idempotent, undecided, 0}, // no reply, whatever lies there
		{job{pending: true}, nil, classify.Idempotent, undecided, 0},     // another type
		{"pending", nil, classify.Idempotent, undecided, 0},
		{nil, nil, classify.Idempotent, undecided, 0},
	}
	for _, r := range rows {
		asked := 0
		c := classify.Reply(func(j *job) bool {
			asked++
			return j.pending
		})
		a := classify.EndedAttempt{Reply: r.reply, Err: r.err, Idempotency: r.idempotency}
		assert.Equal(t, r.want, c.Classify(&a), "%+v", r)
		assert.Equal(t, r.asked, asked, "%+v", r)
	}

	// T may be an interface: one rule for all replies that have the method.
	c := classify.Reply(func(j interface{ Pending() bool }) bool { return j.Pending() })
	a := classify.EndedAttempt{Reply: &job{pending: true}, Idempotency: classify.Idempotent}
	assert.Equal(t, soft, c.Classify(&a))
	a.Reply = "no such method"
	assert.Equal(t, undecided, c.Classify(&a))
}

// TestWords holds every word that timelines, spans and logs show.
func TestWords(t *testing.T) {
	t.Parallel()
	words(t, []classify.Class{
		classify.Undecided, classify.Success, classify.Retryable, classify.NonRetryable, classify.Abort,
	}, "undecided", "success", "retryable", "non-retryable", "abort")
	words(t, []classify.Reason{
		classify.ReasonNone, classify.ReasonNotSent, classify.ReasonServerAsked, classify.ReasonUnavailable,
		classify.ReasonAttemptTimeout, classify.ReasonListedCode, classify.ReasonSoftFailure,
		classify.ReasonNotIdempotent, classify.ReasonOverloaded, classify.ReasonPushbackStop,
		classify.ReasonQuotaExceeded, classify.ReasonFatalCode, classify.ReasonCallerDone,
		classify.ReasonCallDecided, classify.ReasonLocalError,
	}, "", "not-sent", "server-asked", "unavailable", "attempt-timeout", "listed-code", "soft-failure",
		"not-idempotent", "overloaded", "pushback-stop", "quota-exceeded", "fatal-code", "caller-done", "call-decided", "local-error")
	words(t, []classify.Delivery{
		classify.DeliveryUnknown, classify.DeliveryNotSent, classify.DeliveryAnswered,
	}, "unknown", "not-sent", "answered")
	words(t, []classify.HintKind{
		classify.NoHint, classify.HintPushback, classify.HintRetryInfo, classify.HintStop, classify.HintQuota,
	}, "", "pushback", "retry-info", "stop", "quota")
	words(t, []classify.Idempotency{
		classify.IdempotencyUnknown, classify.NotIdempotent, classify.Idempotent, classify.NoSideEffects,
	}, "unknown", "not-idempotent", "idempotent", "no-side-effects")

	data, err := json.Marshal(classify.Outcome{Class: classify.Retryable, Reason: classify.ReasonNotSent})
	require.NoError(t, err)
	assert.JSONEq(t, `{"Class":"retryable","Reason":"not-sent"}`, string(data))
}

// words checks an enum: values are all of it, in their order.
func words[E interface {
	~uint8
	fmt.Stringer
	encoding.TextMarshaler
}](t *testing.T, values []E, want ...string) {
	t.Helper()
	require.Len(t, values, len(want))
	check := func(v E, want string) {
		text, err := v.MarshalText()
		require.NoError(t, err)
		assert.Equal(t, want, v.String(), "%T(%d)", v, uint8(v))
		assert.Equal(t, want, string(text), "%T(%d)", v, uint8(v))
	}
	for i, v := range values {
		assert.Equal(t, i, int(v))
		check(v, want[i])
	}
	check(E(len(want)), "invalid")
	check(E(255), "invalid")
}
