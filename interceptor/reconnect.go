package interceptor

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/rego-go/rego/budget"
)

// outage is a time in which a channel has no connection. It begins when a call finds that
// its attempt was not sent.
//
// While calls wait, grpc is asked to dial sooner than its own backoff does: that grows to
// minutes, and a server is mostly back within a second. A pause of 250 to 300 ms lies
// between two of these, so that a channel dials each address at most four times a second.
type outage struct {
	conn  *grpc.ClientConn
	began time.Time
	over  chan struct{} // closed when it is

	// Guarded by the mu of outages.
	joined int         // calls that look at it, or wait for its end
	until  time.Time   // when the last of them gives up
	timer  *time.Timer // for the next dial; nil if nobody has waited since the last one
}

const (
	leastPause = 250 * time.Millisecond
	mostPause  = 300 * time.Millisecond
)

// outages are those of an interceptor's channels. The zero value is ready.
type outages struct {
	mu     sync.Mutex // grpc is not called while it is held
	byConn map[*grpc.ClientConn]*outage
}

// join returns the outage of a channel, which does not end for idleness before leave. It
// returns nil if the channel has a connection, or is closed.
func (os *outages) join(conn *grpc.ClientConn, now time.Time) *outage {
	if s := conn.GetState(); s == connectivity.Ready || s == connectivity.Shutdown {
		return nil
	}
	os.mu.Lock()
	defer os.mu.Unlock()
	o, ok := os.byConn[conn]
	if !ok {
		o = &outage{conn: conn, began: now, over: make(chan struct{})}
		if os.byConn == nil {
			os.byConn = make(map[*grpc.ClientConn]*outage)
		}
		os.byConn[conn] = o
		go os.watch(o)
	}
	o.joined++
	return o
}

func (os *outages) leave(o *outage) {
	os.mu.Lock()
	defer os.mu.Unlock()
	o.joined--
}

// keepDialling has grpc dial again and again for somebody who waits for the outage to end.
func (os *outages) keepDialling(o *outage, until time.Time) {
	os.mu.Lock()
	defer os.mu.Unlock()
	if until.After(o.until) {
		o.until = until
	}
	if o.timer == nil {
		o.timer = time.AfterFunc(pause(), func() { os.dial(o) })
	}
}

// watch ends an outage when the channel is ready, closed, or left idle. So its goroutine
// lives no longer than those with which grpc tries to connect.
func (os *outages) watch(o *outage) {
	for {
		state := o.conn.GetState()
		if os.isOver(o, state) {
			return
		}
		if state == connectivity.Idle {
			o.conn.Connect()
		}
		o.conn.WaitForStateChange(context.Background(), state)
	}
}

func (os *outages) isOver(o *outage, state connectivity.State) bool {
	os.mu.Lock()
	defer os.mu.Unlock()
	switch state {
	case connectivity.Ready, connectivity.Shutdown:
	case connectivity.Idle:
		if o.joined > 0 {
			return false
		}
	default:
		return false
	}
	delete(os.byConn, o.conn)
	if o.timer != nil {
		o.timer.Stop()
	}
	close(o.over)
	return true
}

// dial has grpc dial now, if somebody waits.
func (os *outages) dial(o *outage) {
	os.mu.Lock()
	wanted := o.joined > 0 && time.Now().Before(o.until)
	if wanted {
		o.timer.Reset(pause())
	} else {
		o.timer = nil
	}
	os.mu.Unlock()
	if wanted {
		o.conn.ResetConnectBackoff()
	}
}

func pause() time.Duration { return leastPause + rand.N(mostPause-leastPause) }

