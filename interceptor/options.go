package interceptor

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"

	"google.golang.org/grpc"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/hedge"
	"github.com/rego-go/rego/policy"
)

// DefaultMaxAttempts is the most attempts a call may make, whatever its policy
// asks for, unless [WithMaxAttempts] says otherwise (gRFC A6's cap).
const DefaultMaxAttempts = 5

// Option configures [New].
type Option interface{ apply(*config) }

// CallOption configures one call. It is a grpc.CallOption, and harmless where
// the interceptor is not installed.
type CallOption struct {
	grpc.EmptyCallOption
	call func(*call) error
}

// set applies the option; the zero one does nothing.
func (o CallOption) set(c *call) error {
	if o.call == nil {
		return nil
	}
	return o.call(c)
}

// DualOption is both an [Option], for every call, and a grpc.CallOption, for one.
type DualOption struct {
	CallOption
	all func(*config)
}

func (o DualOption) apply(c *config) {
	if o.all != nil {
		o.all(c)
	}
}

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

type config struct {
	code        *policy.Table // compiled from rules; stronger than store
	store       *policy.Store
	limits      policy.Limits // of the sets in store
	rules       []policy.Rule
	maxAttempts int
	budgets     map[string]budget.Budget
	newBudget   func(target string) budget.Budget
	classifiers map[string]classify.Classifier
	triggers    map[string]*guardedTrigger
	observers   []*guarded
	recorders   []*guarded
	log         *slog.Logger

	callReplayLimit int64
	replayLimit     int64
}

func defaultBudget(string) budget.Budget { return budget.Default() }

// WithPolicies takes the policies of methods from st, for the life of the
// interceptor: every call uses what st holds when the call starts. From now on
// st refuses sets that name a budget or classifier the interceptor does not
// have. Default, and what nil means: no store. The last one given counts.
func WithPolicies(st *policy.Store) Option {
	return optionFunc(func(c *config) { c.store = cmp.Or(st, new(policy.Store)) })
}

// WithLimits sets guard rails that no set can climb over: the store of [WithPolicies] refuses
// sets that exceed them. And it sets the fields in which a set has the last word over a rule
// in code ([policy.Limits.Overridable]). Rules in code and policies of calls are not limited.
// Default: nothing is limited, and rules in code are stronger in all. The last one given
// counts.
func WithLimits(l policy.Limits) Option {
	return optionFunc(func(c *config) { c.limits = l })
}

// WithRules adds rules that are fixed in code. A rule in code is stronger than
// anything a store says of the same method, unless [WithLimits] says otherwise.
// Default: no rules.
func WithRules(rules ...policy.Rule) Option {
	return optionFunc(func(c *config) { c.rules = append(c.rules, rules...) })
}

// WithPolicy sets the policy of a call, or, given to [New], that of every method
// as one rule in code. A call whose policy is invalid, or names a budget or
// classifier the interceptor does not have, fails with INTERNAL and the faults
// before anything is sent.
func WithPolicy(p policy.Policy) DualOption { return readyPolicy(p) }

// WithIdempotency declares what repeating this call's request does. It is
// stronger than policy and descriptor.
func WithIdempotency(i classify.Idempotency) CallOption {
	return CallOption{call: func(c *call) error {
		if !i.Valid() {
			return fmt.Errorf("idempotency: unknown value %d", i)
		}
		c.settings.idempotency = i
		return nil
	}}
}

// IdempotencyKeyHeader is the request metadata of [WithIdempotencyKey]
// (draft-ietf-httpapi-idempotency-key-header).
const IdempotencyKeyHeader = "idempotency-key"

// WithIdempotencyKey sends key as "idempotency-key" metadata on every attempt,
// replacing what the caller set, and declares the call idempotent, since a server
// that honours the key executes it once. An empty key stands for a random one of
// 128 bits, new for each call. Use it only with servers that honour the key.
func WithIdempotencyKey(key string) CallOption {
	return CallOption{call: func(c *call) error {
		c.settings.idempotencyKey, c.settings.sendKey = key, true
		return nil
	}}
}

// WithTimeline fills t when the call ends, like grpc.Peer, whatever its result.
// t must not be read before that. A stream has ended when RecvMsg has returned an
// error or io.EOF, or the only answer there is; one that is abandoned ends with its
// context, on another goroutine, before its grpc.OnFinish is called.
func WithTimeline(t *Timeline) CallOption {
	return CallOption{call: func(c *call) error {
		c.settings.timelineTo = t
		return nil
	}}
}

// WithObserver tells o of calls and attempts: of every call, or of one. It may be
// given more than once; nil is ignored. Default: no observer.
func WithObserver(o Observer) DualOption {
	if o == nil {
		return DualOption{}
	}
	return DualOption{
		CallOption: CallOption{call: func(c *call) error {
			c.observers = append(slices.Clip(c.observers), &guarded{observer: o, log: c.interceptor.log})
			return nil
		}},
		all: func(c *config) { c.observers = append(c.observers, &guarded{observer: o}) },
	}
}

// WithMaxAttempts sets the most attempts of a call, whatever its policy asks for.
// No policy can lift it. Default: 5.
func WithMaxAttempts(n int) Option {
	return optionFunc(func(c *config) { c.maxAttempts = n })
}

// WithBudget makes b known to policies as name. All methods whose policy names it
// share it, over all targets. Nil means no limit. A set of the store cannot define
// another budget of that name.
func WithBudget(name string, b budget.Budget) Option {
	return optionFunc(func(c *config) {
		if c.budgets == nil {
			c.budgets = make(map[string]budget.Budget)
		}
		c.budgets[name] = b
	})
}

