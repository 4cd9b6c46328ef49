package policy_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/policy"
)

// rule returns a rule whose policy is called name.
func rule(name string, methods ...string) policy.Rule {
	return policy.Rule{Methods: methods, Policy: policy.Policy{Name: name}}
}

func rules(rs ...policy.Rule) policy.Set { return policy.Set{Rules: rs} }

func compile(t *testing.T, s policy.Set) *policy.Table {
	t.Helper()
	table, err := s.Compile()
	require.NoError(t, err)
	return table
}

// found returns the name of the policy that t has for method, "-" for none.
func found(t *policy.Table, method string) string {
	if p := t.Lookup(method); p != nil {
		return p.Name
	}
	return "-"
}

func TestLookup(t *testing.T) {
	t.Parallel()
	exact := rule("exact", "/a.B/Get", "/a.B/Put")
	service := rule("service", "/a.B/*")
	all := rule("all", "*")
	every := rules(all, service, exact)
	rows := []struct {
		set    policy.Set
		method string
		want   string
	}{
		{rules(), "/a.B/Get", "-"},
		{rules(exact), "/a.B/Get", "exact"},
		{rules(exact), "/a.B/Put", "exact"},
		{rules(exact), "/a.B/get", "-"}, // case matters
		{rules(exact), "/a.B/Pay", "-"},
		{rules(service), "/a.B/Get", "service"},
		{rules(service), "/a.B/*", "service"}, // as any name below it
		{rules(service), "/a.BC/Get", "-"},    // a service, not a prefix
		{rules(service), "/a/B/Get", "-"},
		{rules(all), "/x.Y/Z", "all"},
		{rules(all), "", "all"},
		{rules(all), "no slash", "all"},
		{every, "/a.B/Get", "exact"}, // the more specific decides, not the order
		{every, "/a.B/Pay", "service"},
		{every, "/a.C/Get", "all"},
		{every, "a.B/Get", "all"},
		{every, "/a.B/", "service"},
		{rules(exact, service, all), "/a.B/Get", "exact"},
	}
	for _, r := range rows {
		assert.Equal(t, r.want, found(compile(t, r.set), r.method), "%q in %+v", r.method, r.set.Rules)
	}
}

func TestSelectors(t *testing.T) {
	t.Parallel()
	for _, ok := range []string{"*", "/a.B/C", "/a.B/*", "/B/C", "/a/b"} {
		_, err := rules(rule("", ok)).Compile()
		require.NoError(t, err, "%q", ok)
	}
	for _, bad := range []string{
		"", "/", "//", "///", "a.B/C", "/a.B", "/a.B/", "//C", "/a/B/C", "/a.B/C/",
		"**", "/*", "/*/C", "/*/*", "/a.*/C", "/a.B/C*", "/a.B/*C", "/a.B/**", "a.B/*", "* ",
	} {
		_, err := rules(rule("users", "/a.B/C"), rule("users", "/a.B/D", bad)).Compile()
		require.EqualError(t, err, `rules[1].methods[1]: must be /pkg.Service/Method, /pkg.Service/* or *, got "`+bad+`"`)
	}
}

// TestCompileFaults has one fault per row, with all of its message.
func TestCompileFaults(t *testing.T) {
	t.Parallel()
	broken := policy.Policy{Retry: policy.Retry{MaxAttempts: -1}}
	users := broken
	users.Name = "users"
	const attempts = `must be between 1 and 100 (0 means 3), got -1`
	rows := []struct {
		set  policy.Set
		want string
	}{
		{rules(rule("users")), `rules[0].methods: must name at least one method`},
		{rules(rule("a", "*"), rule("b", "*")), `rules[1].methods[0]: "*" is already named by rules[0]`},
		{rules(rule("a", "/a.B/*"), rule("b", "*", "/a.B/*")), `rules[1].methods[1]: "/a.B/*" is already named by rules[0]`},
		{rules(rule("a", "/a.B/C", "/a.B/C")), `rules[0].methods[1]: "/a.B/C" is already named by rules[0]`},
		{rules(rule("a", "*"), rule("b", "/a.B/C"), policy.Rule{Methods: []string{"/a.B/D"}, Policy: users}), `rules[2]: policy "users": retry.max_attempts: ` + attempts},
		{rules(policy.Rule{Methods: []string{"*"}, Policy: broken}), `rules[0].policy.retry.max_attempts: ` + attempts}, // no name to show
		{
			rules(policy.Rule{Methods: []string{"*"}, Policy: policy.Policy{Name: "users", Hedge: policy.Hedge{Percentile: 0.9, Delay: 1}}}),
			`rules[0]: policy "users": hedge: at most one of max_extra_load, percentile, delay and trigger may be set, but for max_extra_load beside trigger`,
		},
		{
			rules(policy.Rule{Methods: []string{"*"}, Policy: policy.Policy{Name: "users", Retry: policy.Retry{Codes: []codes.Code{codes.OK}}}}),
			`rules[0]: policy "users": retry.codes[0]: is not an error code: OK`,
		},
	}
	for _, r := range rows {
		table, err := r.set.Compile()
		require.EqualError(t, err, r.want)
		assert.Nil(t, table, r.want)
	}

	_, err := rules(policy.Rule{Policy: users}, rule("ok", "/a.B/C"), policy.Rule{Methods: []string{"C", "/a.B/C"}, Policy: users}).Compile()
	require.EqualError(t, err, `rules[0]: policy "users": retry.max_attempts: `+attempts+
		`; rules[0].methods: must name at least one method`+
		`; rules[2]: policy "users": retry.max_attempts: `+attempts+
		`; rules[2].methods[0]: must be /pkg.Service/Method, /pkg.Service/* or *, got "C"`+
		`; rules[2].methods[1]: "/a.B/C" is already named by rules[1]`)
	var faults policy.Faults
	require.ErrorAs(t, err, &faults)
	assert.Len(t, faults, 5)
	assert.Equal(t, policy.Fault{Path: "rules[2].policy.retry.max_attempts", Policy: "users", Text: attempts}, faults[2])
}

