package webpage

import (
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// IsPassedOn reports whether a proxy says that it has passed a request on.
func IsPassedOn(r *http.Request) bool {
	for _, passedOn := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} {
		if len(r.Header.Values(passedOn)) > 0 { // whatever the first one says
			return true
		}
	}
	return false
}

// IsFromHere reports whether whoever is at the other end of the connection is on this machine: it is
// over loopback or a unix socket. That can be a proxy.
func IsFromHere(r *http.Request) bool {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.UnixAddr); ok && local != nil {
		return true // the permissions of the file say who
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && from.Addr().Unmap().IsLoopback()
}

// IsLocal reports whether a request is from this machine. One that a proxy has passed on is not,
// although the proxy is.
func IsLocal(r *http.Request) bool { return !IsPassedOn(r) && IsFromHere(r) }

// Hosts are what the Host of a request may be besides localhost and loopback addresses, as Host
// returns it. Without such a rule a website could have a browser read pages by a name of its own
// that it lets point to this machine (DNS rebinding).
type Hosts map[string]bool

// Has reports whether a name or an address, with or without a port, is one of h. Those of this
// machine are not, unless they were added.
func (h Hosts) Has(host string) bool { return h[Host(host)] }

// Add adds names and addresses. What is neither is left out.
func (h Hosts) Add(names ...string) {
	for _, n := range names {
		if host := Host(n); host != "" {
			h[host] = true
		}
	}
}

// expect reports whether a request may have this Host.
func (h Hosts) expect(host string) bool {
	host = Host(host)
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || h[host] || err == nil && ip.IsLoopback()
}

// Host returns a host without its port, as all are compared, empty if it is none. An address
// is spelt as package netip does.
func Host(host string) string {
	inBrackets := strings.HasPrefix(host, "[")
	if name, port, err := net.SplitHostPort(host); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil && port != "" {
			return ""
		}
		host = name
	} else if inBrackets && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case err == nil && ip.Zone() == "":
		return ip.Unmap().String()
	case inBrackets, strings.ContainsAny(host, "[]:%"):
		return ""
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
