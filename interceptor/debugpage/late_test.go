package debugpage

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// call makes a call that succeeds at once.
func call(t *testing.T, it *interceptor.Interceptor, method string) {
	t.Helper()
	require.NoError(t, it.Unary()(t.Context(), method, nil, new(testv1.GetResponse), nil,
		func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil }))
}

// body returns a page as one on this machine gets it.
func body(t *testing.T, h http.Handler, at string) string {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost/"+at, nil)
	r.RemoteAddr = "127.0.0.1:1"
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	require.Equal(t, http.StatusOK, w.Code, "%.100s: %s", at, w.Body)
	return w.Body.String()
}

// TestPagesSayWhatIsNotKnown: of a method or a budget without a history there is a dash and a note,
// and the rates of all are of all.
func TestPagesSayWhatIsNotKnown(t *testing.T) {
	t.Parallel()
	const n = maxSeries + 100
	it, callAll := manyMethods(t, n)
	callAll()
	page := New(it)
	page.Close()
	for range 2 {
		callAll()
		page.history.sample()
	}
	o := page.overview("extra", true)
	assert.EqualValues(t, 2*6*n, o.Recent.Calls)
	assert.Equal(t, 100, o.Unknown())
	for _, m := range o.Methods {
		text := body(t, page, methodURL(m.Target, m.Method))
		tile := regexp.MustCompile(`<dt>Calls per second</dt><dd>([^<]*)</dd>`).FindStringSubmatch(text)
		require.NotNil(t, tile)
		assert.Equal(t, m.Kept, tile[1] != "–", m.Method)
		assert.Equal(t, m.Kept, m.Note == "" && !strings.Contains(text, "is not known"))
		if m.Kept {
			continue
		}
		var v map[string]any
		require.NoError(t, json.Unmarshal([]byte(body(t, page, methodURL(m.Target, m.Method)+"&format=json")), &v))
		assert.Nil(t, v["recent"])
		assert.Nil(t, v["history"])
		assert.NotEmpty(t, v["note"])
		assert.Contains(t, m.Cells(), `<td data-name="Failed">–<small>`)
		break
	}
	assert.Contains(t, body(t, page, "?all"), "of methods without a history")
	assert.Contains(t, body(t, page, "budgets?all"), "more budgets than have a history")
}

// TestBudgetOfATargetHasAPlace: a thousand budgets of methods do not keep it from one.
func TestBudgetOfATargetHasAPlace(t *testing.T) {
	t.Parallel()
	c := newCounted()
	for i := range maxSeries {
		c.state.Targets[0].Budgets = append(c.state.Targets[0].Budgets, interceptor.BudgetState{
			Kind: interceptor.BudgetOfMethod, Name: fmt.Sprint(i), Since: c.now, Registered: true,
		})
	}
	c.next()
	for i := range c.state.Targets[0].Budgets {
		c.state.Targets[0].Budgets[i].Denied += 100
	}
	late := interceptor.TargetState{Name: "late", Since: c.now.Add(time.Second), Budgets: []interceptor.BudgetState{{Since: c.now.Add(time.Second), Denied: 3}}}
	c.state.Targets = append(c.state.Targets, late)
	c.next()
	_, denied, ok := c.recentBudgetLocked(budgetKey{key{"late", ""}, interceptor.BudgetOfTarget}, &late.Budgets[0])
	assert.True(t, ok)
	assert.EqualValues(t, 3, denied)
	assert.Len(t, c.budgets, maxSeries)
}

// boundless is a budget that has as much as a number can be.
type boundless struct{}

// Acquire implements budget.Budget.
func (boundless) Acquire(budget.Kind) bool { return true }

// Release implements budget.Budget.
func (boundless) Release(budget.Kind, budget.Result) {}

// Balance returns what it has.
func (boundless) Balance() float64 { return math.MaxFloat64 }

// TestBoundlessBudget: it can be shown all the same.
func TestBoundlessBudget(t *testing.T) {
	t.Parallel()
	it, err := interceptor.New(interceptor.WithTargetBudget(func(string) budget.Budget { return boundless{} }))
	require.NoError(t, err)
	call(t, it, "/a.B/C")
	page := New(it)
	page.Close()
	page.history.sample()
	page.history.sample()
	assert.Contains(t, body(t, page, "budgets?format=json"), `"balance":1.79`)
	text := body(t, page, "budgets")
	_, main, _ := strings.Cut(text, "<main>")
	assert.Contains(t, main, "1.8e+308")
	assert.NotRegexp(t, `NaN|Inf|-9,223`, text)
}