func TestTable(t *testing.T) {
	t.Parallel()
	for _, s := range []policy.Set{
		{},
		{Version: "7"},
		{RetriesOff: true},
		{HedgesOff: true},
		{Version: "7", RetriesOff: true, HedgesOff: true, Rules: []policy.Rule{rule("all", "*")}},
	} {
		table := compile(t, s)
		assert.Equal(t, s.Version, table.Version())
		assert.Equal(t, s.RetriesOff, table.RetriesOff(), "%+v", s)
		assert.Equal(t, s.HedgesOff, table.HedgesOff(), "%+v", s)
	}

	p := compile(t, rules(rule("spare", "/a.B/C"))).Lookup("/a.B/C")
	want := policy.Default()
	want.Name = "spare"
	assert.Equal(t, want, *p, "defaults must be filled in")
}

// TestCompileSharesNothing: a table is immutable, so what the caller does to his
// slices afterwards must not reach it.
func TestCompileSharesNothing(t *testing.T) {
	t.Parallel()
	list := make([]codes.Code, 1, 2) // with room for an append in place
	list[0] = codes.Unavailable
	methods := []string{"/a.B/C"}
	s := policy.Set{Version: "1", Rules: []policy.Rule{{
		Methods: methods,
		Policy:  policy.Policy{Name: "users", Retry: policy.Retry{Codes: list}},
	}}}
	table := compile(t, s)
	list[0] = codes.Internal
	_ = append(list, codes.Aborted)
	methods[0] = "/a.B/D"
	s.Rules[0].Policy.Name = "other"
	s.Version, s.RetriesOff = "2", true

	p := table.Lookup("/a.B/C")
	require.NotNil(t, p)
	assert.Equal(t, "users", p.Name)
	assert.Equal(t, []codes.Code{codes.Unavailable}, p.Retry.Codes)
	assert.Equal(t, "-", found(table, "/a.B/D"))
	assert.Equal(t, "1", table.Version())
	assert.False(t, table.RetriesOff())
	assert.Zero(t, s.Rules[0].Policy.Retry.MaxAttempts, "the caller's policy must not get the defaults")
}

// FuzzSelector: a selector that is taken covers what it says and nothing else.
func FuzzSelector(f *testing.F) {
	for _, s := range []string{"*", "/a.B/C", "/a.B/*", "", "/", "//", "/*/C", "/a.B/C*", "/a/B/C", "a.B/C", "/\x00/\xff"} {
		f.Add(s, "/a.B/C")
	}
	f.Fuzz(func(t *testing.T, selector, method string) {
		table, err := rules(rule("p", selector)).Compile()
		if err != nil {
			require.ErrorContains(t, err, "rules[0].methods[0]: must be /pkg.Service/Method")
			return
		}
		covers := method == selector
		if prefix, wild := strings.CutSuffix(selector, "*"); wild {
			rest, below := strings.CutPrefix(method, prefix)
			covers = selector == "*" || below && !strings.Contains(rest, "/")
		}
		require.Equal(t, covers, table.Lookup(method) != nil, "%q for %q", selector, method)
	})
}

// TestTableID: no two tables have the same, also if they are of the same set.
func TestTableID(t *testing.T) {
	t.Parallel()
	s := rules(rule("all", "*"))
	seen := map[uint64]bool{new(policy.Store).Current().ID(): true}
	for range 10 {
		id := compile(t, s).ID()
		assert.False(t, seen[id], "%d", id)
		seen[id] = true
	}
}
