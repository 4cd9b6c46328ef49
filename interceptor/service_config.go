package interceptor

import (
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"

	"github.com/rego-go/rego/policy"
)

// What the channel itself says of a method in its service config, and what it can do now.

// askChannel takes what the service config says now: its timeout, which bounds the call as
// it does without rego, and its retryPolicy, if there is no rule for the method. That
// matters once there is a second attempt, so a call that succeeds does not ask. The first
// call of a channel asks again, since there is no service config before it.
func (c *call) askChannel() {
	if c.conn == nil {
		return
	}
	mc := c.conn.GetMethodConfig(c.method)
	c.boundBy(mc)
	if !c.hedged {
		c.takePolicyOf(mc)
	}
}

// methodConfig is what grpc shows of a channel's service config.
type methodConfig = grpc.MethodConfig //nolint:staticcheck // deprecated to be written, and there is no other to read

// boundBy notes until when the call may take. It may be called by several at once.
func (c *call) boundBy(mc methodConfig) {
	c.plan.method.noteTimeout(mc.Timeout != nil)
	if mc.Timeout == nil || *mc.Timeout < 0 { // which grpc-go ignores
		return
	}
	start := c.original.Start
	if start.IsZero() { // the service config has changed since the last call
		start = time.Now()
	}
	until := start.Add(*mc.Timeout)
	c.until.CompareAndSwap(nil, &until)
}

// deadline returns the end of the call: the caller's, the policy's or that of the service
// config.
func (c *call) deadline() (at time.Time, bounded bool) {
	at, bounded = c.ctx.Deadline()
	if until := c.until.Load(); until != nil && (!bounded || until.Before(at)) {
		return *until, true
	}
	return at, bounded
}

// isOver reports whether the end of the call has come, also if no timer has fired yet.
func (c *call) isOver() bool {
	at, bounded := c.deadline()
	return bounded && !time.Now().Before(at)
}

// learnClock notes, after a call that was timed in case it would have to ask the channel,
// whether calls of the method are to be timed at all.
func (c *call) learnClock() {
	if m := c.plan.method; m.clocked.Load() {
		m.noteTimeout(c.conn != nil && c.conn.GetMethodConfig(c.method).Timeout != nil)
	}
}

// noteTimeout notes whether the service config of a connection bounds calls. Those of another to the
// same target may say otherwise, so once one does, all calls are timed.
func (m *method) noteTimeout(bounds bool) {
	if bounds {
		m.hasTimeout.Store(true)
	}
	m.clocked.Store(m.hasTimeout.Load())
}

// takePolicyOf makes the retryPolicy of the channel the call's policy if that has been
// found nowhere, or only in the proto file, and if rego has switched off what would obey
// it otherwise.
func (c *call) takePolicyOf(mc methodConfig) {
	if !c.plan.open || !c.insteadOfGRPC || mc.RetryPolicy == nil {
		return
	}
	c.follow(c.target(c.conn).channelPlan(c.plan.method, mc))
	if c.watching != nil {
		c.telling.Lock()
		defer c.telling.Unlock()
		c.timeline.Policy, c.timeline.PolicyVersion = c.plan.policy.Name, c.plan.version
	}
}

// ChannelPolicy is the name of policies that are from the retryPolicy of a channel's service
// config.
const ChannelPolicy = "service config of the channel"

// channelPolicy returns what a retryPolicy means, as policy.FromServiceConfig has it.
// grpc has checked it.
func channelPolicy(mc methodConfig) policy.Policy {
	rp := mc.RetryPolicy
	initial := min(rp.InitialBackoff, rp.MaxBackoff, policy.MaxDuration)
	p := policy.Policy{
		Name:   ChannelPolicy,
		AsGRPC: true,
		Retry: policy.Retry{
			MaxAttempts: rp.MaxAttempts, // which grpc has capped
			Backoff: policy.Backoff{
				Initial:    initial,
				Multiplier: min(rp.BackoffMultiplier, policy.MaxMultiplier),
				Max:        max(min(rp.MaxBackoff, policy.MaxDuration), initial),
				Jitter:     policy.JitterProportional,
			},
		},
	}
	for code := range rp.RetryableStatusCodes {
		if code != codes.OK {
			p.Retry.Codes = append(p.Retry.Codes, code)
		}
	}
	slices.Sort(p.Retry.Codes)
	return p
}

// maxChannels bounds what is kept of the policies of channels, which are made anew with
// every service config.
const maxChannels = 1024

type channelKey struct {
	method      *method
	retryPolicy any
}

// channelPlan returns the plan of a method whose policy is the channel's retryPolicy.
func (t *target) channelPlan(m *method, mc methodConfig) *plan {
	t.mu.Lock()
	defer t.mu.Unlock()
	table := t.tableLocked()
	k := channelKey{m, mc.RetryPolicy}
	if p, ok := t.channels[k]; ok {
		return p
	}
	p := channelPolicy(mc)
	if len(t.channels) >= maxChannels {
		clear(t.channels)
	}
	t.channels[k] = t.newPlanLocked(&p, "", table, m)
	return t.channels[k]
}

// isReady reports whether the channel has a connection, as far as is known.
func (c *call) isReady() bool {
	return c.conn == nil || c.conn.GetState() == connectivity.Ready
}

// canSend reports whether a hedge would get a connection: at once, or after a GOAWAY a
// new one. In the first case the channel is ready. In the second it is idle, or
// connecting again, and the attempts that run have the connection that goes away: calls
// that wait for a connection cannot be the reason, since a call finds no idle channel
// without waking it, and it was ready when this call began.
func (c *call) canSend() bool {
	if c.conn == nil {
		return true
	}
	switch c.conn.GetState() {
	case connectivity.Ready:
		return true
	case connectivity.Idle, connectivity.Connecting:
		return c.wasReady
	default:
		return false
	}
}
