// Package interceptor lets the calls of a gRPC client survive network and server failures.
// It classifies the results, retries within a budget what is safe to repeat, and can say for
// every call what it did and why it stopped.
//
// The rule that surprises people: a request that may have been executed is never sent twice
// unless the method is known to be idempotent. It is known from the idempotency_level in the
// proto file, from a policy, [WithIdempotency] or [WithIdempotencyKey]. After a refused
// connection a retry is always safe. A stream is not retried once the application has its
// first message, unless [WithResume] says how to go on.
//
// Start with [New], and dial with [Interceptor.DialOptions]. Give [WithTimeline] to a call
// to see its attempts.
package interceptor

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
	"weak"

	"google.golang.org/grpc"

	"github.com/rego-go/rego/internal/replay"
	"github.com/rego-go/rego/policy"
)

// Interceptor applies policies to the calls of one or many connections. It owns what calls
// share: budgets, and what is known about methods. It is safe for concurrent use. It need
// not be closed.
type Interceptor struct {
	config
	unwatched bool // it has no observer and no recorder: calls may still have some
	made      time.Time

	retryPolicyTold atomic.Bool
	insideTold      atomic.Bool
	replay          *replay.Memory
	outages         outages
	samples         samples
	rulesSeen       atomic.Pointer[rulesSeen]
	overrides       overrides

	mu      sync.Mutex // nothing foreign is called while it is held
	targets map[string]*target
	conns   map[weak.Pointer[grpc.ClientConn]]*target
}

// New returns an Interceptor. Without options every method has [policy.Default], and each
// target has a budget of its own, [budget.Default]. The error lists every fault of the given
// rules.
func New(opts ...Option) (*Interceptor, error) {
	c := config{
		maxAttempts: DefaultMaxAttempts,
		store:       new(policy.Store),
		log:         slog.Default(),
		newBudget:   defaultBudget,

		callReplayLimit: DefaultCallReplayLimit,
		replayLimit:     DefaultReplayLimit,
	}
	for _, o := range opts {
		if o != nil {
			o.apply(&c)
		}
	}
	if c.maxAttempts < 1 {
		return nil, fmt.Errorf("rego: max attempts must be at least 1, got %d", c.maxAttempts)
	}
	if _, ok := c.classifiers[policy.ClassifierNone]; ok {
		return nil, fmt.Errorf("rego: a classifier cannot be named %q", policy.ClassifierNone)
	}
	var err error
	if c.code, err = (policy.Set{Rules: c.rules}).Compile(); err != nil {
		return nil, fmt.Errorf("rego: %w", err)
	}
	if err = c.resolve(c.code); err != nil {
		return nil, fmt.Errorf("rego: %w", err)
	}
	if err = c.limits.Validate(); err != nil {
		return nil, fmt.Errorf("rego: limits: %w", err)
	}
	for _, check := range []func(*policy.Table) error{c.limits.Check, c.resolve, c.checkOverrides} {
		if err = c.store.Guard(check); err != nil {
			return nil, fmt.Errorf("rego: policies: %w", err)
		}
	}
	for _, o := range slices.Concat(c.observers, c.recorders) {
		o.log = c.log
	}
	for _, t := range c.triggers {
		t.log = c.log
	}
	it := &Interceptor{
		config:    c,
		unwatched: len(c.observers) == 0 && len(c.recorders) == 0,
		made:      time.Now(),
		replay:    replay.NewMemory(c.replayLimit),
		targets:   make(map[string]*target),
		conns:     make(map[weak.Pointer[grpc.ClientConn]]*target),
	}
	c.store.Review(it.review)
	if unknown := it.rulesState().Unknown; len(unknown) > 0 {
		c.log.Warn("rego: rules name methods that their services do not have, by the proto files of the program: they may be misspelt", "methods", unknown)
	}
	return it, nil
}

// Unary returns the interceptor of unary calls, for grpc.WithChainUnaryInterceptor.
// Interceptors that come before it in the chain see one call, those that come after it see
// every attempt. An interceptor after it may return before the invoker that it has called.
// Then it must keep that invoker from writing to the reply: the next attempt writes there,
// too. Prefer [Interceptor.DialOptions], which also turns off grpc's own retries.
func (it *Interceptor) Unary() grpc.UnaryClientInterceptor {
	return it.door(false).unary
}

// Stream returns the interceptor of streams, for grpc.WithChainStreamInterceptor. It retries
// and hedges a stream until the application has the first message, and never after: no
// message is delivered twice. What the application sends until then is kept within
// [WithCallReplayLimit]. Interceptors that come after it in the chain see every attempt.
// They must pass on its call options: otherwise rego cannot know what was sent and how an
// attempt ended. Prefer [Interceptor.DialOptions].
func (it *Interceptor) Stream() grpc.StreamClientInterceptor {
	return it.door(false).stream
}