// TestHintsAreOfLate: what attempts fail as, and how many of the extra ones have won, is of the time
// that the rates are of.
func TestHintsAreOfLate(t *testing.T) {
	t.Parallel()
	c := newCounted()
	c.next()
	began := c.now.Add(time.Second)
	did := func(calls int64, code codes.Code, failed, won int64) []string {
		c.made(0, began, calls)
		m := &c.state.Targets[0].Methods[0]
		m.Attempts = append(m.Attempts,
			interceptor.AttemptCount{Kind: budget.Original, Result: interceptor.AttemptFailed, Code: code, Count: failed},
			interceptor.AttemptCount{Kind: budget.Retry, Result: interceptor.AttemptFailed, Code: code, Count: failed - won},
			interceptor.AttemptCount{Kind: budget.Retry, Result: interceptor.AttemptWon, Count: won})
		now := c.rowLocked("t", m, c.now.Add(time.Second)).Hints
		c.next()
		assert.Equal(t, now, c.rowLocked("t", m, c.now).Hints, "before and after the sample")
		return now
	}
	hints := did(1100, codes.Unavailable, 1000, 900)
	require.NotEmpty(t, hints)
	assert.Contains(t, hints[0], "the extra ones are retries, and 900 of 1,000 won. Attempts fail most as UNAVAILABLE.")
	for range recently {
		c.next()
	}
	hints = did(1220, codes.Aborted, 20, 1)
	require.NotEmpty(t, hints)
	assert.Contains(t, hints[0], "and 1 of 20 won. Attempts fail most as ABORTED.")
}

// TestOddNames: whatever a method is called, there is a link to its page, and JSON has a name that
// leads to it.
func TestOddNames(t *testing.T) {
	t.Parallel()
	it, err := interceptor.New(interceptor.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	for _, name := range []string{
		"/a.B/\xff\xfe", "/a.B/\xfe", "/a.B/" + strings.Repeat("x", 20<<10), "/a.B/" + strings.Repeat("ä", 3<<10),
		"/a;b&c=d#e?f%20g+h/..\\i", "\n\r\x00", "/a.B/\u2028", "/a.B/ä",
	} {
		call(t, it, name)
	}
	page := New(it)
	page.Close()
	for _, link := range regexp.MustCompile(`href="(method[^"]*)"`).FindAllStringSubmatch(body(t, page, "?all"), -1) {
		body(t, page, html.UnescapeString(link[1]))
	}
	var v struct {
		Methods []struct{ Target, Method string }
	}
	require.NoError(t, json.Unmarshal([]byte(body(t, page, "?format=json")), &v))
	require.Len(t, v.Methods, 8)
	for _, m := range v.Methods {
		at := "method?format=json&" + url.Values{"target": {m.Target}, "method": {m.Method}}.Encode()
		assert.Contains(t, body(t, page, at), `"total":{"calls":1`)
	}
}

// TestIsBoundedForManyMethods: of four targets that each have as many as one can have. It runs alone.
func TestIsBoundedForManyMethods(t *testing.T) { //nolint:paralleltest // it measures memory
	c := newCounted()
	since := c.now.Add(time.Second)
	c.state.Targets = nil
	for i := range 4 {
		of := interceptor.TargetState{Name: fmt.Sprint(i), Since: since}
		for j := range 16384 {
			name := fmt.Sprintf("/shop.v1.S/M%05d", j)
			of.Methods = append(of.Methods, interceptor.MethodState{Method: name, Since: since, Calls: []interceptor.CallCount{{Count: 1}}})
			of.Budgets = append(of.Budgets, interceptor.BudgetState{Kind: interceptor.BudgetOfMethod, Name: name, Since: since})
		}
		c.state.Targets = append(c.state.Targets, of)
	}
	before := inUse()
	for range 2 {
		c.next()
	}
	bytes := inUse() - before
	t.Logf("%d bytes kept", bytes)
	assert.Less(t, bytes, int64(4<<20))
	runtime.KeepAlive(c)
}
