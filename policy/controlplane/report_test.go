package controlplane

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// total is that of one method whose calls all succeeded.
func total(calls int64) counts { return counts{{method: "/a.B/C", reason: "succeeded"}: calls} }

// TestLedger is one: totals that are looked at while a set is in force, and what is to be reported.
func TestLedger(t *testing.T) {
	t.Parallel()
	var l ledger
	for i, r := range []struct {
		total   int64
		inForce string // from then on
		lost    bool
		open    string // by set
	}{
		{1000, "1", false, ""}, // what was before does not count
		{1000, "1", false, ""}, // nothing has changed
		{1005, "1", false, "1:5"},
		{1007, "2", false, "1:7"}, // it took the place of 1 just now
		{1010, "2", false, "1:7 2:3"},
		{900, "2", false, "1:7 2:3"}, // a target is gone, and its counts
		{901, "1", false, "1:7 2:4"},
		{903, "1", false, "1:9 2:4"}, // in force again
		{999, "3", true, "1:9 2:4"},  // nobody knows which set they belong to
		{1000, "3", false, "1:9 2:4 3:1"},
		{1000, "4", false, "1:9 2:4 3:1"},
		{1001, "5", false, "1:9 2:4 3:1 4:1"},
		{1002, "5", false, "2:4 3:1 4:1 5:1"}, // of four sets
	} {
		l.look(total(r.total), edition{version: r.inForce}, r.lost)
		assert.Equal(t, r.open, words(l.open), "%d", i)
	}
	a, some := l.next()
	require.True(t, some)
	assert.Equal(t, "3:1 4:1 5:1", words(l.open))
	l.giveBack(a)
	assert.Equal(t, "2:4 3:1 4:1 5:1", words(l.open), "it is the oldest again")
	a, _ = l.next()
	l.keep(account{edition{version: "2"}, total(1)})
	l.giveBack(a)
	assert.Equal(t, "3:1 4:1 5:1 2:5", words(l.open))
	a, _ = l.next()
	l.keep(account{edition{version: "6"}, total(1)})
	l.giveBack(a)
	assert.Equal(t, "4:1 5:1 2:5 6:1", words(l.open), "there is no room for it any more")
	for range 4 {
		_, some = l.next()
		assert.True(t, some)
	}
	_, some = l.next()
	assert.False(t, some)
}

func words(open []account) string {
	var all []string
	for _, a := range open {
		sum := int64(0)
		for _, n := range a.counts {
			sum += n
		}
		all = append(all, fmt.Sprint(a.version, ":", sum))
	}
	return strings.Join(all, " ")
}

// TestReportIsBounded: whatever the user has counted, a report is one that servers take, and no
// call is missing.
func TestReportIsBounded(t *testing.T) {
	t.Parallel()
	many := func(n int, of func(i int) policy.MethodCounts) (all []policy.MethodCounts) {
		for i := range n {
			all = append(all, of(i))
		}
		return all
	}
	plain := func(name string, calls int64) policy.MethodCounts {
		return policy.MethodCounts{Method: name, Ends: []policy.EndCount{{Reason: "succeeded", Calls: calls}}, Retries: 1}
	}
	long := strings.Repeat("x", 257)
	reasons := policy.MethodCounts{Method: "/a.B/C"}
	for i := range 1000 {
		reasons.Ends = append(reasons.Ends, policy.EndCount{Code: codes.Code(i % 20), Reason: fmt.Sprint(i, long), Calls: 1})
		reasons.Denials = append(reasons.Denials, policy.DenialCount{Kind: fmt.Sprint(i), Reason: "x", Count: 1})
	}
	longest := reasons
	longest.Ends, longest.Denials = reasons.Ends[:250], nil
	for name, c := range map[string]struct {
		counts  []policy.MethodCounts
		methods int
		calls   uint64
	}{
		"nothing":         {nil, 0, 0},
		"one":             {many(1, func(int) policy.MethodCounts { return plain("/a.B/C", 7) }), 1, 7},
		"made up":         {many(3, func(int) policy.MethodCounts { return plain("", 7) }), 1, 21},
		"short names":     {many(5000, func(i int) policy.MethodCounts { return plain(fmt.Sprint("/a/", i), 2) }), 1000, 10_000},
		"long names":      {many(2000, func(i int) policy.MethodCounts { return plain(fmt.Sprint("/", long[:200], i), 2) }), 215, 4000},
		"too long names":  {many(2, func(i int) policy.MethodCounts { return plain(fmt.Sprint("/", long, i), 2) }), 1, 4},
		"invalid names":   {many(2, func(i int) policy.MethodCounts { return plain(fmt.Sprint("/\xff", i), 2) }), 1, 4},
		"below zero":      {many(2, func(int) policy.MethodCounts { return plain("/a.B/C", -2) }), 1, 0},
		"too much":        {many(9, func(int) policy.MethodCounts { return plain("/a.B/C", math.MaxInt64) }), 1, maxCount},
		"many reasons":    {many(1, func(int) policy.MethodCounts { return reasons }), 1, 1000},
		"long reasons":    {many(1, func(int) policy.MethodCounts { return longest }), 1, 250},
		"of many methods": {many(20, func(i int) policy.MethodCounts { m := reasons; m.Method = fmt.Sprint(i); return m }), 20, 20_000},
	} {
		r := account{edition{version: long}, countsOf(c.counts)}.report()
		b, err := proto.Marshal(&regov1.StreamPoliciesRequest{Report: r})
		require.NoError(t, err, name)
		assert.Less(t, len(b), 64<<10, name)
		require.NoError(t, checkReport(r), name)
		assert.Equal(t, c.methods, len(r.GetMethods()), name) //nolint:testifylint // the methods are many
		calls := uint64(0)
		for _, m := range r.GetMethods() {
			for _, e := range m.GetEnds() {
				calls += e.GetCalls()
			}
		}
		assert.Equal(t, c.calls, calls, name)
	}
}

