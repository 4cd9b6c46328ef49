package otelobs

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc/metadata"
)

// inject writes the trace context of ctx into its outgoing metadata. It replaces
// what the caller set under the same keys, as a server reads the first value.
func inject(ctx context.Context, p propagation.TextMapPropagator) context.Context {
	if md, ok := metadata.FromOutgoingContext(ctx); ok { // a copy
		p.Inject(ctx, carrier(md))
		return metadata.NewOutgoingContext(ctx, md)
	}
	c := pairsPool.Get().(*pairs)
	defer func() {
		clear(*c)
		*c = (*c)[:0]
		pairsPool.Put(c)
	}()
	p.Inject(ctx, c)
	if len(*c) == 0 {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, *c...) // which copies
}

// carrier is metadata as propagators write it.
type carrier metadata.MD

func (c carrier) Get(key string) string {
	if vs := metadata.MD(c).Get(key); len(vs) > 0 {
		return vs[0]
	}
	return ""
}

func (c carrier) Set(key, value string) { metadata.MD(c).Set(key, value) }

func (c carrier) Keys() []string { return slices.Collect(maps.Keys(c)) }

// pairs are keys and values in turn: the metadata of calls that have none, for
// which a map would be half the cost of injecting.
type pairs []string

var pairsPool = sync.Pool{New: func() any { return new(pairs) }}

func (c *pairs) index(key string) int {
	for i := 0; i < len(*c); i += 2 {
		if strings.EqualFold((*c)[i], key) {
			return i
		}
	}
	return -1
}

func (c *pairs) Get(key string) string {
	if i := c.index(key); i >= 0 {
		return (*c)[i+1]
	}
	return ""
}

func (c *pairs) Set(key, value string) {
	if i := c.index(key); i >= 0 {
		(*c)[i+1] = value
		return
	}
	*c = append(*c, key, value)
}

func (c *pairs) Keys() []string {
	var keys []string
	for i := 0; i < len(*c); i += 2 {
		keys = append(keys, (*c)[i])
	}
	return keys
}
