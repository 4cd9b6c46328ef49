package interceptor

import (
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
)

// An attempt that was not sent, since the channel has no connection, is no load on any
// server. It waits for the connection, and then is made again as the same attempt. What
// bounds this is time.

// mayReconnect reports whether an attempt that has ended may wait for a connection. It does
// once: what is not sent though there was a connection counts as any other failure, so that
// it cannot turn in a circle. Hedges do not wait, and do not count then.
func (k *course) mayReconnect(a *attemptState) bool {
	r := k.rules
	return a.Delivery == classify.DeliveryNotSent && a.Code == codes.Unavailable && a.Outcome.Class == classify.Retryable &&
		a.left == EndUnfinished && a.Kind != budget.Hedge && !a.reconnected &&
		r.reconnect > 0 && r.maxAttempts > 1 && !r.retriesOff && k.committedTo == 0
}

// reconnect returns until when an attempt waits for the connection of a channel that has
// been without one since away. A call waits no longer in all than a channel may be away. If
// the time has passed the attempt has found the target unreachable.
func (k *course) reconnect(a *attemptState, m moment, away time.Time) (until time.Time, waits bool) {
	until = away.Add(k.rules.reconnect)
	if last := m.now.Add(k.rules.reconnect - k.waited); last.Before(until) {
		until = last
	}
	if last := m.deadline.Add(-m.fast); m.bounded && last.Before(until) {
		until = last
	}
	a.unreachable = !until.After(m.now)
	return until, !a.unreachable
}

// hasReconnected is told when there is a connection for an attempt that has waited. Hedges
// that were denied for lack of one have had no place.
func (k *course) hasReconnected() { k.places = k.counted() }

// hasWaited is told how long an attempt has waited.
func (k *course) hasWaited(d time.Duration) { k.waited += d }

// keepsLease reports whether the attempt after one that was not sent has what that one was
// granted, since no server has had any load of it.
func (k *course) keepsLease(a *attemptState) bool {
	return a.Delivery == classify.DeliveryNotSent && a.Outcome.Class == classify.Retryable && a.left == EndUnfinished && !k.hedged
}
