package debugpage

import (
	"net"
	"net/http"
	"net/netip"
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
	if _, port, err := net.SplitHostPort(host); err == nil && strings.Trim(port, "0123456789") != "" {
		return false
	}
	host = hostOf(host)
	if host == "localhost" || c.hosts[host] {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// hostOf returns a host without its port, as all are compared.
func hostOf(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
