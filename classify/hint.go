package classify

import (
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// PushbackKey is the trailer in which a server says when to retry, in milliseconds (gRFC
// A6).
const PushbackKey = "grpc-retry-pushback-ms"

// MaxHint is the longest delay that a server may ask for. A server that asks for more does
// not want this call again, so the call ends.
const MaxHint = 300 * time.Second

// HintKind says what a server asked for.
type HintKind uint8

const (
	// NoHint: the server said nothing about retries.
	NoHint HintKind = iota
	// HintPushback: retry after exactly After (gRFC A6).
	HintPushback
	// HintRetryInfo: retry no earlier than After (google.rpc.RetryInfo).
	HintRetryInfo
	// HintStop: do not retry. Pushback is negative, unparsable or given more
	// than once (gRFC A6), or the delay is above [MaxHint].
	HintStop
	// HintQuota: a quota is used up (google.rpc.QuotaFailure), and the server does not say
	// when there is more.
	HintQuota
)

var hintNames = [...]string{"", "pushback", "retry-info", "stop", "quota"}

func (k HintKind) String() string { return name(hintNames[:], int(k)) }

// MarshalText returns the words of String.
func (k HintKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Hint is what the server said about retrying an attempt.
type Hint struct {
	Kind HintKind
	// After is the delay that the server asked for, with HintPushback and HintRetryInfo.
	After time.Duration
}

// Asks reports whether the server asked for a retry.
func (h Hint) Asks() bool { return h.Kind == HintPushback || h.Kind == HintRetryInfo }

// Stops reports whether the server forbade a retry.
func (h Hint) Stops() bool { return h.Kind == HintStop }

// HintOf reads the hint of a failed attempt. Pushback in the trailer is stronger than what
// the status says. RetryInfo is stronger than QuotaFailure: for a quota per minute servers
// send both, and RetryInfo says when the next minute begins (google.rpc.QuotaFailure). A nil
// trailer and a nil status have no hint. Details that are broken or of other types have none
// either.
func HintOf(trailer metadata.MD, st *status.Status) Hint {
	if vs := trailer[PushbackKey]; len(vs) > 0 {
		return parsePushback(vs)
	}
	var h Hint
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.QuotaFailure:
			if h.Kind == NoHint {
				h.Kind = HintQuota
			}
		case *errdetails.RetryInfo:
			if info := parseRetryInfo(d); info.Kind != NoHint {
				h = info
			}
		}
	}
	return h
}

func parsePushback(vs []string) Hint {
	if len(vs) != 1 {
		return Hint{Kind: HintStop}
	}
	// What does not fit in 32 bits is above MaxHint anyway. "+5" is 5, as
	// grpc-go and grpc-java read it.
	ms, err := strconv.ParseInt(vs[0], 10, 32)
	if err != nil || ms < 0 {
		return Hint{Kind: HintStop}
	}
	return limited(HintPushback, time.Duration(ms)*time.Millisecond)
}

func parseRetryInfo(ri *errdetails.RetryInfo) Hint {
	d := ri.GetRetryDelay()
	if d == nil {
		return Hint{Kind: HintRetryInfo}
	}
	// Before CheckValid, for which ten thousand years are too many to be valid.
	if d.GetSeconds() > int64(MaxHint/time.Second) {
		return Hint{Kind: HintStop}
	}
	if d.CheckValid() != nil || d.GetSeconds() < 0 || d.GetNanos() < 0 {
		return Hint{} // says nothing that could be obeyed
	}
	return limited(HintRetryInfo, d.AsDuration())
}

func limited(k HintKind, after time.Duration) Hint {
	if after > MaxHint {
		return Hint{Kind: HintStop}
	}
	return Hint{k, after}
}
