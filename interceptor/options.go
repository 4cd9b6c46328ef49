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

// DefaultMaxAttempts is the most attempts of a call, whatever its policy asks for, unless
// [WithMaxAttempts] says otherwise (gRFC A6's cap).
const DefaultMaxAttempts = 5

// Option configures [New].
type Option interface{ apply(*config) }

// CallOption configures one call. It is a grpc.CallOption. Without the interceptor it has no
// effect.
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

// WithPolicies takes the policies of methods from st, for the life of the interceptor: every
// call uses what st holds when the call starts. From now on st refuses sets that name a
// budget, classifier or trigger that the interceptor does not have. Default, and what nil
// means: no store. The last one given counts.
func WithPolicies(st *policy.Store) Option {
	return optionFunc(func(c *config) { c.store = cmp.Or(st, new(policy.Store)) })
}

// WithLimits sets limits that no set can exceed: the store of [WithPolicies] refuses sets
// beyond them. It also sets the fields in which a set is stronger than a rule in code
// ([policy.Limits.Overridable]). Rules in code and policies of calls are not limited.
// Default: nothing is limited, and rules in code are stronger in all fields. The last one
// given counts.
func WithLimits(l policy.Limits) Option {
	return optionFunc(func(c *config) { c.limits = l })
}

// WithRules adds rules in code. A rule in code is stronger than anything that a store says
// about the same method, unless [WithLimits] says otherwise. Default: no rules.
func WithRules(rules ...policy.Rule) Option {
	return optionFunc(func(c *config) { c.rules = append(c.rules, rules...) })
}

// WithPolicy sets the policy of a call. Given to [New], it sets the policy of every method,
// as one rule in code. If the policy is invalid, or names a budget or classifier that the
// interceptor does not have, the call fails with INTERNAL and the faults before anything is
// sent.
func WithPolicy(p policy.Policy) DualOption { return readyPolicy(p) }

// WithIdempotency declares what happens if this call's request is repeated. It is stronger
// than policy and descriptor.
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

// WithIdempotencyKey sends key as "idempotency-key" metadata on every attempt, in place of
// what the caller set, and declares the call idempotent, because a server that honors the
// key executes it once. An empty key stands for a random one of 128 bits, new for each call.
// Use it only if the server honors the key: otherwise the server may do the work twice.
func WithIdempotencyKey(key string) CallOption {
	return CallOption{call: func(c *call) error {
		c.settings.idempotencyKey, c.settings.sendKey = key, true
		return nil
	}}
}

// WithTimeline fills t when the call ends, like grpc.Peer, whatever its result. Do not read
// t before that: it would be a data race. A stream has ended when RecvMsg has returned an
// error, io.EOF, or the only answer. An abandoned stream ends with its context, on another
// goroutine, before its grpc.OnFinish is called.
func WithTimeline(t *Timeline) CallOption {
	return CallOption{call: func(c *call) error {
		c.settings.timelineTo = t
		return nil
	}}
}

// WithObserver tells o of the attempts and the end of every call, or of one call. It may be
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

// WithMaxAttempts sets the most attempts of a call, whatever its policy asks for. No policy
// can exceed it. Default: 5.
func WithMaxAttempts(n int) Option {
	return optionFunc(func(c *config) { c.maxAttempts = n })
}

// WithBudget gives b a name for policies. All methods whose policies name it share it, over
// all targets. Nil means no limit. A set of the store cannot define another budget of that
// name.
func WithBudget(name string, b budget.Budget) Option {
	return optionFunc(func(c *config) {
		if c.budgets == nil {
			c.budgets = make(map[string]budget.Budget)
		}
		c.budgets[name] = b
	})
}

// WithTargetBudget sets the function that makes the budget that the calls to one target
// share. It is called once per target. If it returns nil, there is no limit. Default, and
// what a nil function means: budget.Default.
func WithTargetBudget(newBudget func(target string) budget.Budget) Option {
	return optionFunc(func(c *config) {
		if c.newBudget = newBudget; newBudget == nil {
			c.newBudget = defaultBudget
		}
	})
}

// WithClassifier gives cl a name for policies, which must not be policy.ClassifierNone. Nil
// means classify.GRPC.
func WithClassifier(name string, cl classify.Classifier) Option {
	return optionFunc(func(c *config) {
		if c.classifiers == nil {
			c.classifiers = make(map[string]classify.Classifier)
		}
		c.classifiers[name] = cl
	})
}

// WithTrigger gives t a name for policies: Hedge.Trigger. Then t says when hedges are due,
// instead of a delay. It is one trigger for all methods and targets. Nil never wants a
// hedge. If t panics, the call that it was asked about goes on without hedging. The first
// panic is reported through the logger.
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

// WithCallReplayLimit sets how many bytes of the application's messages a stream keeps, so
// that another attempt can send them again. It is for every stream, or for one. If a message
// does not fit, the stream is committed to the attempt that has sent most: nothing fails,
// but the stream cannot be retried or hedged any more. Default: 256 KiB, as in grpc's own
// retries. Zero keeps nothing.
func WithCallReplayLimit(bytes int) DualOption {
	return DualOption{
		CallOption: CallOption{call: func(c *call) error {
			c.settings.replayLimit = int64(bytes)
			return nil
		}},
		all: func(c *config) { c.callReplayLimit = int64(bytes) },
	}
}

// WithReplayLimit sets how many bytes all streams of an interceptor together may keep, each
// within its own limit. Default: 16 MiB. Zero keeps nothing.
func WithReplayLimit(bytes int) Option {
	return optionFunc(func(c *config) { c.replayLimit = int64(bytes) })
}

// WithResume lets a server stream go on after the application has received messages. Without
// it nothing is retried then. When the stream fails in a way that is retryable, resume makes
// the request that continues it. It gets the last message that the application got, and the
// request that was sent last: what resume returned, if the stream has been resumed before.
// If ok is false, the stream ends as it does without the option.
//
// The rules for retries hold for what resume returns. Idempotency, deadline and budget count
// for the whole call. Attempts and waits are counted from the start again after each
// message, so a stream that makes progress may go on for years. The application must not
// change a message before it has the next one: otherwise resume sees the change. Unary
// calls, streams of other kinds and of other message types ignore the option.
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

// WithLogger sets where the interceptor reports what it says once, such as a broken observer
// or a retryPolicy below. Default, and what nil means: slog.Default.
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
