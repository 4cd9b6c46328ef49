// Package repository keeps the policies of all services for the replicas of a control plane:
// what is in force, what was before, and the rollout that is under way. Everything that is
// written is checked first. A change replaces only what its author has read: so two people
// cannot overwrite each other.
//
// A set that is put as a canary is not in force. Repository only says which clients should
// have it. Package policy/controlplane sends it to them, and package policy/rollout judges
// it.
//
// A repository is kept in a [Storage]: in the memory of one process ([Memory]), or in etcd
// (module policy/etcd), which any number of replicas share.
package repository
