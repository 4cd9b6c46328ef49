package controlplane

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// client is a stream with what is known of who is at its other end.
type client struct {
	stream    grpc.ServerStream
	id        uint64
	node      *regov1.Node
	peer      string
	replica   string // that it is connected to; empty if there is one alone
	connected time.Time
	gzip      bool        // it takes sets compressed
	beat      *time.Timer // the next heartbeat
	reports   reportRate

	// Guarded by the server's mu.
	feed     *feed
	canary   bool // it tries out what others do not have
	chunk    *chunk
	edition  // that it has in force
	warnings []*regov1.Fault
	refusal  *regov1.Refusal
	refused  bool // its last answer was a refusal
	left     bool
	sending  bool      // somebody is in stream.SendMsg, where only one may be
	sent     sentSet   // the last set
	waiting  bool      // for the answer to that
	since    time.Time // it has been waiting
	beating  bool      // the answer to a heartbeat is awaited
	unasked  int       // answers to nothing since something was sent
}

// sent is what is kept of a set that was sent. The zero sent is none.
type sent struct {
	number uint64
	nonce  string
	edition
}

// sentSet is a set that was sent, and where it was from.
type sentSet struct {
	feed *feed
	sent
}

// edition is how a set is called.
type edition struct {
	version         string
	epoch, revision uint64
}

func editionOf(s policy.Set) edition { return edition{s.Version, s.Epoch, s.Revision} }

// Limits of what clients say.
const (
	maxLabels  = 64
	maxWord    = 256
	maxNode    = 4096 // of all words of a node
	maxUnasked = 1000
)

// newClient returns the client that has said r first. It keeps nothing of r but words: what
// else a message can hold is of no use, and has no bound.
func newClient(stream regov1.PolicyDiscoveryService_StreamPoliciesServer, r *regov1.StreamPoliciesRequest) (*client, error) {
	node := r.GetNode()
	words := append(slices.Collect(maps.Values(node.GetLabels())), node.GetService(), node.GetInstance())
	words = append(words, slices.Collect(maps.Keys(node.GetLabels()))...)
	size := 0
	for _, w := range words {
		size += len(w)
	}
	switch {
	case node.GetService() == "":
		return nil, status.Error(codes.InvalidArgument, "the first request must have a node with a service")
	case len(node.GetLabels()) > maxLabels:
		return nil, status.Errorf(codes.InvalidArgument, "a node may have %d labels, got %d", maxLabels, len(node.GetLabels()))
	case slices.ContainsFunc(words, func(w string) bool { return len(w) > maxWord }):
		return nil, status.Errorf(codes.InvalidArgument, "a word of a node may have %d bytes", maxWord)
	case size > maxNode:
		return nil, status.Errorf(codes.InvalidArgument, "the words of a node may have %d bytes, got %d", maxNode, size)
	}
	if err := checkWords(r); err != nil {
		return nil, err
	}
	ctx := stream.Context()
	c := &client{
		stream:    stream,
		node:      &regov1.Node{Service: node.GetService(), Instance: node.GetInstance(), Labels: node.GetLabels()},
		peer:      peerOf(ctx),
		connected: time.Now(),
		edition:   edition{r.GetVersion(), r.GetEpoch(), r.GetRevision()},
	}
	known, _ := grpc.ClientSupportedCompressors(ctx)
	c.gzip = slices.Contains(known, gzip.Name)
	compressor := encoding.Identity
	if c.gzip {
		compressor = gzip.Name
	}
	if err := grpc.SetSendCompressor(ctx, compressor); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return c, nil
}

func checkWords(r *regov1.StreamPoliciesRequest) error {
	if len(r.GetVersion()) > maxWord || len(r.GetNonce()) > maxWord {
		return status.Errorf(codes.InvalidArgument, "version and nonce may have %d bytes", maxWord)
	}
	return nil
}

func (c *client) name() name { return name{c.node.GetService(), c.node.GetInstance()} }

// told reports whether c has been sent a set.
func (s *Server) told(c *client) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.sent.number > 0
}

