package spread

import (
	"slices"
	"strings"

	"google.golang.org/grpc/resolver"
)

// identify returns what a backend is known by: the addresses of its endpoint, whatever their
// order, as in grpc's resolver.EndpointMap. It outlives SubConns, which are replaced on each
// reconnect, and is the same for all the addresses of a dual-stack endpoint. What a proxy or a
// dialer connects to in the end is not in it.
func identify(addrs []resolver.Address) string {
	if len(addrs) == 1 {
		return addrs[0].Addr
	}
	names := make([]string, len(addrs))
	for i, a := range addrs {
		names[i] = a.Addr
	}
	return join(names)
}

func join(names []string) string {
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ",")
}

// endpoints tells of an address which endpoint it belongs to.
type endpoints map[string]string

// endpointsOf returns those that a resolver has found, and what they are known by.
func endpointsOf(s resolver.State) (endpoints, map[string]bool) {
	byAddress, distinct := endpoints{}, map[string]bool{}
	for _, e := range s.Endpoints {
		id := identify(e.Addresses)
		distinct[id] = true
		for _, a := range e.Addresses {
			if _, ok := byAddress[a.Addr]; !ok {
				byAddress[a.Addr] = id
			}
		}
	}
	for _, a := range s.Addresses { // that policies above have not put into endpoints
		if _, ok := byAddress[a.Addr]; !ok {
			byAddress[a.Addr], distinct[a.Addr] = a.Addr, true
		}
	}
	return byAddress, distinct
}

// of returns the backend that a SubConn is for. A policy may make SubConns of addresses that
// it has from somewhere else.
func (e endpoints) of(addrs []resolver.Address) string {
	names := make([]string, len(addrs))
	for i, a := range addrs {
		names[i] = a.Addr
		if id, ok := e[a.Addr]; ok {
			names[i] = id
		}
	}
	return join(names)
}
