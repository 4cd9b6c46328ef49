// Package controlplane brings policies from a server to a fleet of clients, and changes them
// there within a second. [Watch] keeps a [policy.Store] up to date with the server.
// [NewServer] serves a [policy.Store], whatever source fills it.
//
// The rule that surprises people: nothing that the server does or fails to do fails a call.
// While it is out of reach, or sends what the client refuses, the last good set stays in
// force, however old it is. [policy.Store.Status] says so, and a [policy.Snapshot] keeps the
// set over a restart.
//
// Start with [Watch] in a client and [NewServer] in a server. The protocol is
// rego.v1.PolicyDiscoveryService, similar to xDS. Each response has a nonce. The client
// answers it with the version that it has in force, or with the faults for which it refused
// the set. Then the server sends the next one.
//
// [Authorize] decides who may read the policies of a service. With the rule of
// [ServiceFromCertificate] it uses the client's certificate. rego.v1.FleetService, which
// [Server.Fleet] returns, says what clients have in force.
package controlplane
