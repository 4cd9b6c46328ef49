package controlplane

import (
	"container/list"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// For how long clients that have gone are remembered, and how many, and in how many bytes.
const (
	goneFor   = time.Hour
	maxGone   = 10_000
	goneBytes = 32 << 20
)

// gone remembers the clients that were connected lately. One that comes back is not gone any
// more. The server's mu guards it. The zero gone is empty.
type gone struct {
	order  list.List // of *goneClient, the longest gone first
	byName map[name]*list.Element
	bytes  int
	ids    uint64
}

type goneClient struct {
	id    uint64
	name  name
	at    time.Time
	bytes int
	said  *regov1.Client
}

// add remembers c, which has gone now.
func (g *gone) add(c *client, now time.Time) { g.remember(c.name(), c.describe(now), now) }

// remember remembers a client by what is known of it.
func (g *gone) remember(n name, said *regov1.Client, now time.Time) {
	g.back(n)
	said.State, said.Pending, said.LastSeen = regov1.ClientState_CLIENT_STATE_DISCONNECTED, nil, timestamppb.New(now)
	g.ids++
	last := &goneClient{g.ids, n, now, proto.Size(said), said}
	if g.byName == nil {
		g.byName = make(map[name]*list.Element)
	}
	g.byName[n] = g.order.PushBack(last)
	g.bytes += last.bytes
	g.forget(now)
}

// back forgets a client that has come back.
func (g *gone) back(n name) {
	if e, ok := g.byName[n]; ok {
		g.drop(e)
	}
}

func (g *gone) drop(e *list.Element) {
	c := g.order.Remove(e).(*goneClient)
	delete(g.byName, c.name)
	g.bytes -= c.bytes
}

// forget drops what is too old, or too much.
func (g *gone) forget(now time.Time) {
	for e := g.order.Front(); e != nil; e = g.order.Front() {
		if g.order.Len() <= maxGone && g.bytes <= goneBytes && now.Sub(e.Value.(*goneClient).at) < goneFor {
			return
		}
		g.drop(e)
	}
}