// from returns where c has its sets from.
func (s *Server) from(c *client) *feed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.feed
}

// push sends c the newest set, unless it has got that or owes an answer to another one: then
// push is called again when the answer is there. So what is in the way to a client that does
// not read is one message, which it shares with the others. A client could answer what it
// has not read, and hold up whoever sends to it. That is nobody else's goroutine.
func (s *Server) push(c *client) error {
	for {
		set := s.from(c).newest()
		if set == nil || !s.begin(c, set) {
			return nil
		}
		m, err := set.message(c.gzip)
		if err == nil {
			err = c.stream.SendMsg(m)
		}
		s.end(c)
		if err != nil {
			return err
		}
	}
}

// isDueLocked reports whether set can be sent to c: it is of where c has its sets from, and c has
// had neither it nor a newer one from there.
func (c *client) isDueLocked(set *pushed) bool {
	return !c.sending && !c.waiting && set.feed == c.feed && (set.feed != c.sent.feed || set.number > c.sent.number)
}

// begin reports whether set is to be sent to c now.
func (s *Server) begin(c *client, set *pushed) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.left || !c.isDueLocked(set) {
		return false
	}
	c.sending, c.waiting, c.since, c.unasked = true, true, time.Now(), 0
	c.sent = sentSet{set.feed, set.sent}
	c.chunk.changed = true
	return true
}

func (s *Server) end(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.sending = false
	if !c.left {
		c.beat.Reset(spread(heartbeatEvery))
	}
}

// heartbeatEvery is the longest time between two responses to a client that answers.
const heartbeatEvery = 20 * time.Second

// spread returns three quarters of d up to d, so that clients that came together do not stay
// together.
func spread(d time.Duration) time.Duration { return d - rand.N(d/4) }

// heartbeat tells c that there is nothing new, unless it owes an answer.
func (s *Server) heartbeat(c *client) {
	s.mu.Lock()
	due := !c.left && !c.sending && !c.waiting && !c.beating
	if due {
		c.sending, c.beating, c.unasked = true, true, 0
	} else if !c.left {
		c.beat.Reset(spread(heartbeatEvery))
	}
	s.mu.Unlock()
	if !due {
		return
	}
	m, err := s.heartbeatMessage()
	if err == nil {
		err = c.stream.SendMsg(m)
	}
	s.end(c)
	if err == nil {
		_ = s.push(c) // a set may have come meanwhile; if it fails, the stream has ended
	}
}

// answered notes what a client says. An answer to an earlier set than the last tells what is
// in force, and no more.
func (s *Server) answered(c *client, r *regov1.StreamPoliciesRequest) error {
	if err := checkWords(r); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if has := (edition{r.GetVersion(), r.GetEpoch(), r.GetRevision()}); has != c.edition {
		c.edition = has
		c.chunk.changed = true
	}
	if c.edition == c.sent.edition {
		c.edition = c.sent.edition // one string for all who have it
	}
	if !slices.EqualFunc(c.warnings, r.GetWarnings(), func(a, b *regov1.Fault) bool { return proto.Equal(a, b) }) {
		c.warnings = c.feed.warnings.keep(r.GetWarnings())
		c.chunk.changed = true
	}
	switch {
	case r.GetNonce() == c.sent.nonce && c.waiting:
		c.waiting = false
		c.chunk.changed = true
		if c.refused = len(r.GetFaults()) > 0; c.refused {
			c.refusal = &regov1.Refusal{
				Version: c.sent.version, Epoch: c.sent.epoch, Revision: c.sent.revision,
				Time: timestamppb.Now(), Faults: c.feed.faults.keep(r.GetFaults()),
			}
		}
	case r.GetNonce() == heartbeatNonce && c.beating:
		c.beating = false
	default:
		if c.unasked++; c.unasked > maxUnasked {
			return status.Errorf(codes.ResourceExhausted, "more than %d answers to nothing", maxUnasked)
		}
	}
	return nil
}
