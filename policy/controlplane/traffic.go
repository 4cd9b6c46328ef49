package controlplane

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// traffic is what clients have told of their calls of late.
type traffic struct {
	mu      sync.Mutex
	buckets []*bucket // the newest last
}

// What is kept of the traffic.
const (
	bucketFor = 10 * time.Second
	buckets   = 6    // that are full, besides the one that is filled
	maxRows   = 5000 // of a bucket; the rest go under no method
	maxKinds  = 200  // of ends of a row, and of denials
)

// bucket is the traffic that was told of in some seconds.
type bucket struct {
	began   time.Time
	rows    map[rowKey]*row
	clients map[uint64]struct{} // that have told of something, by id
}

type rowKey struct{ service, method string }

// row is what the calls of a method did.
type row struct {
	retries, hedges uint64
	ends            map[endKey]uint64
	denials         map[denialKey]uint64
}

type endKey struct {
	code   regov1.Code
	reason string
}

type denialKey struct{ kind, reason string }

func newBucket(now time.Time) *bucket {
	return &bucket{now, make(map[rowKey]*row), make(map[uint64]struct{})}
}

// add takes in what c has told.
func (t *traffic) add(c *client, r *regov1.Report, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turnLocked(now)
	b := t.buckets[len(t.buckets)-1]
	b.clients[c.id] = struct{}{}
	for _, m := range r.GetMethods() {
		b.row(c.node.GetService(), m.GetMethod()).add(m.GetRetries(), m.GetHedges(), m.GetEnds(), m.GetDenials())
	}
}

// turnLocked begins a bucket if the last one is full, and drops those that are too old.
func (t *traffic) turnLocked(now time.Time) {
	if n := len(t.buckets); n == 0 || now.Sub(t.buckets[n-1].began) >= bucketFor {
		t.buckets = append(t.buckets, newBucket(now))
	}
	old := now.Add(-bucketFor * (buckets + 1))
	t.buckets = slices.DeleteFunc(t.buckets, func(b *bucket) bool { return !b.began.After(old) })
}

func (b *bucket) row(service, method string) *row {
	key := rowKey{service, method}
	if b.rows[key] == nil && len(b.rows) >= maxRows {
		key.method = ""
		if b.rows[key] == nil && len(b.rows) >= 2*maxRows {
			key.service = ""
		}
	}
	if b.rows[key] == nil {
		b.rows[key] = &row{ends: make(map[endKey]uint64), denials: make(map[denialKey]uint64)}
	}
	return b.rows[key]
}

func (r *row) add(retries, hedges uint64, ends []*regov1.EndCount, denials []*regov1.DenialCount) {
	r.retries += retries
	r.hedges += hedges
	for _, e := range ends {
		key := endKey{e.GetCode(), e.GetReason()}
		if _, known := r.ends[key]; !known && len(r.ends) >= maxKinds {
			key.reason = ""
		}
		r.ends[key] += e.GetCalls()
	}
	for _, d := range denials {
		key := denialKey{d.GetKind(), d.GetReason()}
		if _, known := r.denials[key]; !known && len(r.denials) >= maxKinds {
			key = denialKey{}
		}
		r.denials[key] += d.GetCount()
	}
}

// sum returns what was told of within the last minute or so, and of how long; if it is to be
// recent, of the last 10 to 20 s.
func (t *traffic) sum(now time.Time, recent bool) (all *bucket, over time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turnLocked(now)
	all = newBucket(now)
	list := t.buckets
	if recent {
		list = list[max(len(list)-2, 0):]
	}
	for _, b := range list {
		over = max(over, now.Sub(b.began))
		for id := range b.clients {
			all.clients[id] = struct{}{}
		}
		for key, r := range b.rows {
			all.row(key.service, key.method).merge(r)
		}
	}
	return all, over
}

