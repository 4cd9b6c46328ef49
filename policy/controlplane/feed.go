package controlplane

import (
	"context"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// feed is a store with the clients that it is served to.
type feed struct {
	server *Server
	store  *policy.Store

	mu   sync.Mutex // held while a set is looked for
	last *pushed    // nil if there was none to be sent

	// Guarded by the server's mu.
	clients          map[*client]struct{}
	stop             context.CancelFunc // ends run
	faults, warnings keeper
}

// pushed is a set on its way to all clients of a feed, which share its encoded forms.
type pushed struct {
	sent
	feed  *feed
	table *policy.Table
	plain func() (*grpc.PreparedMsg, error)
	gzip  func() (*grpc.PreparedMsg, error)
}

// message returns the set as it goes over the wire, encoded when it is first asked for.
func (p *pushed) message(gzip bool) (*grpc.PreparedMsg, error) {
	if gzip {
		return p.gzip()
	}
	return p.plain()
}

// newest returns what is to be sent; nil if that is nothing.
func (f *feed) newest() *pushed {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.store.Current()
	if f.last != nil && f.last.table == t {
		return f.last
	}
	if !mayBeSent(f.store, t) {
		return f.last
	}
	number := f.server.number()
	p := &pushed{feed: f, table: t, sent: sent{number, strconv.FormatUint(number, 10), editionOf(t.Set())}}
	encoded := func(compress bool) func() (*grpc.PreparedMsg, error) {
		return sync.OnceValues(func() (*grpc.PreparedMsg, error) {
			return encode(&regov1.StreamPoliciesResponse{Set: t.Set().Proto(), Nonce: p.nonce, ReportEvery: f.server.config.asks()}, compress)
		})
	}
	p.plain, p.gzip = encoded(false), encoded(true)
	f.last = p
	return p
}

// number returns that of the next set, of whatever feed.
func (s *Server) number() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.numbers++
	return s.numbers
}

// mayBeSent reports whether what st has is meant to be served.
func mayBeSent(st *policy.Store, t *policy.Table) bool {
	return st.Status().Source != "" || !reflect.DeepEqual(t.Set(), policy.Set{})
}

// run sends what the store has to the clients, whenever it changes, until ctx is done.
func (f *feed) run(ctx context.Context) {
	for {
		changed := f.store.Changed()
		if set := f.newest(); set != nil {
			f.send(set)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// send starts a push to each client that is due one. Those that owe an answer are served
// when they have given it.
func (f *feed) send(set *pushed) {
	var due []*client
	var plain, gzip bool
	f.server.mu.Lock()
	for c := range f.clients {
		if c.isDueLocked(set) {
			due = append(due, c)
			plain, gzip = plain || !c.gzip, gzip || c.gzip
		}
	}
	f.server.mu.Unlock()
	if plain { // before they all wait for it
		_, _ = set.plain()
	}
	if gzip {
		_, _ = set.gzip()
	}
	pushAll(f.server, due)
}

func pushAll(s *Server, due []*client) {
	for i, c := range due {
		go func() { _ = s.push(c) }() // it fails if the stream has ended, and that ends it
		if i%64 == 63 {
			runtime.Gosched() // so that they are not all there at a time, each with its stack
		}
	}
}

// keptFaults is how many bytes of faults are kept of a client, and how many of warnings.
const keptFaults = 8 << 10

// keeper keeps what was kept last. The server's mu guards it.
type keeper struct{ last []*regov1.Fault }

// keep returns what is kept of faults. Clients mostly refuse a set for the same
// reasons, and then share them.
func (k *keeper) keep(faults []*regov1.Fault) []*regov1.Fault {
	if len(faults) == 0 {
		return nil
	}
	faults = bounded(faults, keptFaults)
	if !slices.EqualFunc(faults, k.last, func(a, b *regov1.Fault) bool { return proto.Equal(a, b) }) {
		k.last = faults
	}
	return k.last
}
