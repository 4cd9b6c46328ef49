package controlplane

import (
	"time"

	"google.golang.org/protobuf/proto"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// chunks are the clients of a server in parts that can be told to others one by one. The server's
// mu guards them.
type chunks struct{ list []*chunk }

// chunk is a part of the clients.
type chunk struct {
	number  int
	members map[*client]struct{}
	changed bool // since it was told
}

const (
	maxChunk = 200 // clients
	// fullChunk is how many bytes of clients are told in full. The rest of a chunk is told without
	// faults and warnings, so that it stays below what a storage takes.
	fullChunk = 512 << 10
)

// add puts c into the first chunk that has room.
func (ch *chunks) add(c *client) {
	for _, k := range ch.list {
		if len(k.members) < maxChunk {
			k.add(c)
			return
		}
	}
	k := &chunk{number: len(ch.list), members: make(map[*client]struct{})}
	ch.list = append(ch.list, k)
	k.add(c)
}

func (k *chunk) add(c *client) {
	k.members[c] = struct{}{}
	k.changed = true
	c.chunk = k
}

func (k *chunk) remove(c *client) {
	delete(k.members, c)
	k.changed = true
}

// allChanged has all of them told again.
func (s *Server) allChanged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.chunks.list {
		k.changed = true
	}
}

// toldChunk is a chunk as others are told of it.
type toldChunk struct {
	number  int
	clients *regov1.StoredClients
}

// changedChunks returns those that have changed since they were last asked for.
func (s *Server) changedChunks() (list []toldChunk) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.chunks.list {
		if !k.changed {
			continue
		}
		k.changed = false
		m, size := new(regov1.StoredClients), 0
		for c := range k.members {
			said := c.describe(now)
			if size += proto.Size(said); size > fullChunk {
				said.Warnings, said.Refusal = nil, withoutFaults(said.GetRefusal())
			}
			m.Clients = append(m.Clients, &regov1.StoredClient{Id: c.id, Client: said})
		}
		list = append(list, toldChunk{k.number, m})
	}
	return list
}

func withoutFaults(r *regov1.Refusal) *regov1.Refusal {
	if r == nil {
		return nil
	}
	return &regov1.Refusal{Version: r.GetVersion(), Epoch: r.GetEpoch(), Revision: r.GetRevision(), Time: r.GetTime()}
}
