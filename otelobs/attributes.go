package otelobs

import (
	"net"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"

	"github.com/rego-go/rego/interceptor"
)

// appendRPC appends what a call and its attempts have in common.
func appendRPC(attrs []attribute.KeyValue, t *interceptor.Timeline) []attribute.KeyValue {
	attrs = append(attrs, rpcSystemName.String("grpc"), rpcMethod.String(strings.TrimPrefix(t.Method, "/")))
	host, port := server(t.Target)
	if host != "" {
		attrs = append(attrs, serverAddress.String(host))
	}
	if port != 0 {
		attrs = append(attrs, serverPort.Int(port))
	}
	return attrs
}

// appendPeer appends the address that an attempt was sent to, if it was sent.
func appendPeer(attrs []attribute.KeyValue, peer net.Addr) []attribute.KeyValue {
	if peer == nil {
		return attrs
	}
	host, port := hostPort(peer.String())
	attrs = append(attrs, networkPeerAddress.String(host))
	if port != 0 {
		attrs = append(attrs, networkPeerPort.Int(port))
	}
	return attrs
}

// server returns the host and the port that a grpc target names, port 0 if it
// names none. A target without a scheme that grpc brings along is an address as
// a whole; a list of addresses stays one host.
func server(target string) (host string, port int) {
	scheme, endpoint, _ := strings.Cut(target, ":")
	if rest, ok := strings.CutPrefix(endpoint, "//"); ok {
		// What stands before the slash is who resolves the endpoint.
		_, endpoint, _ = strings.Cut(rest, "/")
		if scheme == "unix" {
			endpoint = "/" + endpoint
		}
		return hostPort(endpoint)
	}
	switch scheme {
	case "dns", "passthrough", "unix", "unix-abstract":
		return hostPort(endpoint)
	}
	return hostPort(target)
}

// hostPort splits an address. What is no host and port is a host.
func hostPort(addr string) (host string, port int) {
	h, p, err := net.SplitHostPort(addr)
	if err != nil {
		return addr, 0
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return addr, 0
	}
	return h, int(n)
}