// TestBusiestAreNamed: if there is no room for all.
func TestBusiestAreNamed(t *testing.T) {
	t.Parallel()
	var all []policy.MethodCounts
	for i := range int64(2000) {
		all = append(all, policy.MethodCounts{Method: fmt.Sprintf("/a/%04d", i), Ends: []policy.EndCount{{Calls: i + 1}}, Hedges: 1})
	}
	r := account{counts: countsOf(all)}.report()
	require.Equal(t, maxMethods, len(r.GetMethods())) //nolint:testifylint // the methods are many
	assert.Equal(t, "/a/1999", r.GetMethods()[0].GetMethod())
	assert.Equal(t, "/a/1001", r.GetMethods()[998].GetMethod())
	rest := r.GetMethods()[999]
	assert.Empty(t, rest.GetMethod())
	assert.EqualValues(t, 1001*1002/2, rest.GetEnds()[0].GetCalls())
	assert.EqualValues(t, 1001, rest.GetHedges())
}

// TestReportSize: what a report of twenty methods takes on the wire.
func TestReportSize(t *testing.T) {
	t.Parallel()
	var all []policy.MethodCounts
	for i := range 20 {
		all = append(all, policy.MethodCounts{
			Method: fmt.Sprintf("/company.team.v1.BasketService/Method%02d", i), Retries: 300, Hedges: 200,
			Ends: []policy.EndCount{
				{Code: codes.OK, Reason: "succeeded", Calls: 10_000},
				{Code: codes.Unavailable, Reason: "attempts-exhausted", Calls: 20},
				{Code: codes.NotFound, Reason: "non-retryable", Calls: 150},
			},
			Denials: []policy.DenialCount{{Kind: "hedge", Reason: "budget-denied", Count: 10}},
		})
	}
	r := account{edition{version: "2026-11-26.1", revision: 43}, countsOf(all)}.report()
	size := proto.Size(&regov1.StreamPoliciesRequest{Report: r})
	t.Log(size, "bytes")
	assert.Less(t, size, 3<<10)
}

// TestReportRate is a ledger: of an interval of ten seconds, two reports each, and what was held
// up.
func TestReportRate(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var a reportRate
	for range reportBurst {
		assert.True(t, a.allow(10*time.Second, now))
	}
	assert.False(t, a.allow(10*time.Second, now))
	a, now = reportRate{}, now.Add(time.Hour)
	for range 10_000 {
		now = now.Add(5 * time.Second)
		assert.True(t, a.allow(10*time.Second, now))
	}
	refused := 0
	for range 1000 {
		now = now.Add(4 * time.Second)
		if !a.allow(10*time.Second, now) {
			refused++
		}
	}
	assert.Positive(t, refused)
}
