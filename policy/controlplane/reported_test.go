package controlplane_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// TestHostileReports: the server tells what is wrong with a report, ends the stream and tells nobody
// of the report.
func TestHostileReports(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 257)
	of := func(m *regov1.MethodReport) *regov1.Report {
		return &regov1.Report{Methods: []*regov1.MethodReport{{Method: "/a.B/C"}, m}}
	}
	ends := func(e ...*regov1.EndCount) *regov1.Report { return of(&regov1.MethodReport{Ends: e}) }
	denials := func(d ...*regov1.DenialCount) *regov1.Report { return of(&regov1.MethodReport{Denials: d}) }
	const words, count = "a word of a report may have 256 bytes", "a count of a report may be 1099511627776"
	for _, r := range []struct {
		report *regov1.Report
		want   string
	}{
		{&regov1.Report{Version: long}, words},
		{of(&regov1.MethodReport{Method: long}), words},
		{ends(&regov1.EndCount{Reason: long}), words},
		{denials(&regov1.DenialCount{Kind: long}), words},
		{denials(&regov1.DenialCount{Reason: long}), words},
		{of(&regov1.MethodReport{Retries: 1<<40 + 1}), count},
		{of(&regov1.MethodReport{Hedges: 1 << 63}), count},
		{ends(&regov1.EndCount{Calls: 1<<40 + 1}), count},
		{denials(&regov1.DenialCount{Count: 1<<40 + 1}), count},
		{ends(&regov1.EndCount{Code: 17}), "a report has the code 17, which is none"},
		{ends(&regov1.EndCount{Code: -1}), "a report has the code -1, which is none"},
		{&regov1.Report{Methods: make([]*regov1.MethodReport, 1001)}, "a report may have 1000 methods, got 1001"},
		{ends(make([]*regov1.EndCount, 301)...), "a method of a report may have 300 ends, got 301"},
		{denials(make([]*regov1.DenialCount, 101)...), "a method of a report may have 100 denials, got 101"},
	} {
		bubble(t, func(t *testing.T, n *network) {
			var b inbox
			n.serve(b.server(newStore(t, set("1"))))
			s := n.light(t, "x", "1")
			s.answer(t)
			require.NoError(t, s.Send(&regov1.StreamPoliciesRequest{Report: r.report}))
			_, err := s.Recv()
			assert.Equal(t, codes.InvalidArgument, status.Code(err), r.want)
			require.ErrorContains(t, err, r.want)
			assert.Empty(t, n.list(t, ""))
			assert.Empty(t, b.words())
		})
	}
}

// TestLargestReport: the bounds themselves are kept to.
func TestLargestReport(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		var b inbox
		n.serve(b.server(newStore(t, set("1"))))
		s := n.light(t, "x", "1")
		s.answer(t)
		word := strings.Repeat("x", 256)
		r := &regov1.Report{Version: word, Methods: make([]*regov1.MethodReport, 1000)}
		m := &regov1.MethodReport{
			Method: word, Ends: make([]*regov1.EndCount, 300), Denials: make([]*regov1.DenialCount, 100), Retries: 1 << 40,
		}
		m.Ends[0] = &regov1.EndCount{Code: 16, Reason: word, Calls: 1 << 40}
		r.Methods[0] = m
		require.NoError(t, s.Send(&regov1.StreamPoliciesRequest{Report: r}))
		assert.Equal(t, []string{fmt.Sprint(word, ":", 1<<40)}, b.words())
		assert.Len(t, n.list(t, ""), 1)
	})
}

// TestReportIsNoAnswer: it changes nothing of what the server knows of a client, whatever else the
// request says.
func TestReportIsNoAnswer(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		var b inbox
		source := newStore(t, set("1"))
		n.serve(b.server(source))
		s := n.light(t, "x", "1")
		r, err := s.Recv()
		require.NoError(t, err)
		report := &regov1.StreamPoliciesRequest{
			Nonce: r.GetNonce(), Version: "lie", Faults: []*regov1.Fault{{Text: "lie"}}, Warnings: []*regov1.Fault{{Text: "lie"}},
			Report: &regov1.Report{Version: "0"},
		}
		require.NoError(t, s.Send(report))
		assert.Equal(t, []string{"0:0"}, b.words())
		c := n.list(t, "")[0]
		assert.Equal(t, regov1.ClientState_CLIENT_STATE_PENDING, c.GetState(), "the set has not been answered")
		assert.Empty(t, c.GetVersion())
		assert.Empty(t, c.GetWarnings())
		require.NoError(t, s.Send(&regov1.StreamPoliciesRequest{Nonce: r.GetNonce(), Version: "1"}))
		synctest.Wait()
		for range 1010 { // answers to nothing would end the stream
			virtual.Sleep(every)
			require.NoError(t, s.Send(report))
		}
		synctest.Wait()
		assert.Equal(t, "1", n.list(t, "")[0].GetVersion())
		assert.Len(t, b.words(), 1010)
	})
}

