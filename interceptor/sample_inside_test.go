package interceptor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestSamplesWithAClockSetBack: what a call is worth goes by the age of the interceptor, and not by
// the wall clock, whose readings are of another day here.
func TestSamplesWithAClockSetBack(t *testing.T) {
	t.Parallel()
	it, err := New()
	require.NoError(t, err)
	var s sampler
	wanted := func(age time.Duration) bool {
		nanos := it.age(it.made.Add(age))
		var scores [sampleKinds]int64
		scores[SampleFailed] = nanos
		return s.wanted(&scores, nanos) != 0
	}
	assert.Positive(t, it.age(it.made), "a score of zero is none")
	assert.Less(t, it.age(time.Now()), int64(time.Hour), "it is no time since 1970")
	assert.True(t, wanted(0))
	assert.False(t, wanted(samplePace-1))
	assert.True(t, wanted(samplePace))
}
