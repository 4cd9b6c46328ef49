// Package interceptor makes the calls of a gRPC client survive real networks: it
// classifies what comes back, repeats what is safe to repeat within a budget, and
// can tell of every call what it did and why it stopped.
//
// The rule that surprises people: a request that may have been executed is never
// sent twice unless the method is known to be idempotent. What makes it known is
// the idempotency_level in the proto file, a policy, [WithIdempotency] or
// [WithIdempotencyKey]. A refused connection is always safe to retry. And a stream is
// not retried once its first message is with the application, unless [WithResume]
// says how to go on.
//
// Start with [New], and dial with [Interceptor.DialOptions]. Give [WithTimeline]
// to a call to see its attempts.
package interceptor

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	"github.com/rego-go/rego/policy"
)

// Interceptor applies policies to the calls of one or many connections. It owns
// what calls share: budgets and what is learned of methods. It is safe for
// concurrent use and needs no closing.
type Interceptor struct {
	config

	retryPolicyTold atomic.Bool
	replay          sharedReplay

	recent  atomic.Pointer[target]
	mu      sync.Mutex
	targets map[string]*target
}

// New returns an Interceptor. Without options every method has policy.Default,
// and each target a budget of its own, budget.Default. The error tells every
// fault of the rules given.
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
		o.apply(&c)
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
	if err = c.store.Guard(c.resolve); err != nil {
		return nil, fmt.Errorf("rego: policies: %w", err)
	}
	for _, o := range c.observers {
		o.log = c.log
	}
	return &Interceptor{config: c, targets: make(map[string]*target), replay: sharedReplay{limit: c.replayLimit}}, nil
}

// Unary returns the interceptor of unary calls, for
// grpc.WithChainUnaryInterceptor. Interceptors that come before it in the chain
// see one call, those that come after see every attempt; these must not return
// before their own attempts have, since what grpc writes to is used again for
// other calls. Prefer [Interceptor.DialOptions], which also turns off grpc's own
// retries.
func (it *Interceptor) Unary() grpc.UnaryClientInterceptor {
	return it.unaryWith(it.tellOfRetryPolicy)
}

// Stream returns the interceptor of streaming calls, for
// grpc.WithChainStreamInterceptor. It retries and hedges a stream until the first
// message is handed to the application, and never after: no message is delivered
// twice. What the application sends until then is kept within
// [WithCallReplayLimit]. Interceptors that come after it in the chain see every
// attempt, and must hand its call options on. Prefer [Interceptor.DialOptions].
func (it *Interceptor) Stream() grpc.StreamClientInterceptor {
	return it.streamWith(it.tellOfRetryPolicy)
}

// DialOptions returns what a connection needs: the interceptors for unary and
// for streaming calls, and grpc.WithDisableRetry, since a retryPolicy in the
// service config underneath would multiply the attempts. The transparent retries
// of grpc, of requests that no server has looked at, stay on.
func (it *Interceptor) DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithDisableRetry(),
		grpc.WithChainUnaryInterceptor(it.unaryWith(nil)),
		grpc.WithChainStreamInterceptor(it.streamWith(nil)),
	}
}

// unaryWith returns the unary interceptor. beforeExtra, if not nil, is told of
// every retry and hedge.
func (it *Interceptor) unaryWith(beforeExtra func(*grpc.ClientConn, string)) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		u := unaries.Get().(*unary)
		defer u.close()
		u.interceptor, u.method, u.req, u.reply, u.conn, u.invoker = it, method, req, reply, cc, invoker
		u.beforeExtra, u.timeline = beforeExtra, &u.own
		err := u.configure(opts)
		if err == nil {
			err = u.run(ctx)
		}
		if u.wantsOutput {
			u.output(err)
		}
		u.ended = true
		return err
	}
}

// streamWith returns the interceptor of streams.
func (it *Interceptor) streamWith(beforeExtra func(*grpc.ClientConn, string)) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		s := newStream(it, desc, cc, method, streamer)
		s.beforeExtra = beforeExtra
		if err := s.configure(opts); err != nil {
			s.err = err
			s.giveOutputs()
			return nil, err
		}
		return s.start(ctx)
	}
}

// tellOfRetryPolicy logs once that attempts may multiply, since grpc cannot tell
// an interceptor whether its own retries are disabled.
func (it *Interceptor) tellOfRetryPolicy(cc *grpc.ClientConn, method string) {
	if cc == nil || it.retryPolicyTold.Load() {
		return
	}
	if cc.GetMethodConfig(method).RetryPolicy == nil || it.retryPolicyTold.Swap(true) {
		return
	}
	it.log.Warn("rego: the service config has a retryPolicy, so attempts may multiply: dial with DialOptions or grpc.WithDisableRetry",
		"method", method, "target", cc.Target())
}

// target returns what is shared by the calls to one target.
func (it *Interceptor) target(cc *grpc.ClientConn) *target {
	name := ""
	if cc != nil {
		name = cc.Target()
	}
	if t := it.recent.Load(); t != nil && t.name == name {
		return t
	}
	it.mu.Lock()
	defer it.mu.Unlock()
	t, ok := it.targets[name]
	if !ok {
		t = newTarget(it, name)
		it.targets[name] = t
	}
	it.recent.Store(t)
	return t
}
