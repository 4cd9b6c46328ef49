// Package spread sends the attempts of a call to different backends, as long as there are
// different ones. A retry does not go to the replica that has just failed. A hedge does not
// go to the replica that is slow.
//
// It has two load-balancing policies for grpc. Package interceptor tells them what a call
// has used:
//
//   - rego_round_robin ([RoundRobin]) takes backends in turn, as round_robin does. It always
//     skips backends that the call has used.
//   - rego_spread ([Name]) wraps another policy. If that policy picks a backend that the call
//     has used, rego_spread lets it pick again, eight times at most. So the policy stays
//     weighted, or least request. Whether another backend is found depends on what it picks.
//
// Importing the package registers them, but no channel uses them by itself. Choose them as
// any other policy, in the service config of the channel, for which [ServiceConfig] has the
// JSON, or by what xDS or a resolver sends:
//
//	conn, err := grpc.NewClient("dns:///users.internal:443", append(rego.DialOptions(),
//		grpc.WithDefaultServiceConfig(spread.ServiceConfig(spread.RoundRobin)))...)
//
// The rule that surprises people: grpc's default is pick_first, which has only one
// connection. The resolver of the name decides how many backends there are. A Kubernetes
// service with a cluster IP is one address, and so is a proxy. These policies do not see the
// backends behind it.
//
// If a call does not pass through an interceptor of rego, or can have only one attempt, the
// child policy alone decides. If there is no other backend for a call, it goes to one that
// it has used.
package spread
