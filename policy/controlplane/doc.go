// Package controlplane brings policies from a server to a fleet of clients, and changes
// them there within a second: [Watch] keeps a policy.Store at what the server has, and
// [NewServer] serves a policy.Store, wherever that has its sets from.
//
// The rule that surprises people: nothing that the server does or fails to do fails a
// call. While it is out of reach, or sends what the client refuses, the last good set
// stays in force, however old; policy.Store.Status tells, and a policy.Snapshot keeps
// the set over a restart.
//
// Start with [Watch] in a client and [NewServer] in a server. The protocol is
// rego.v1.PolicyDiscoveryService, in the manner of xDS: each response has a nonce, and
// the client answers it with the version that it has in force or with the faults for
// which it refused the set. The server sends the next one then.
//
// Who may have the policies of a service says [Authorize], by the client's certificate if it
// is given the rule of [ServiceFromCertificate]. What became of a set in the fleet is told by
// rego.v1.FleetService, which [Server.Fleet] returns.
package controlplane
