package debugpage

import (
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// isLocal is the default of WithAuth. A request that a proxy has passed on is not local,
// although the proxy is.
func isLocal(r *http.Request) (look, timelines bool) {
	for _, passedOn := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} {
		if len(r.Header.Values(passedOn)) > 0 { // whatever the first one says
			return false, false
		}
	}
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.UnixAddr); ok && local != nil {
		return true, true // the permissions of the file say who
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	local := err == nil && from.Addr().Unmap().IsLoopback()
	return local, local
}

// expects reports whether a request may have this Host.
func (c *config) expects(host string) bool {
	host = hostOf(host)
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || c.hosts[host] || err == nil && ip.IsLoopback()
}

// hostOf returns a host without its port, as all are compared, empty if it is none. An address
// is spelt as package netip does.
func hostOf(host string) string {
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
