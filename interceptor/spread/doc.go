// Package spread sends the attempts of a call to different backends, as long as there are
// different ones. A retry does not go to the replica that has just failed, and a hedge not
// to the one that is slow.
//
// It has two load-balancing policies of grpc, which package interceptor tells what a call
// has used:
//
//   - rego_round_robin ([RoundRobin]) takes backends in turn as round_robin does, and skips
//     what the call has used. It does so exactly.
//   - rego_spread ([Name]) is put around another policy, and has it pick again when it picks
//     what the call has used, eight times at most. So that stays weighted, or least request, and
//     whether another backend is found is a matter of what that policy picks.
//
// Importing the package registers them. Nothing is set behind the user's back: they are chosen
// as any policy is, in the service config of the channel, for which [ServiceConfig] has the
// JSON, or by what xDS or a resolver sends:
//
//	conn, err := grpc.NewClient("dns:///users.internal:443", append(rego.DialOptions(),
//		grpc.WithDefaultServiceConfig(spread.ServiceConfig(spread.RoundRobin)))...)
//
// The rule that surprises people: grpc's default is pick_first, which has one connection, and
// whoever resolves the name decides on how many backends there are. A Kubernetes service with a
// cluster IP is one address, and so is a proxy. What is behind it these policies do not see.
//
// Calls that do not pass through an interceptor of rego, or can have one attempt only, are
// picked for as the child policy does, and a call that fits no other backend goes to one
// that it has used.
package spread
