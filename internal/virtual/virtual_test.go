package virtual_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/rego-go/rego/internal/virtual"
)

func TestSleep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		virtual.Sleep(time.Hour)
		assert.Equal(t, time.Hour, time.Since(began))
	})
	assert.Panics(t, func() { virtual.Sleep(time.Nanosecond) }, "outside of a bubble")
}
