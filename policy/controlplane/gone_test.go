package controlplane

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// TestGoneIsBounded: of the clients that have gone so many are remembered, or so many bytes of
// them, and the longest gone are forgotten first.
func TestGoneIsBounded(t *testing.T) {
	t.Parallel()
	now := time.Now()
	leave := func(g *gone, i int, label string) {
		g.add(&client{id: uint64(i), node: &regov1.Node{Service: "x", Instance: fmt.Sprint(i), Labels: map[string]string{"l": label}}}, now)
	}
	var many gone
	for i := range 11_000 {
		leave(&many, i, "")
	}
	assert.Equal(t, 10_000, many.order.Len())
	assert.Equal(t, "1000", many.order.Front().Value.(*goneClient).name.instance)
	leave(&many, 5000, "again")
	assert.Equal(t, 10_000, many.order.Len(), "known by the same name")

	var large gone
	for i := range 9000 {
		leave(&large, i, strings.Repeat("x", 4000))
	}
	assert.Less(t, large.order.Len(), 8400)
	assert.LessOrEqual(t, large.bytes, 32<<20)

	large.forget(now.Add(time.Hour))
	assert.Zero(t, large.order.Len())
	assert.Zero(t, large.bytes)
	assert.Empty(t, large.byName)
}
