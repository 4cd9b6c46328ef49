package debugpage_test

import (
	"context"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/rego-go/rego/interceptor/debugpage"
)

// TestWhoMayLook: by default this machine alone, under its own names.
func TestWhoMayLook(t *testing.T) {
	t.Parallel()
	page := newPage(t, newInterceptor(t), debugpage.WithHosts("Debug.Internal", "10.1.2.3:8080", "2001:DB8:0::1", "[no", ""))
	unix := context.WithValue(t.Context(), http.LocalAddrContextKey, net.Addr(&net.UnixAddr{Name: "/run/debug.sock", Net: "unix"}))
	tcp := context.WithValue(t.Context(), http.LocalAddrContextKey, net.Addr(&net.TCPAddr{}))
	for _, r := range []struct {
		from, host string
		local      context.Context
		header     string // that it has
		want       int
	}{
		{"127.0.0.1:1", "localhost", tcp, "", 200},
		{"127.8.9.1:1", "localhost:8080", tcp, "", 200}, // all of 127/8 is loopback
		{"[::1]:1", "[::1]:8080", tcp, "", 200},
		{"[::1]:1", "[::1]", tcp, "", 200},
		{"[::ffff:127.0.0.1]:1", "127.0.0.1:8080", tcp, "", 200},     // IPv4 mapped into IPv6
		{"127.0.0.1:1", "[::ffff:127.0.0.1]:8080", tcp, "", 200},     // the same as a host
		{"127.0.0.1:1", "LOCALHOST.:8080", tcp, "", 200},             // a name with its root
		{"127.0.0.1:1", "debug.internal:8080", tcp, "", 200},         // by option, any port
		{"127.0.0.1:1", "10.1.2.3", tcp, "", 200},                    // by option
		{"@", "localhost", unix, "", 200},                            // a unix socket
		{"", "localhost", unix, "", 200},                             // the same, elsewhere
		{"@", "localhost", tcp, "", 403},                             // no unix socket
		{"@", "localhost", t.Context(), "", 403},                     // it is not known
		{"", "localhost", tcp, "", 403},                              // nobody
		{"10.1.2.3:1", "localhost", tcp, "", 403},                    // another machine
		{"10.1.2.3:1", "10.1.2.3", tcp, "", 403},                     // a host is no permission
		{"[fe80::1%eth0]:1", "localhost", tcp, "", 403},              // link-local
		{"[::ffff:10.1.2.3]:1", "localhost", tcp, "", 403},           // another machine, mapped
		{"localhost:1", "localhost", tcp, "", 403},                   // no address
		{"127.0.0.1:1", "localhost", tcp, "X-Forwarded-For", 403},    // a proxy on this machine
		{"127.0.0.1:1", "localhost", tcp, "Forwarded", 403},          // the same
		{"127.0.0.1:1", "localhost", tcp, "Via", 403},                // the same
		{"@", "localhost", unix, "X-Real-Ip", 403},                   // the same
		{"127.0.0.1:1", "evil.example", tcp, "", 421},                // DNS rebinding
		{"127.0.0.1:1", "localhost.evil.example:8080", tcp, "", 421}, // the same
		{"127.0.0.1:1", "127.0.0.1.evil.example", tcp, "", 421},      // the same
		{"127.0.0.1:1", "localhost:80.evil.example", tcp, "", 421},   // no port
		{"127.0.0.1:1", "192.168.0.1", tcp, "", 421},                 // not loopback
		{"127.0.0.1:1", "", tcp, "", 421},                            // no Host
		{"127.0.0.1:1", "[2001:db8::1]:8080", tcp, "", 200},          // by option, spelt otherwise
		{"127.0.0.1:1", "[::1", tcp, "", 421},                        // no address
		{"127.0.0.1:1", "[localhost]", tcp, "", 421},                 // the same
		{"127.0.0.1:1", "[::1%evil.example]:80", tcp, "", 421},       // a zone
		{"127.0.0.1:1", "localhost:99999", tcp, "", 421},             // no port
		{"127.0.0.1:1", "local host", tcp, "", 421},                  // no name
	} {
		w := ask(page, http.MethodGet, "/", func(req *http.Request) {
			*req = *req.WithContext(r.local)
			req.RemoteAddr, req.Host = r.from, r.host
			if r.header != "" {
				req.Header.Set(r.header, "10.1.2.3")
			}
		})
		assert.Equal(t, r.want, w.Code, "from %q, Host %q, %s", r.from, r.host, r.header)
		if r.want != http.StatusOK {
			assert.NotContains(t, w.Body.String(), "<html")
		}
	}
}

// TestAuth: who has another idea of it says so.
func TestAuth(t *testing.T) {
	t.Parallel()
	it := newInterceptor(t)
	for _, r := range []struct {
		look, timelines bool
		want            int
	}{
		{true, true, 200},
		{true, false, 200},
		{false, true, 403}, // timelines are on pages
		{false, false, 403},
	} {
		page := newPage(t, it, debugpage.WithAuth(func(*http.Request) (bool, bool) { return r.look, r.timelines }))
		w := ask(page, http.MethodGet, "/", func(req *http.Request) { req.RemoteAddr = "10.1.2.3:1" })
		assert.Equal(t, r.want, w.Code)
		w = ask(page, http.MethodGet, "/", func(req *http.Request) { req.Host = "evil.example" })
		assert.Equal(t, http.StatusMisdirectedRequest, w.Code, "the Host is looked at all the same")
	}
	page := newPage(t, it, debugpage.WithAuth(nil), nil)
	assert.Equal(t, 403, ask(page, http.MethodGet, "/", func(req *http.Request) { req.RemoteAddr = "10.1.2.3:1" }).Code, "nil is the default")
}

// TestEmptyHeaderOfAProxy: what a client has put before the line of a proxy does not hide it.
func TestEmptyHeaderOfAProxy(t *testing.T) {
	t.Parallel()
	page := newPage(t, newInterceptor(t))
	w := ask(page, http.MethodGet, "/", func(req *http.Request) {
		req.RemoteAddr, req.Host = "127.0.0.1:1", "localhost"
		req.Header["X-Forwarded-For"] = []string{"", "203.0.113.9"}
	})
	assert.Equal(t, http.StatusForbidden, w.Code)
}
