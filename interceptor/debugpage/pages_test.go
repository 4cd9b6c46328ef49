package debugpage_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/interceptor/debugpage"
	"github.com/rego-go/rego/internal/testsrv"
	"github.com/rego-go/rego/internal/virtual"
)

// TestNumbersAreThoseOfState: of all methods, and of each.
func TestNumbersAreThoseOfState(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		it := mixed(t)
		page := newPage(t, it)
		overview := getJSON(t, page, "/")
		byName := make(map[string]map[string]any)
		for _, m := range overview["methods"].([]any) {
			m := m.(map[string]any)
			byName[m["method"].(string)] = m
		}
		state := it.State()
		require.Len(t, state.Targets, 1)
		require.Len(t, byName, len(state.Targets[0].Methods))
		for _, m := range state.Targets[0].Methods {
			want := map[string]float64{"calls": 0, "failed": 0, "attempts": 0, "retries": 0, "hedges": 0, "denied": 0}
			var calls, attempts, denials []any
			for _, c := range m.Calls {
				want["calls"] += float64(c.Count)
				if c.Code != codes.OK {
					want["failed"] += float64(c.Count)
				}
				calls = append(calls, c.Reason.String(), float64(c.Count))
			}
			for _, a := range m.Attempts {
				want["attempts"] += float64(a.Count)
				switch a.Kind {
				case budget.Retry:
					want["retries"] += float64(a.Count)
				case budget.Hedge:
					want["hedges"] += float64(a.Count)
				default:
				}
				attempts = append(attempts, a.Kind.String(), a.WaitedOn.String(), a.Result.String(), a.Delivery.String(), float64(a.Count))
			}
			for _, d := range m.Denials {
				want["denied"] += float64(d.Count)
				denials = append(denials, d.Kind.String(), d.Reason.String(), float64(d.Count))
			}
			for what, n := range want {
				assert.InDelta(t, n, byName[m.Method]["total"].(map[string]any)[what], 0, "%s of %s", what, m.Method)
			}
			one := getJSON(t, page, methodAt(target, m.Method))
			assert.Equal(t, calls, fieldsOf(one["calls"], "reason", "count"))
			assert.Equal(t, attempts, fieldsOf(one["attempts"], "kind", "waited_on", "result", "delivery", "count"))
			assert.Equal(t, denials, fieldsOf(one["denials"], "kind", "reason", "count"))
			html := get(t, page, methodAt(target, m.Method))
			contains(t, html, fmt.Sprintf("<dd class=\"total\">%.0f in all</dd>", want["attempts"]))
			for _, f := range m.Policy.Fields {
				contains(t, html, "<code>"+f.Name+"</code>")
			}
		}
		html := get(t, page, methodAt(target, testsrv.Get))
		contains(t, html, "NOT_FOUND")
		contains(t, html, "50ms after number 1 has failed")
		contains(t, html, "<b>code</b>, rule 0 for <code>/rego.test.v1.TestService/Get</code><span>in force</span>")
		contains(t, html, "waited 50ms (backoff)")
	})
}

// contains is assert.Contains, without the page in its text.
func contains(t *testing.T, page, part string) {
	t.Helper()
	if !strings.Contains(page, part) {
		assert.Fail(t, "the page should have "+part)
	}
}

// fieldsOf returns fields of objects in a row, in the order of names.
func fieldsOf(list any, names ...string) (values []any) {
	for _, v := range list.([]any) {
		for _, name := range names {
			values = append(values, v.(map[string]any)[name])
		}
	}
	return values
}

// TestRates: they are of the last minute, and budgets have theirs.
func TestRates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		it := newInterceptor(t)
		plain(t.Context(), it, "/a.B/Before", 0, 1000)
		page := newPage(t, it)
		recent := func(of string) map[string]any {
			for _, m := range getJSON(t, page, "/")["methods"].([]any) {
				if m := m.(map[string]any); m["method"] == of {
					return m["recent"].(map[string]any)
				}
			}
			return nil
		}
		assert.EqualValues(t, 0, recent("/a.B/Before")["calls"], "what was before is not of late")
		virtual.Sleep(500 * time.Millisecond) // no call is at the instant of a sample
		for range 180 {                       // three minutes, two calls a second
			plain(t.Context(), it, "/a.B/C", 1, 2) // takes 2 ms
			virtual.Sleep(998 * time.Millisecond)
		}
		virtual.Sleep(-500*time.Millisecond + 4*time.Second)
		overview := getJSON(t, page, "/")
		assert.EqualValues(t, 64, overview["recent_seconds"])
		assert.EqualValues(t, 120, recent("/a.B/C")["calls"])
		assert.EqualValues(t, 60, recent("/a.B/C")["failed"])
		assert.EqualValues(t, 120, overview["recent"].(map[string]any)["calls"])
		assert.EqualValues(t, 1360, overview["total"].(map[string]any)["calls"])
		contains(t, get(t, page, "/"), `<td data-name="Calls/s">1.88<small>360</small>`)
		contains(t, get(t, page, methodAt("", "/a.B/C")), "50 % of calls fail, most as not-idempotent")

		virtual.Sleep(5 * time.Second)
		plain(t.Context(), it, "/a.B/New", 0, 7)
		plain(t.Context(), it, "/a.B/C", 0, 13)
		assert.EqualValues(t, 69, getJSON(t, page, "/")["recent_seconds"])
		assert.EqualValues(t, 133, recent("/a.B/C")["calls"], "with what has not been sampled yet")
		assert.EqualValues(t, 7, recent("/a.B/New")["calls"])
		virtual.Sleep(2 * time.Minute)
		assert.EqualValues(t, 0, recent("/a.B/C")["calls"])

		sum := 0
		for _, p := range getJSON(t, page, methodAt("", "/a.B/C"))["history"].([]any) {
			sum += int(p.(map[string]any)["calls"].(float64))
		}
		assert.Equal(t, 373, sum)
		virtual.Sleep(time.Hour)
		history := getJSON(t, page, methodAt("", "/a.B/C"))["history"].([]any)
		assert.Len(t, history, 60, "ten minutes are kept, and what has just begun")
		for _, p := range history {
			assert.Zero(t, p.(map[string]any)["calls"])
		}
		page.Close()
		virtual.Sleep(time.Hour)
		plain(t.Context(), it, "/a.B/C", 0, 5)
		assert.EqualValues(t, 5, recent("/a.B/C")["calls"], "the page works when it is closed")
	})
}