// TestTooManyReports: a client may report twice as often as it was asked to, and some more at once.
func TestTooManyReports(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		var b inbox
		n.serve(b.server(newStore(t, set("1"))))
		s := n.light(t, "x", "1")
		s.answer(t)
		report := &regov1.StreamPoliciesRequest{Report: &regov1.Report{}}
		for range 200 {
			virtual.Sleep(every / 2)
			require.NoError(t, s.Send(report))
		}
		assert.Len(t, b.words(), 200)
		for range 100 {
			_ = s.Send(report)
		}
		assert.Len(t, b.words(), 63)
		err := error(nil)
		for err == nil { // heartbeats come first
			_, err = s.Recv()
		}
		assert.Equal(t, codes.ResourceExhausted, status.Code(err))
		require.ErrorContains(t, err, "more than two reports in 10s")
	})
}

// TestReportEvery: what responses ask for, sets and heartbeats, and what becomes of reports if they do
// not.
func TestReportEvery(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		options []controlplane.ServeOption
		want    time.Duration
	}{
		{nil, 0},
		{[]controlplane.ServeOption{controlplane.ReportEvery(0)}, 0},
		{[]controlplane.ServeOption{controlplane.ReportEvery(-time.Second)}, 0},
		{[]controlplane.ServeOption{controlplane.ReportEvery(every), controlplane.ReportEvery(0)}, 0},
		{[]controlplane.ServeOption{controlplane.ReportEvery(1)}, time.Second},
		{[]controlplane.ServeOption{controlplane.ReportEvery(every)}, every},
		{[]controlplane.ServeOption{controlplane.ReportEvery(24 * time.Hour)}, time.Hour},
	} {
		bubble(t, func(t *testing.T, n *network) {
			n.serve(controlplane.NewServer(newStore(t, set("1")), nil, r.options...))
			s := n.light(t, "x", "1")
			for range 3 { // a set, and heartbeats
				m := s.answer(t)
				assert.Equal(t, r.want > 0, m.GetReportEvery() != nil)
				assert.Equal(t, r.want, m.GetReportEvery().AsDuration())
			}
			require.NoError(t, s.Send(&regov1.StreamPoliciesRequest{Report: &regov1.Report{}}))
			if r.want > 0 {
				s.answer(t)
				return
			}
			_, err := s.Recv()
			assert.Equal(t, codes.ResourceExhausted, status.Code(err))
			require.ErrorContains(t, err, "a report that nobody asked for")
		})
	}
}

// TestNoReports: a client that has nothing to report does not, and no client does if nobody asks.
func TestNoReports(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]struct {
		every time.Duration
		count func() []policy.MethodCounts
	}{
		"no option":     {every, nil},
		"nobody asks":   {0, new(calls).counts},
		"no calls":      {every, func() []policy.MethodCounts { return nil }},
		"nothing added": {every, func() []policy.MethodCounts { return (&calls{n: 7}).counts() }},
	} {
		bubble(t, func(t *testing.T, n *network) {
			var b inbox
			s := controlplane.NewServer(newStore(t, set("1")), nil, controlplane.ReportEvery(r.every))
			s.OnReport(b.put)
			n.serve(s)
			st := new(policy.Store)
			w, err := controlplane.Watch("passthrough:///control", payments, st, silent, n.options(), controlplane.WithReports(r.count))
			require.NoError(t, err)
			virtual.Sleep(time.Hour)
			assert.Empty(t, b.words(), name)
			assert.Equal(t, "1", st.Current().Version(), name)
			require.NoError(t, w.Close())
		})
	}
}
