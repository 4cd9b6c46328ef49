// Package repository keeps the policies of all services for the replicas of a control plane:
// what is in force, what was before, and the rollout that is under way. Whatever is written is
// checked first, and takes the place of what its author has read: two people cannot overwrite
// each other.
//
// A set that is put as a canary is in force nowhere by itself. [Repository] only says who is to
// have it; package policy/controlplane hands it out, and package policy/rollout judges it.
//
// [Storage] is what a repository is kept in: in the memory of one process ([Memory]), or in etcd
// (module policy/etcd), where any number of replicas share it.
package repository