// DialOptions returns what a connection needs: the interceptors for unary calls and for
// streams, and grpc.WithDisableRetry, because grpc's own retries below would multiply the
// attempts. A retryPolicy in the service config is not lost: it is the policy of methods
// that no rule covers ([ChannelPolicy]). grpc's transparent retries stay on. They send again
// what no server has looked at.
//
// If they are given twice, or together with another interceptor of rego, the first one in
// the chain makes the attempts. The others let its calls pass, and say so once in the log.
func (it *Interceptor) DialOptions() []grpc.DialOption {
	d := it.door(true)
	return []grpc.DialOption{
		grpc.WithDisableRetry(),
		grpc.WithChainUnaryInterceptor(d.unary),
		grpc.WithChainStreamInterceptor(d.stream),
	}
}

// door is where calls come in: one pair of interceptors.
type door struct {
	interceptor   *Interceptor
	insteadOfGRPC bool // grpc's own retries are off

	recent atomic.Pointer[visit]
}

// visit is the last connection that calls came from. Its address alone is kept, so that a
// connection which nobody uses any more is not.
type visit struct {
	conn   uintptr
	target *target
}

// door returns one for an interceptor that [New] has made. Through any other, and through
// nil, calls pass as they are.
func (it *Interceptor) door(insteadOfGRPC bool) *door {
	if it == nil || it.targets == nil {
		return new(door)
	}
	return &door{interceptor: it, insteadOfGRPC: insteadOfGRPC}
}

// stream makes a streaming call.
func (d *door) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if d.passes(method, cc, opts) {
		return streamer(ctx, desc, cc, method, opts...)
	}
	s := newStream(d, desc, cc, method, streamer)
	if err := s.configure(ctx, opts); err != nil {
		s.callOnFinish(err)
		return nil, err
	}
	return s.start(ctx)
}

// passes reports whether a call is none of rego's business: there is nothing that could
// see to it, or another interceptor does already.
func (d *door) passes(method string, cc *grpc.ClientConn, opts []grpc.CallOption) bool {
	if d.interceptor == nil {
		return true
	}
	for _, o := range opts {
		if in, ok := o.(*insideOption); ok && in.conn == cc {
			if it := d.interceptor; !it.insideTold.Swap(true) {
				it.log.Warn("rego: the connection has two of rego's interceptors: the first makes the attempts, this one lets them pass",
					"method", method, "target", targetName(cc))
			}
			return true
		}
	}
	return false
}

// tellOfRetryPolicy logs once, before an attempt that grpc does not know of, that attempts
// may multiply. grpc cannot tell an interceptor whether its own retries are on.
func (d *door) tellOfRetryPolicy(cc *grpc.ClientConn, method string) {
	it := d.interceptor
	if d.insteadOfGRPC || cc == nil || it.retryPolicyTold.Load() {
		return
	}
	if cc.GetMethodConfig(method).RetryPolicy == nil || it.retryPolicyTold.Swap(true) {
		return
	}
	it.log.Warn("rego: the service config has a retryPolicy, so attempts may multiply: dial with DialOptions or grpc.WithDisableRetry",
		"method", method, "target", cc.Target())
}

// target returns what is shared by the calls to one target.
func (d *door) target(cc *grpc.ClientConn) *target {
	conn := uintptr(unsafe.Pointer(cc))
	if v := d.recent.Load(); v != nil && v.conn == conn && v.target.name == targetName(cc) && !v.target.gone.Load() {
		return v.target
	}
	t := d.interceptor.target(cc)
	if d.insteadOfGRPC {
		t.insteadOfGRPC.Store(true)
	}
	d.recent.Store(&visit{conn, t})
	return t
}

func targetName(cc *grpc.ClientConn) string {
	if cc == nil {
		return ""
	}
	return cc.Target()
}

// target returns what calls share that go where a connection goes, until the last of
// those connections is gone.
func (it *Interceptor) target(cc *grpc.ClientConn) *target {
	t, isNew := it.meet(cc)
	if !isNew {
		return t
	}
	made := false
	defer func() {
		if !made { // the maker has panicked, and is asked again by the next call
			it.mu.Lock()
			defer it.mu.Unlock()
			delete(it.targets, t.name)
			delete(it.conns, weak.Make(cc))
		}
	}()
	b := it.newBudget(t.name)
	made = true
	t.setBudget(b)
	return t
}

func (it *Interceptor) meet(cc *grpc.ClientConn) (t *target, isNew bool) {
	who, name := weak.Make(cc), targetName(cc)
	it.mu.Lock()
	defer it.mu.Unlock()
	if t, ok := it.conns[who]; ok {
		return t, false
	}
	t, ok := it.targets[name]
	if !ok {
		t = newTarget(it, name)
		it.targets[name] = t
	}
	it.conns[who] = t
	t.conns++
	if cc != nil {
		runtime.AddCleanup(cc, it.leave, who)
	}
	return t, !ok
}

// leave forgets a connection that nobody uses any more.
func (it *Interceptor) leave(who weak.Pointer[grpc.ClientConn]) {
	it.mu.Lock()
	defer it.mu.Unlock()
	t, ok := it.conns[who]
	if !ok {
		return
	}
	delete(it.conns, who)
	if t.conns--; t.conns == 0 && it.targets[t.name] == t {
		delete(it.targets, t.name)
		t.gone.Store(true)
		it.samples.forget(t)
	}
}

// insideOption is among the options of every attempt, and tells another interceptor of
// rego on the same connection that this one makes them.
type insideOption struct {
	grpc.EmptyCallOption
	conn *grpc.ClientConn
}