func (r *row) merge(o *row) {
	r.retries += o.retries
	r.hedges += o.hedges
	for k, n := range o.ends {
		r.ends[k] += n
	}
	for k, n := range o.denials {
		r.denials[k] += n
	}
}

// take adds what another replica has told.
func (b *bucket) take(m *regov1.ListTrafficResponse) {
	for _, t := range m.GetTraffic() {
		b.row(t.GetService(), t.GetMethod()).add(t.GetRetries(), t.GetHedges(), t.GetEnds(), t.GetDenials())
	}
}

// list returns the rows of a service, or of all if it is empty: those with the most calls first,
// as many as there is room for.
func (b *bucket) list(service string, room int) (rows []*regov1.Traffic, leftOut uint64) {
	for key, r := range b.rows {
		if service == "" || service == key.service {
			rows = append(rows, r.describe(key))
		}
	}
	slices.SortFunc(rows, func(a, o *regov1.Traffic) int {
		return cmp.Or(
			cmp.Compare(callsOf(o), callsOf(a)),
			strings.Compare(a.GetService(), o.GetService()),
			strings.Compare(a.GetMethod(), o.GetMethod()),
		)
	})
	size := 0
	for i, m := range rows {
		if size += proto.Size(m) + 8; i == maxPage || size > room {
			return rows[:i], uint64(len(rows) - i)
		}
	}
	return rows, 0
}

func callsOf(t *regov1.Traffic) (n uint64) {
	for _, e := range t.GetEnds() {
		n += e.GetCalls()
	}
	return n
}

func (r *row) describe(key rowKey) *regov1.Traffic {
	m := &regov1.Traffic{Service: key.service, Method: key.method, Retries: r.retries, Hedges: r.hedges}
	for k, n := range r.ends {
		m.Ends = append(m.Ends, &regov1.EndCount{Code: k.code, Reason: k.reason, Calls: n})
	}
	slices.SortFunc(m.GetEnds(), func(a, b *regov1.EndCount) int {
		return cmp.Or(cmp.Compare(b.GetCalls(), a.GetCalls()), cmp.Compare(a.GetCode(), b.GetCode()), strings.Compare(a.GetReason(), b.GetReason()))
	})
	for k, n := range r.denials {
		m.Denials = append(m.Denials, &regov1.DenialCount{Kind: k.kind, Reason: k.reason, Count: n})
	}
	slices.SortFunc(m.GetDenials(), func(a, b *regov1.DenialCount) int {
		return cmp.Or(cmp.Compare(b.GetCount(), a.GetCount()), strings.Compare(a.GetKind(), b.GetKind()), strings.Compare(a.GetReason(), b.GetReason()))
	})
	return m
}

// ListTraffic tells what the calls of the clients did of late.
func (f *fleet) ListTraffic(ctx context.Context, r *regov1.ListTrafficRequest) (*regov1.ListTrafficResponse, error) {
	if err := f.may(ctx, regov1.FleetService_ListTraffic_FullMethodName); err != nil {
		return nil, err
	}
	return f.server.trafficOf(r.GetService(), maxResponse, r.GetRecent(), true), nil
}

// trafficOf returns the traffic of a service, or of all if it is empty, in so many bytes: that
// which this server has heard of or, with others, the other replicas too.
func (s *Server) trafficOf(service string, room int, recent, others bool) *regov1.ListTrafficResponse {
	all, over := s.traffic.sum(time.Now(), recent)
	m := &regov1.ListTrafficResponse{Reporting: uint64(len(all.clients))}
	if others && s.exchange != nil {
		for _, o := range s.exchange.trafficOfOthers() {
			t := o.GetTraffic()
			if recent {
				t = o.GetRecent()
			}
			all.take(t)
			m.Reporting += t.GetReporting()
			m.LeftOut += t.GetLeftOut()
			over = max(over, t.GetOver().AsDuration())
		}
	}
	var left uint64
	m.Traffic, left = all.list(service, room)
	m.LeftOut += left
	m.Over = durationpb.New(over)
	return m
}
