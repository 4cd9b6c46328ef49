package controlplane

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// outbox takes messages, or fails.
type outbox struct {
	regov1.PolicyDiscoveryService_StreamPoliciesClient
	err  error
	sent []*regov1.StreamPoliciesRequest
}

func (o *outbox) Send(r *regov1.StreamPoliciesRequest) error {
	if o.err == nil {
		o.sent = append(o.sent, r)
	}
	return o.err
}

// TestUnsentReports: what a stream does not take is sent on the next one, once.
func TestUnsentReports(t *testing.T) {
	t.Parallel()
	calls := int64(0)
	from := newReporter(func() []policy.MethodCounts {
		return []policy.MethodCounts{{Method: "/a.B/C", Ends: []policy.EndCount{{Calls: calls}}}}
	}, new(policy.Store))
	from.ask(true)
	from.look()
	var last outbox
	for i, r := range []struct {
		add  int64
		err  error
		want uint64
	}{
		{2, io.EOF, 0},
		{3, io.EOF, 0},
		{4, nil, 9},
		{0, nil, 0},
	} {
		calls += r.add
		from.look()
		stream := &outbox{err: r.err}
		s := newReports(from)
		s.every, s.due = time.Second, true
		s.send(stream)
		s.wait()
		s.send(stream) // it is not due any more
		s.wait()
		sum := uint64(0)
		for _, m := range stream.sent {
			sum += m.GetReport().GetMethods()[0].GetEnds()[0].GetCalls()
		}
		assert.Equal(t, r.want, sum, "%d", i)
		last = *stream
	}
	assert.Empty(t, last.sent, "no report of nothing")
}

// TestSlowLook: whether the calls that a look finds are reported, if it takes long or another set comes
// into force.
func TestSlowLook(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		calls, during := int64(0), func() {}
		st := new(policy.Store)
		r := newReporter(func() []policy.MethodCounts {
			n := calls
			during()
			return []policy.MethodCounts{{Method: "/a.B/C", Ends: []policy.EndCount{{Calls: n}}}}
		}, st)
		update := func(version string) {
			require.NoError(t, st.Update(policy.Set{Version: version}))
		}
		slow := func() { virtual.Sleep(blur + 1) }
		update("1")
		r.ask(true)
		r.look()
		for _, c := range []struct {
			before, during func()
			open           string
			again          string // after another look, with more calls before
		}{
			{nil, nil, "1:1", "1:10"},
			{nil, slow, "1:1", "1:10"}, // one set is in force all the while
			{func() { update("2") }, nil, "1:1", "1:1 2:9"},
			{func() { update("3") }, slow, "", "3:9"},
			{nil, func() { update("4") }, "3:1", "3:1 4:9"},
			{nil, func() { slow(); update("5") }, "", ""}, // nor is it known from where 5 counts
			{nil, func() { virtual.Sleep(blur); update("6") }, "5:1", "5:1 6:9"},
		} {
			calls++
			if c.before != nil {
				c.before()
			}
			if during = func() {}; c.during != nil {
				during = c.during
			}
			r.look()
			assert.Equal(t, c.open, words(r.ledger.open))
			calls, during = calls+9, func() {}
			r.look()
			assert.Equal(t, c.again, words(r.ledger.open))
			r.ledger.open = nil
		}
	})
}

// TestOneSender: an answer waits until a report has been handed to grpc, and the next report is left
// for the one after it.
func TestOneSender(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stream := new(outbox)
		from := newReporter(nil, new(policy.Store))
		from.ledger.keep(account{edition{version: "1"}, total(1)})
		s := &session{stream: stream, hush: time.NewTimer(time.Hour), reports: newReports(from)}
		s.reports.sent, s.reports.every, s.reports.due = make(chan struct{}), time.Second, true
		s.reports.send(stream)
		answered := make(chan error, 1)
		go func() { answered <- s.reply(new(regov1.StreamPoliciesRequest), nil) }()
		synctest.Wait()
		assert.Empty(t, stream.sent)
		close(s.reports.sent)
		require.NoError(t, <-answered)
		assert.Len(t, stream.sent, 1)
		s.reports.due = true
		s.reports.send(stream)
		s.reports.wait()
		assert.Len(t, stream.sent, 2)
	})
}
