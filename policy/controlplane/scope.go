package controlplane

import (
	"context"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/rollout"
)

// scope is what the clients of a service get: what is in force or, while another set is tried out
// and they are among those who try it, that. The server's mu guards it.
type scope struct {
	main   *feed
	trial  *feed // nil if nothing is tried out
	change change
}

// change is what the share of the clients is taken by that try a set out.
type change struct {
	key   string
	share float64
}

// feedOf returns where a client has its sets from. An empty scope is as none, as of a service
// whose policies are not there yet.
func (s *Server) feedOfLocked(n name) (from *feed, canary bool) {
	of := s.scopeOfLocked(n.service)
	if of.trial != nil && rollout.Includes(of.change.key, n.instance, of.change.share) {
		return of.trial, true
	}
	return of.main, false
}

func (s *Server) scopeOfLocked(service string) *scope {
	if of, ok := s.scopes[service]; ok {
		return of
	}
	return s.scopes[""]
}

// joinLocked has c get its sets from where it is to have them now. The first client of a feed
// starts its goroutine, the last one ends it. It reports whether that is another place.
func (s *Server) joinLocked(c *client) (moved bool) {
	f, canary := s.feedOfLocked(c.name())
	if f == c.feed {
		return false
	}
	if c.feed != nil {
		c.partLocked()
	}
	c.feed, c.canary, c.refused = f, canary, false
	if c.chunk != nil {
		c.chunk.changed = true
	}
	if f.clients[c] = struct{}{}; len(f.clients) == 1 {
		ctx, stop := context.WithCancel(context.Background())
		f.stop = stop
		go f.run(ctx)
	}
	return true
}

func (c *client) partLocked() {
	if delete(c.feed.clients, c); len(c.feed.clients) == 0 {
		c.feed.stop()
	}
}

// arrange has a service served from other feeds, and moves its clients.
func (s *Server) arrange(service string, of *scope) {
	s.mu.Lock()
	s.scopes[service] = of
	var moved []*client
	for c := range s.clients {
		if s.joinLocked(c) {
			moved = append(moved, c)
		}
	}
	s.mu.Unlock()
	pushAll(s, moved)
}

func (s *Server) newFeed(st *policy.Store) *feed {
	return &feed{server: s, store: st, clients: make(map[*client]struct{})}
}