// WithTargetBudget sets how the budget that the calls to one target share is
// made. It is called once per target; nil from it means no limit. Default, and
// what a nil function means: budget.Default.
func WithTargetBudget(newBudget func(target string) budget.Budget) Option {
	return optionFunc(func(c *config) {
		if c.newBudget = newBudget; newBudget == nil {
			c.newBudget = defaultBudget
		}
	})
}

// WithClassifier makes cl known to policies as name, which cannot be
// policy.ClassifierNone. Nil means classify.GRPC.
func WithClassifier(name string, cl classify.Classifier) Option {
	return optionFunc(func(c *config) {
		if c.classifiers == nil {
			c.classifiers = make(map[string]classify.Classifier)
		}
		c.classifiers[name] = cl
	})
}

// WithTrigger makes t known to policies as name: in Hedge.Trigger, where it says when hedges
// are due in the place of a delay. It is one for all methods and targets. Nil never wants a
// hedge. One that panics ends hedging for the call that it was asked about, which goes on;
// the first time is reported through the logger.
func WithTrigger(name string, t hedge.Trigger) Option {
	return optionFunc(func(c *config) {
		if c.triggers == nil {
			c.triggers = make(map[string]*guardedTrigger)
		}
		c.triggers[name] = &guardedTrigger{trigger: t, name: name}
	})
}

const (
	// DefaultCallReplayLimit is the most bytes of messages that one stream keeps for
	// replay, unless [WithCallReplayLimit] says otherwise (grpc's own default).
	DefaultCallReplayLimit = 256 << 10
	// DefaultReplayLimit is the most bytes that all streams of an interceptor keep,
	// unless [WithReplayLimit] says otherwise.
	DefaultReplayLimit = 16 << 20
)

// WithCallReplayLimit sets how much memory one stream may keep of the messages that
// the application has sent on it, so that another attempt can send them again: of
// every stream, or of one. When a message does not fit, the stream is committed to
// the attempt that has sent most: nothing fails, but it cannot be retried or hedged
// any more. Default: 256 KiB, as grpc's own retries have it. Zero keeps nothing.
func WithCallReplayLimit(bytes int) DualOption {
	return DualOption{
		CallOption: CallOption{call: func(c *call) error {
			c.settings.replayLimit = int64(bytes)
			return nil
		}},
		all: func(c *config) { c.callReplayLimit = int64(bytes) },
	}
}

// WithReplayLimit sets how much memory all streams of an interceptor together may
// keep, each within its own limit. Default: 16 MiB. Zero keeps nothing.
func WithReplayLimit(bytes int) Option {
	return optionFunc(func(c *config) { c.replayLimit = int64(bytes) })
}

// WithResume lets a server stream go on after messages were handed to the
// application, which otherwise ends every retry: when the stream then fails in a way
// that is retryable, resume makes the request that continues it from the last
// message the application got and the request that was sent last: what resume returned, if
// the stream has been resumed before. If ok is false the stream ends as it does without
// the option. What resume returns is sent under the rules for retries: idempotency,
// deadline and budget count for the whole call; attempts and waits are counted anew once
// there is a message, so that a stream that gets on may go on for years. The application must
// not change a message before it has the next one. Streams of other kinds, of other
// message types, and unary calls ignore the option.
func WithResume[Res, Req any](resume func(last *Res, request *Req) (next *Req, ok bool)) CallOption {
	if resume == nil {
		return CallOption{}
	}
	return CallOption{call: func(c *call) error {
		c.settings.resume = func(last, request any) (any, bool) {
			l, isRes := last.(*Res)
			r, isReq := request.(*Req)
			if !isRes || !isReq {
				return nil, false
			}
			return resume(l, r)
		}
		return nil
	}}
}

// WithLogger sets where the interceptor reports what it says once: a broken
// observer, a retryPolicy underneath. Default, and what nil means: slog.Default.
func WithLogger(l *slog.Logger) Option {
	return optionFunc(func(c *config) { c.log = cmp.Or(l, slog.Default()) })
}

// unresolved returns a fault for each name in p that means nothing here. defined
// knows the budgets of the set that p is from, if it is from one.
func (c *config) unresolved(path string, p *policy.Policy, defined *policy.Table) (faults policy.Faults) {
	if p.Budget != "" {
		_, inCode := c.budgets[p.Budget]
		_, inSet := defined.Budget(p.Budget)
		if !inCode && !inSet {
			faults = append(faults, policy.Fault{Path: path + "budget", Policy: p.Name, Text: fmt.Sprintf("no budget is named %q", p.Budget)})
		}
	}
	if _, ok := c.classifiers[p.Classifier]; !ok && p.Classifier != "" && p.Classifier != policy.ClassifierNone {
		faults = append(faults, policy.Fault{Path: path + "classifier", Policy: p.Name, Text: fmt.Sprintf("no classifier is named %q", p.Classifier)})
	}
	if name := p.Hedge.Trigger; name != "" && c.triggers[name] == nil {
		faults = append(faults, policy.Fault{Path: path + "hedge.trigger", Policy: p.Name, Text: fmt.Sprintf("no trigger is named %q", name)})
	}
	return faults
}

// resolve returns a fault for each name in a set that means nothing here, or
// something else.
func (c *config) resolve(t *policy.Table) error {
	var faults policy.Faults
	set := t.Set()
	for i, b := range set.Budgets {
		if _, ok := c.budgets[b.Name]; ok {
			faults = append(faults, policy.Fault{Path: fmt.Sprintf("budgets[%d].name", i), Text: fmt.Sprintf("%q is defined in code", b.Name)})
		}
	}
	for i := range set.Rules {
		p := &set.Rules[i].Policy
		if p.Budget != "" || p.Classifier != "" || p.Hedge.Trigger != "" {
			faults = append(faults, c.unresolved(fmt.Sprintf("rules[%d].policy.", i), p, t)...)
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return faults
}
