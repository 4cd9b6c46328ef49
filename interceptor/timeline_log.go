package interceptor

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/rego-go/rego/classify"
)

// callRecord is a Timeline in the words of logs: the keys of MarshalJSON and of LogValue are
// the tags here. Times are seconds since the call's start.
type callRecord struct {
	Method        string        `json:"method,omitempty"`
	Target        string        `json:"target,omitempty"`
	Policy        string        `json:"policy,omitempty"`
	PolicyVersion string        `json:"policy_version,omitempty"`
	Idempotency   string        `json:"idempotency,omitempty"`
	Start         time.Time     `json:"start,omitzero"`
	Untimed       bool          `json:"untimed,omitempty"`
	Elapsed       *float64      `json:"elapsed,omitempty"` // nil if the call has not ended
	Reason        string        `json:"reason"`
	Code          string        `json:"code,omitempty"`
	Committed     string        `json:"committed,omitempty"`
	CommittedAt   float64       `json:"committed_at,omitempty"`
	Attempts      attemptsTried `json:"attempts"`
	Denials       denialsMade   `json:"denials,omitempty"`
}

type attemptRecord struct {
	Number      int               `json:"number"`
	Kind        string            `json:"kind"`
	Start       float64           `json:"start"`
	End         float64           `json:"end"`
	Wait        float64           `json:"wait,omitempty"`
	WaitedOn    WaitReason        `json:"waited_on,omitempty"`
	Result      AttemptResult     `json:"result"`
	Wasted      float64           `json:"wasted,omitempty"`
	Code        string            `json:"code"`
	Delivery    classify.Delivery `json:"delivery"`
	Outcome     classify.Class    `json:"outcome"`
	Reason      classify.Reason   `json:"reason,omitempty"`
	Hint        classify.HintKind `json:"hint,omitempty"`
	Peer        string            `json:"peer,omitempty"`
	Backend     string            `json:"backend,omitempty"`
	NoOther     bool              `json:"no_other_backend,omitempty"`
	Resumed     bool              `json:"resumed,omitempty"`
	Unreachable float64           `json:"unreachable,omitempty"`

	text string
}

type denialRecord struct {
	Time   float64      `json:"time"`
	Kind   string       `json:"kind"`
	Reason DenialReason `json:"reason"`
	Wait   float64      `json:"wait"`

	text string
}

// These are lists of objects to what writes JSON, and one line to what writes text.
type (
	attemptsTried []attemptRecord
	denialsMade   []denialRecord
)

func (r attemptRecord) String() string { return r.text }
func (r denialRecord) String() string  { return r.text }
func (s attemptsTried) String() string { return listed(s) }
func (s denialsMade) String() string   { return listed(s) }

func listed[T fmt.Stringer](items []T) string {
	texts := make([]string, len(items))
	for i, item := range items {
		texts[i] = item.String()
	}
	return strings.Join(texts, "; ")
}

// LogValue returns a group with the keys and the values of MarshalJSON: snake_case, and
// durations in seconds, which log stores index as numbers. JSON handlers write attempts and
// denials as lists of objects. Text handlers write each of the two as one line. If nothing
// was recorded, there is the reason "unfinished" and an empty list of attempts.
func (t *Timeline) LogValue() slog.Value {
	if t == nil {
		return slog.Value{}
	}
	r := t.record()
	var attrs []slog.Attr
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	add("method", r.Method)
	add("target", r.Target)
	add("policy", r.Policy)
	add("policy_version", r.PolicyVersion)
	add("idempotency", r.Idempotency)
	if !r.Start.IsZero() {
		attrs = append(attrs, slog.Time("start", r.Start))
	}
	if r.Untimed {
		attrs = append(attrs, slog.Bool("untimed", true))
	}
	if r.Elapsed != nil {
		attrs = append(attrs, slog.Float64("elapsed", *r.Elapsed))
	}
	add("reason", r.Reason)
	add("code", r.Code)
	if r.Committed != "" {
		attrs = append(attrs, slog.String("committed", r.Committed), slog.Float64("committed_at", r.CommittedAt))
	}
	attrs = append(attrs, slog.Any("attempts", r.Attempts))
	if len(r.Denials) > 0 {
		attrs = append(attrs, slog.Any("denials", r.Denials))
	}
	return slog.GroupValue(attrs...)
}

// MarshalJSON writes times relative to the call's start, in seconds. It leaves out what is
// not known, because the call has not ended or nothing was recorded.
func (t *Timeline) MarshalJSON() ([]byte, error) { return json.Marshal(t.record()) }

func (t *Timeline) record() callRecord {
	r := callRecord{
		Method: t.Method, Target: t.Target, Policy: t.Policy, PolicyVersion: t.PolicyVersion,
		Start: t.Start, Untimed: t.Untimed, Reason: t.Reason.String(), Committed: t.Committed.String(),
		Attempts: make(attemptsTried, len(t.Attempts)), Denials: make(denialsMade, len(t.Denials)),
	}
	if !t.empty() {
		r.Idempotency = t.Idempotency.String()
	}
	if !t.End.IsZero() {
		elapsed := t.Elapsed().Seconds()
		r.Elapsed, r.Code = &elapsed, t.Code.String()
	}
	if t.Committed != CommitNone {
		r.CommittedAt = t.since(t.CommittedAt).Seconds()
	}
	for i := range t.Attempts {
		r.Attempts[i] = t.attemptRecord(&t.Attempts[i])
	}
	for i, d := range t.Denials {
		at := t.since(d.Time)
		r.Denials[i] = denialRecord{at.Seconds(), d.Kind.String(), d.Reason, d.Wait.Seconds(), fmt.Sprintf("%s %s", round(at), d.explain())}
	}
	return r
}

func (t *Timeline) attemptRecord(a *Attempt) attemptRecord {
	start, end := t.since(a.Start), t.since(a.End)
	return attemptRecord{
		a.Number, a.Kind.String(), start.Seconds(), end.Seconds(), a.Wait.Seconds(), a.WaitedOn, a.Result,
		a.Wasted().Seconds(), a.Code.String(), a.Delivery, a.Outcome.Class, a.Outcome.Reason, a.Hint.Kind, a.peerName(),
		a.Backend, a.NoOtherBackend, a.Resumed, a.Unreachable.Seconds(),
		fmt.Sprintf("%s %s +%s %s: %s", a.label(), round(start), round(end-start), a.Result, a.explain()),
	}
}

// since returns how long after the call's start it was, zero for what never was.
func (t *Timeline) since(at time.Time) time.Duration {
	if at.IsZero() {
		return 0
	}
	return at.Sub(t.Start)
}
