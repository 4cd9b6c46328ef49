package controlplane

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// reporter looks at the totals and keeps what is to be reported, over all streams of a Watcher. What
// the user has to count is called by its own goroutine, so that a slow one holds up nothing else.
type reporter struct {
	count  func() []policy.MethodCounts
	store  *policy.Store
	want   chan struct{} // somebody wants a look
	looked chan struct{} // there was one
	done   chan struct{}

	mu     sync.Mutex
	asked  bool // the server wants reports, or did when it was last heard
	ledger ledger
}

func newReporter(count func() []policy.MethodCounts, st *policy.Store) *reporter {
	return &reporter{
		count: count, store: st,
		want: make(chan struct{}, 1), looked: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

// blur is how long a look may take at a time when another set comes into force. Of one that
// takes longer nobody knows what it saw.
const blur = 250 * time.Millisecond

// run looks when somebody wants it, and whenever another set is in force, until ctx is done.
func (r *reporter) run(ctx context.Context) {
	defer close(r.done)
	for {
		changed := r.store.Changed()
		if r.behind() {
			r.look()
		}
		select {
		case <-changed:
		case <-r.want:
			r.look()
			signal(r.looked)
		case <-ctx.Done():
			return
		}
	}
}

// behind reports whether another set is in force than at the last look.
func (r *reporter) behind() bool {
	now := r.inForce()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked && r.ledger.last != nil && r.ledger.edition != now
}

func (r *reporter) inForce() edition {
	have := r.store.Status()
	return edition{have.Version, have.Epoch, have.Revision}
}

// look takes the totals down. What was counted since the last look belongs to the set that was
// in force then, although the next one came into force a moment ago: a call has the policy that
// was in force when it began.
func (r *reporter) look() {
	before, began := r.inForce(), time.Now()
	total := countsOf(r.count())
	after, quick := r.inForce(), time.Since(began) <= blur
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.asked {
		return
	}
	r.ledger.look(total, after, !quick && (before != after || before != r.ledger.edition))
	if !quick && before != after {
		r.ledger.last = nil // the next look is the first of that set
	}
}

// ask notes whether the server wants reports. Counts of a time when it did not are never reported.
func (r *reporter) ask(wants bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asked = wants; !wants {
		r.ledger = ledger{}
	}
}

func (r *reporter) next() (account, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ledger.next()
}

func (r *reporter) giveBack(a account) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asked {
		r.ledger.giveBack(a)
	}
}

// signal leaves word in a channel of one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// reports is what a stream has to do with them. Only the goroutine that answers may use it.
type reports struct {
	*reporter               // nil if the client has none
	heard     bool          // a response has said whether the server asks
	every     time.Duration // that it asks for; zero if it does not
	tick      *time.Timer   // until the next report
	due       bool          // it is to be sent once there was a look
	sent      chan struct{} // closed when what was to be sent is; nil before the first
}

func newReports(r *reporter) reports {
	never := time.NewTimer(time.Hour)
	never.Stop()
	return reports{reporter: r, tick: never}
}

// asked takes what a response says. The first report follows after any part of the interval,
// so that clients which came together do not report together.
func (r *reports) asked(response *received) {
	if r.reporter == nil || response.refused != nil { // of such a one this has not been read
		return
	}
	every := time.Duration(0)
	if d := response.GetReportEvery().AsDuration(); d > 0 {
		every = min(max(d, reportsAtMost), reportsAtLeast)
	}
	if r.heard && every == r.every {
		return
	}
	r.heard, r.every, r.due = true, every, false
	r.ask(every > 0)
	if every == 0 {
		r.tick.Stop()
		return
	}
	r.tick.Reset(rand.N(every))
	signal(r.want) // what comes from now on counts, if nobody has looked before
}

// ticked has a look taken for the next report.
func (r *reports) ticked() {
	r.due = true
	signal(r.want)
}

// looks returns what says that there was a look.
func (r *reports) looks() <-chan struct{} {
	if r.reporter == nil {
		return nil
	}
	return r.looked
}

// send sends what is due, after a look: two reports at most, which is one more than there is unless
// sets come quickly. It does not wait. A report that grpc does not take is kept for the next stream.
func (r *reports) send(stream regov1.PolicyDiscoveryService_StreamPoliciesClient) {
	if !r.due {
		return
	}
	r.due = false
	r.tick.Reset(r.every + rand.N(r.every/4))
	if r.isSending() {
		return
	}
	sent, from := make(chan struct{}), r.reporter
	r.sent = sent
	go func() { // it ends when the stream does, at the latest
		defer close(sent)
		for range 2 {
			a, some := from.next()
			if !some {
				return
			}
			if stream.Send(&regov1.StreamPoliciesRequest{Report: a.report()}) != nil {
				from.giveBack(a)
				return
			}
		}
	}()
}

func (r *reports) isSending() bool {
	select {
	case <-r.sent:
		return false
	default:
		return r.sent != nil
	}
}

// wait returns when nothing is being sent, since a stream takes one message at a time.
func (r *reports) wait() {
	if r.sent != nil {
		<-r.sent
	}
}
