package controlplane

import regov1 "github.com/rego-go/rego/proto/rego/v1"

// OnReport has f told of every report that the server takes. Call it before there are clients.
func (s *Server) OnReport(f func(instance string, r *regov1.Report)) {
	s.onReport = func(c *client, r *regov1.Report) { f(c.node.GetInstance(), r) }
}
