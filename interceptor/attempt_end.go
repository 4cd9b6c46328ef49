package interceptor

import (
	"io"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/classify"
)

// What an attempt that has ended shows. grpc tells an interceptor little beside the
// status, so the rest is read from the private outputs, which it fills once an attempt
// has a transport, and from texts that only it writes. docs/compatibility.md has each of them, with
// the test that holds it against the version in use, and those that no test holds.

// examine finds out what a failed attempt shows, for classifiers and for the rules.
func (c *call) examine(a *attempt, err error) {
	c.describeEnd(a, err)
	a.Code, a.Delivery, a.Hint, a.local = a.seen.Code(), a.seen.Delivery, a.seen.Hint, a.seen.Local
	// Without a word from grpc nobody knows: an interceptor below keeps it to itself.
	a.hasHeader = a.got.header != nil || !a.proven && !a.done
	if a.seen.CallerDone {
		a.left = c.callerReason()
	}
}

// describeEnd finds out whose clock ended the attempt, and whether a server can have executed it.
func (c *call) describeEnd(a *attempt, err error) {
	seen := &a.seen
	seen.Err, seen.Status = err, statusOf(err)
	if !c.streaming && err == io.EOF { //nolint:errorlint // grpc does not wrap it
		seen.Status = lostStatus
	}
	a.showOutputs()
	seen.Delivery = a.delivery()
	seen.Local = isLocal(seen.Status) && (seen.Delivery != classify.DeliveryAnswered || c.hasRefused(a))
	seen.Hint = classify.HintOf(seen.Trailer, seen.Status)
	seen.CallerDone = c.ctx.Err() != nil
	if seen.CallerDone {
		return
	}
	code := seen.Status.Code()
	if code != codes.DeadlineExceeded && code != codes.Canceled {
		// An interceptor below may call the end of its context by another name.
		seen.TimedOut = !c.endsInTime && !c.streaming && seen.Delivery == classify.DeliveryUnknown && seen.Header == nil && c.isTimedOut(a)
		return
	}
	// Neither timers nor codes decide, but the clock: the server got the same
	// deadline, and its answer may be there an instant before our timer has run.
	if c.isOver() {
		seen.CallerDone = true
		return
	}
	seen.TimedOut = c.isTimedOut(a)
}

// showOutputs lets classifiers see what the attempt has written.
func (a *attempt) showOutputs() {
	if a.proven {
		a.seen.Header, a.seen.Trailer = a.got.header, a.got.trailer
	}
}

// delivery says whether a server can have executed the attempt. If its options did
// not reach grpc, or grpc has not ended it, nothing is known.
func (a *attempt) delivery() classify.Delivery {
	switch {
	case !a.proven:
		return classify.DeliveryUnknown
	case a.stream == nil && a.got.peer.Addr == nil:
		return classify.DeliveryNotSent
	case a.got.peer.Addr != nil && len(a.got.trailer) > 0:
		return classify.DeliveryAnswered
	case a.got.header == nil && (a.seen.Status == lostStatus || isUnprocessed(a.seen.Status)):
		return classify.DeliveryNotSent
	}
	return classify.DeliveryUnknown
}

// lostStatus stands for the io.EOF that a unary call of grpc-go v1.85 returns now and
// then if a server refuses a stream, and refuses it again as grpc is about to send the
// request a second time. The request has not been sent, and the status is lost.
var lostStatus = status.New(codes.Unavailable, io.EOF.Error())

// isUnprocessed reports whether a server that ended a stream without an answer has said
// that it did not process it: with RST_STREAM and REFUSED_STREAM, or with a GOAWAY whose
// last stream is below it (RFC 9113, sections 8.7 and 6.8). grpc itself sends such a
// stream again, once.
func isUnprocessed(st *status.Status) bool {
	if st.Code() != codes.Unavailable {
		return false
	}
	switch st.Message() {
	case "stream terminated by RST_STREAM with error code: REFUSED_STREAM",
		"the stream is rejected because server is draining the connection",
		"the connection is draining":
		return true
	}
	return false
}

// How the texts begin with which grpc refuses to send something or to take it.
var (
	tooLarge = []string{"grpc: ", "trying to send message larger than max"}
	unusable = []string{"grpc: ", "header key ", "cardinality violation: "}
)

// hasRefused reports whether it was SendMsg that failed, and so this side, whatever the
// server has answered before.
func (c *call) hasRefused(a *attempt) bool {
	if !c.streaming {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return a.broken != nil && a.broken != io.EOF //nolint:errorlint // grpc does not wrap it
}

// isLocal reports whether this side has refused to send the request or to take the
// reply, as it would again.
func isLocal(st *status.Status) bool {
	var starts []string
	switch st.Code() {
	case codes.ResourceExhausted:
		starts = tooLarge
	case codes.Internal:
		starts = unusable
	case codes.Canceled:
		return st.Message() == status.Convert(grpc.ErrClientConnClosing).Message() //nolint:staticcheck // deprecated, and what grpc returns
	}
	return slices.ContainsFunc(starts, func(start string) bool { return strings.HasPrefix(st.Message(), start) })
}

// mayHaveReply reports whether an attempt that has ended may have written its reply: not
// if its server has sent a status and nothing else. What grpc has written tells that only
// if nobody between has called it more than once.
func mayHaveReply(a *attempt) bool {
	return a.seen.Err == nil || !a.done || a.outputs.apart || a.got.header != nil
}