// TestBudgets: what they have and what they answer.
func TestBudgets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		it := newInterceptor(t)
		page := newPage(t, it)
		assert.Empty(t, getJSON(t, page, "/budgets")["budgets"])
		fromCalls := mixed(t)
		page = newPage(t, fromCalls)
		state := fromCalls.State().Targets[0].Budgets
		list := getJSON(t, page, "/budgets")["budgets"].([]any)
		require.Len(t, list, len(state))
		kinds := make(map[string]map[string]any)
		for _, b := range list {
			b := b.(map[string]any)
			kinds[b["kind"].(string)] = b
		}
		assert.InDelta(t, state[0].Balance, kinds["target"]["balance"], 1e-9)
		assert.EqualValues(t, state[0].Granted, kinds["target"]["granted"])
		assert.EqualValues(t, state[0].Denied, kinds["target"]["denied"])
		assert.Nil(t, kinds["policy"]["balance"], "it does not tell")
		assert.Equal(t, testsrv.Watch, kinds["method"]["name"])
		html := get(t, page, "/budgets")
		contains(t, html, "“few” of policies")
		contains(t, html, "not told")
		assert.Equal(t, 1, strings.Count(html, "Shared by all calls"))
	})
}

// TestTimelinesAreHidden from those who may not see them. Nobody sees what was sent or said.
func TestTimelinesAreHidden(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		it := mixed(t)
		for _, timelines := range []bool{true, false} {
			page := newPage(t, it, debugpage.WithAuth(func(*http.Request) (bool, bool) { return true, timelines }))
			html, data := get(t, page, methodAt(target, testsrv.Get)), getJSON(t, page, methodAt(target, testsrv.Get))
			assert.Equal(t, !timelines, data["samples_hidden"])
			assert.Equal(t, timelines, data["samples"] != nil)
			assert.Equal(t, timelines, strings.Contains(html, "<article"))
			assert.Equal(t, !timelines, strings.Contains(html, "You may not see single calls."))
			for _, at := range []string{"/", "/budgets", "/policies", methodAt(target, testsrv.Get), methodAt(target, testsrv.Pay), methodAt(target, testsrv.Watch)} {
				assert.NotContains(t, get(t, page, at), "secret")
				assert.NotContains(t, fmt.Sprint(getJSON(t, page, at)), "secret")
			}
		}
	})
}

// TestPagesWhileCallsRun is for the race detector.
func TestPagesWhileCallsRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		it := newInterceptor(t)
		page := newPage(t, it)
		ctx, stop := context.WithCancel(t.Context())
		var calls sync.WaitGroup
		for i := range 4 {
			calls.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					plain(ctx, it, fmt.Sprintf("/a.B/C%d", (i+n)%20), n%2, 3)
					virtual.Sleep(time.Second)
				}
			})
		}
		for range 30 {
			for _, at := range []string{"/", "/?all&sort=name", "/budgets", "/policies", "/?format=json", methodAt("", "/a.B/C1")} {
				ask(page, http.MethodGet, at)
			}
			virtual.Sleep(3 * time.Second)
		}
		stop()
		calls.Wait()
	})
}

// TestNothing: of an interceptor without calls, and of none.
func TestNothing(t *testing.T) {
	t.Parallel()
	for _, it := range []*interceptor.Interceptor{nil, new(interceptor.Interceptor), newInterceptor(t)} {
		page := newPage(t, it)
		contains(t, get(t, page, "/"), "No call has been made yet.")
		contains(t, get(t, page, "/budgets"), "No call has been made yet.")
		contains(t, get(t, page, "/policies"), "initial")
		assert.Empty(t, getJSON(t, page, "/")["methods"])
	}
}
