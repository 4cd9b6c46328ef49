package interceptor

import (
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/internal/tally"
)

// What is counted of every call, whether anybody looks or not. The frequent kind of event is
// a call that succeeded by its original, which is a call and an attempt at once: so the
// calls that cost least pay for one addition.

// kinds of keys, in their highest byte. Zero is the frequent one.
const (
	ofCall        = iota + 1 // code, reason
	ofAttempt                // code, kind and what it waited on, result, delivery
	ofDenial                 // kind, reason
	ofReconnect              // how often attempts have waited for a connection
	ofUnreachable            // how long, in nanoseconds
	ofWaste                  // how long attempts ran that lost, in nanoseconds
)

// OtherCode stands in counts for all codes that gRPC does not define.
const OtherCode = codes.Unauthenticated + 1

func counted(c codes.Code) codes.Code { return min(c, OtherCode) }

func keyOf(of uint8, a, b, c, d uint8) tally.Key {
	return tally.Key(uint32(of)<<24 | uint32(a)<<16 | uint32(b)<<8 | uint32(c)<<4 | uint32(d))
}

// unpack is the reverse of keyOf.
func unpack(k tally.Key) (of, a, b, c, d uint8) {
	return uint8(k >> 24), uint8(k >> 16), uint8(k >> 8), uint8(k>>4) & 15, uint8(k) & 15
}

func (c *call) add(k tally.Key, n int64) { c.plan.method.counts.Add(c.seat, k, n) }

// countAttempt counts an attempt that has ended, once. That of an original which has won is
// counted with its call.
func (c *call) countAttempt(a *attempt) {
	a.isCounted = true
	if a.isPlain() {
		return
	}
	c.add(keyOfAttempt(&a.Attempt), 1)
	switch a.Kind {
	case budget.Hedge:
		c.hedgesMade++
	case budget.Retry:
		c.retriesMade++
	default:
	}
	if a.Unreachable > 0 {
		c.add(keyOf(ofReconnect, 0, 0, 0, 0), 1)
		c.add(keyOf(ofUnreachable, 0, 0, 0, 0), int64(a.Unreachable))
	}
	if w := a.Wasted(); w > 0 {
		c.add(keyOf(ofWaste, 0, 0, 0, 0), int64(w))
	}
}

func keyOfAttempt(a *Attempt) tally.Key {
	return keyOf(ofAttempt, uint8(counted(a.Code)), uint8(a.Kind)<<4|uint8(a.WaitedOn), uint8(a.Result), uint8(a.Delivery))
}

// isPlain reports whether an attempt is an original that has won, without having waited.
func (a *attempt) isPlain() bool {
	return a.Number == 1 && a.Result == AttemptWon && a.Unreachable == 0
}

// countCall counts the call.
func (c *call) countCall(code codes.Code, reason EndReason) {
	if reason == EndSucceeded && c.decided.isPlain() {
		c.plan.method.counts.Frequent(c.seat)
		return
	}
	c.add(keyOf(ofCall, uint8(counted(code)), uint8(reason), 0, 0), 1)
	if a := c.decided; a != nil && a.isCounted && a.isPlain() { // it was torn down afterwards
		c.add(keyOfAttempt(&a.Attempt), 1)
	}
}

// What one event of the frequent kind stands for.
var (
	plainCall    = CallCount{Code: codes.OK, Reason: EndSucceeded}
	plainAttempt = AttemptCount{Code: codes.OK, Kind: budget.Original, Result: AttemptWon, Delivery: classify.DeliveryAnswered}
)
