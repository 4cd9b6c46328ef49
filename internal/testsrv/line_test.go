package testsrv

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// Timers wake late; the line reckons as if they did not.
func TestLateTimersDoNotDelayTheLine(t *testing.T) {
	t.Parallel()
	t0 := time.Now()
	at := func(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }
	var w workers
	w.set(Workers{N: 1, Work: 10 * time.Millisecond, Queue: time.Second}, t0)
	enter := func(ms int) *job {
		j, err := w.enter(at(ms))
		require.NoError(t, err)
		return j
	}

	first, second := enter(0), enter(5)
	assert.Equal(t, at(10), first.end)
	left, err := w.finish(first, at(13)) // 3 late
	require.NoError(t, err)
	assert.LessOrEqual(t, left, time.Duration(0))
	assert.Equal(t, at(20), second.end, "the worker is free since 10")

	third := enter(22) // nobody has noticed yet that the second has ended
	_, err = w.finish(second, at(24))
	require.NoError(t, err)
	assert.Equal(t, at(32), third.end, "the work of an attempt begins after its arrival")
}

func TestClosedConnectionsAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := Start(t)
		cc := s.Conn(t)
		_, err := testv1.NewTestServiceClient(cc).Get(t.Context(), &testv1.GetRequest{})
		require.NoError(t, err)
		assert.Len(t, s.net.conns, 1)
		require.NoError(t, cc.Close())
		synctest.Wait()
		assert.Empty(t, s.net.conns)
	})
}