// reconnects waits, after an attempt that was not sent, for the connection that the channel
// is without, and reports whether the attempt is to be made again.
func (c *call) reconnects(a *attempt) bool {
	if c.conn == nil || !c.mayReconnect(a) {
		return false
	}
	now := time.Now()
	o := c.interceptor.outages.join(c.conn, now)
	if o == nil {
		return false
	}
	defer c.interceptor.outages.leave(o)
	c.mu.Lock()
	until, waits := c.course.reconnect(&a.attemptState, c.momentAt(now), o.began)
	c.mu.Unlock()
	if !waits {
		return false
	}
	c.tellOfOutage(a, until.Sub(now))
	a.lease.Pause()
	c.interceptor.outages.keepDialling(o, until)
	a.reconnected = o.isOverBy(c.contextOf(a), until)
	a.Unreachable = time.Since(now)
	c.mu.Lock()
	c.course.hasWaited(a.Unreachable)
	c.mu.Unlock()
	switch {
	case a.reconnected && a.lease.Resume():
		c.hedgeAnew()
		return true
	case a.reconnected:
		a.unpaid = true
		c.deny(a.Attempt, time.Now(), DeniedByBudget)
	case errors.Is(c.ctx.Err(), context.Canceled):
		a.left = EndCallerCancelled
	case c.hedged && c.isDropped(a):
		a.Outcome = decidedElsewhere
	default:
		a.unreachable = true
	}
	return false
}

// hedgeAnew begins the schedule of hedges when the attempt they are for is sent at last.
func (c *call) hedgeAnew() {
	if !c.hedged {
		return
	}
	c.mu.Lock()
	c.course.hasReconnected()
	c.mu.Unlock()
	c.scheduleHedge(time.Now())
}

func (c *call) mayReconnect(a *attempt) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.course.mayReconnect(&a.attemptState)
}

// isOverBy waits for the end of an outage, and reports whether that came in time.
func (o *outage) isOverBy(ctx context.Context, until time.Time) bool {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-o.over:
		return ctx.Err() == nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// contextOf returns what an attempt is made with.
func (c *call) contextOf(a *attempt) context.Context {
	if a.ctx != nil {
		return a.ctx
	}
	return c.ctx
}

// tellOfOutage tells observers that an attempt waits for a connection.
func (c *call) tellOfOutage(a *attempt, longest time.Duration) {
	if c.watching == nil {
		return
	}
	c.telling.Lock()
	defer c.telling.Unlock()
	c.observe(a.inside, Event{Kind: ReconnectWait, Time: time.Now(), Timeline: c.timeline, Attempt: &a.Attempt, Wait: longest})
}

// remake makes an attempt ready to be made again, as the same one. It is another value where
// grpc may still be writing to what the first one had.
func (c *call) remake(a *attempt) *attempt {
	c.emptyReply(a)
	record := Attempt{
		Number: a.Number, Kind: a.Kind, Start: a.Start, Wait: a.Wait, WaitedOn: a.WaitedOn,
		Resumed: a.Resumed, Unreachable: a.Unreachable,
	}
	var n *attempt
	if c.streaming || !c.endsInTime || !a.done {
		n = c.newAttempt(record, a.lease)
	} else {
		*a.outputs = outputs{inside: insideOption{conn: c.conn}}
		n = &attempt{attemptState: attemptState{Attempt: record}, lease: a.lease, outputs: a.outputs, opts: a.opts}
	}
	n.reconnected, n.timed, n.reply, n.ownReply = true, a.timed, a.reply, a.ownReply
	n.begun, n.ctx, n.cancel, n.inside = a.begun, a.ctx, a.cancel, a.inside
	if until := c.until.Load(); until != nil { // grpc would count its timeout from now
		n.ctx, n.cancel = context.WithDeadline(c.contextOf(a), *until)
		if outer := a.cancel; outer != nil {
			inner := n.cancel
			n.cancel = func() { inner(); outer() }
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n.dropped, n.CancelledAt = a.dropped, a.CancelledAt
	if n.outputs == a.outputs {
		*a = *n
		return a
	}
	a.lease, a.cancel, a.inside = budget.Lease{}, nil, nil
	for i, r := range c.running {
		if r == a {
			c.running[i] = n
		}
	}
	if c.lead == a {
		c.lead = n
	}
	if c.decided == a { // else a hedge has, meanwhile
		c.decided = n
	}
	c.mine = n
	return n
}
