package debugpage_test

import (
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/policy"
)

// TestMarkupIsEscaped: a method, a target, a policy or a set may have any name.
func TestMarkupIsEscaped(t *testing.T) {
	t.Parallel()
	const evil = `/<script>alert(1)</script>."'&/<img src=x onerror=alert(1)>` + "\u202e\x00"
	store, err := policy.NewStore(policy.Set{Version: `<b>"'`, Rules: []policy.Rule{{Methods: []string{"*"}, Policy: policy.Policy{Name: `<i>"'`}}}})
	require.NoError(t, err)
	require.Error(t, store.Source("<u>").Update(policy.Set{Version: "</pre><s>", Rules: []policy.Rule{{Methods: []string{"<q>"}}}}))
	it := newInterceptor(t, interceptor.WithPolicies(store))
	plain(t.Context(), it, evil, 20, 20)
	page := newPage(t, it)
	for _, at := range []string{"/", "/budgets", "/policies", methodAt("", evil)} {
		body := get(t, page, at)
		for _, tag := range []string{"<script", "<img", "<i>", "<s>", "<q>", "<u>", `<b>"`} {
			assert.NotContains(t, body, tag, at)
		}
	}
	contains(t, get(t, page, methodAt("", evil)), "&lt;script&gt;")
	link := regexp.MustCompile(`href="(method\?[^"]*)"`).FindStringSubmatch(get(t, page, "/"))
	require.NotNil(t, link)
	contains(t, get(t, page, "/"+html.UnescapeString(link[1])), "&lt;script&gt;")
	assert.Equal(t, evil, getJSON(t, page, methodAt("", evil))["method"])
}

// TestRefuses what is no page, or would be more than looking.
func TestRefuses(t *testing.T) {
	t.Parallel()
	it := newInterceptor(t)
	plain(t.Context(), it, "/a.B/C", 0, 1)
	page := newPage(t, it)
	for _, r := range []struct {
		method, at string
		want       int
	}{
		{"GET", methodAt("", "/a.B/C"), 200},
		{"HEAD", "/", 200},
		{"GET", "/?sort=nothing&unknown=1", 200}, // as without
		{"POST", "/", 405},
		{"PUT", "/policies", 405},
		{"DELETE", "/method", 405},
		{"OPTIONS", "/", 405},
		{"TRACE", "/", 405},
		{"GET", methodAt("", "/a.B/D"), 404},
		{"GET", methodAt("elsewhere", "/a.B/C"), 404},
		{"GET", "/method", 404},
		{"GET", "/method/", 404},
		{"GET", "/Budgets", 404},
		{"GET", "/style.css", 404},
		{"GET", "//", 404},
		{"GET", "/../policies", 404},
		{"GET", "/%2e%2e/", 404},
		{"GET", "/%00", 404},
		{"GET", "/pages/method.html", 404},
		{"GET", "/?format=xml", 400},
		{"GET", "/?a=%zz", 400},
		{"GET", "/?a;b", 400},
		{"GET", "/?a=" + strings.Repeat("x", 17<<10), 414},
	} {
		w := ask(page, r.method, r.at)
		assert.Equal(t, r.want, w.Code, "%s %.60s", r.method, r.at)
		assert.Equal(t, r.want == 405, w.Header().Get("Allow") == "GET, HEAD")
	}
}

// TestOverTCP: mounted under a prefix, every link of every page leads to a page, whose headers say
// that nothing else is to be loaded, kept or framed.
func TestOverTCP(t *testing.T) {
	t.Parallel()
	it := newInterceptor(t)
	for _, name := range []string{"/a.B/C", "/a.B/D", "/no slash", "no.slash", ""} {
		plain(t.Context(), it, name, 5, 20)
	}
	mux := http.NewServeMux()
	mux.Handle("/debug/a-b/rego/", http.StripPrefix("/debug/a-b/rego", newPage(t, it)))
	mux.Handle("/bare", http.StripPrefix("/bare", newPage(t, it)))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	base, err := url.Parse(server.URL)
	require.NoError(t, err)
	todo, seen := []*url.URL{base.JoinPath("/debug/a-b/rego/")}, make(map[string]bool)
	for len(todo) > 0 {
		at := todo[0]
		todo = todo[1:]
		if seen[at.String()] {
			continue
		}
		seen[at.String()] = true
		body, header := fetch(t, at.String())
		assert.Equal(t, "no-store", header.Get("Cache-Control"))
		assert.Equal(t, "nosniff", header.Get("X-Content-Type-Options"))
		assert.Equal(t, "no-referrer", header.Get("Referrer-Policy"))
		assert.Equal(t, "text/html; charset=utf-8", header.Get("Content-Type"))
		assert.Regexp(t, `^default-src 'none'; style-src 'sha256-[^']+'; .*frame-ancestors 'none'$`, header.Get("Content-Security-Policy"))
		assert.NotRegexp(t, `(?i)<script|style="|\son[a-z]+=|src=`, body)
		for _, link := range regexp.MustCompile(`href="([^"]*)"`).FindAllStringSubmatch(body, -1) {
			to, err := at.Parse(html.UnescapeString(link[1]))
			require.NoError(t, err)
			if to.Scheme == "data" {
				continue
			}
			assert.True(t, strings.HasPrefix(to.Path, "/debug/a-b/rego/"), "%s leaves the prefix", link[1])
			todo = append(todo, to)
		}
	}
	assert.GreaterOrEqual(t, len(seen), 5+3+5, "all pages were seen")

	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r, err := client.Get(server.URL + "/bare?sort=name")
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	assert.Equal(t, http.StatusMovedPermanently, r.StatusCode)
	assert.Equal(t, "./bare/?sort=name", r.Header.Get("Location"), "relative, so it stays where it is")
}

func fetch(t *testing.T, at string) (body string, header http.Header) {
	t.Helper()
	r, err := http.Get(at) //nolint:gosec // it is the test's own
	require.NoError(t, err)
	defer r.Body.Close()
	require.Equal(t, http.StatusOK, r.StatusCode, at)
	var b strings.Builder
	require.NoError(t, r.Write(&b))
	return b.String(), r.Header
}
