package rollout

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestValidate(t *testing.T) {
	t.Parallel()
	steps := []float64{0.05, 0.5}
	for _, tt := range []struct {
		plan Plan
		want string // no error if empty
	}{
		{Plan{Steps: steps}, ""},
		{Plan{Steps: steps, Bake: time.Second, Alpha: 0.5, MinCalls: 1, MaxExtra: 4}, ""},
		{Plan{}, "steps: must be between 1 and 100 shares, got 0"},
		{Plan{Steps: make([]float64, 101)}, "steps: must be between 1 and 100 shares, got 101"},
		{Plan{Steps: []float64{0, 0.5}}, "steps[0]: must be above 0 and below 1, got 0"},
		{Plan{Steps: []float64{0.5, 1}}, "steps[1]: must be above 0 and below 1, got 1"},
		{Plan{Steps: []float64{math.NaN()}}, "steps[0]: must be above 0 and below 1, got NaN"},
		{Plan{Steps: []float64{0.5, 0.5}}, "steps[1]: must be above steps[0], which is 0.5, got 0.5"},
		{Plan{Steps: steps, Bake: -1}, "bake: must not be negative, got -1ns"},
		{Plan{Steps: steps, Alpha: 1}, "alpha: must be above 0 and below 1, got 1"},
		{Plan{Steps: steps, Alpha: math.NaN()}, "alpha: must be above 0 and below 1, got NaN"},
		{Plan{Steps: steps, MinCalls: -1}, "min_calls: must not be negative, got -1"},
		{Plan{Steps: steps, MaxExtra: 5}, "max_extra: must be above 0 and at most 4, got 5"},
		{Plan{Steps: steps, MaxExtra: math.Inf(1)}, "max_extra: must be above 0 and at most 4, got +Inf"},
	} {
		err := tt.plan.Validate()
		if tt.want == "" {
			require.NoError(t, err, tt.plan)
			continue
		}
		require.ErrorContains(t, err, tt.want)
	}
}

func TestIncludes(t *testing.T) {
	t.Parallel()
	// A client must not change sides when the control plane is updated.
	assert.InDelta(t, 0.6455639169660624, place("v1", "pod-1"), 1e-15)
	assert.InDelta(t, 0.25290102320448005, place("v1", "pod-2"), 1e-15)
	assert.NotEqual(t, place("1", "23"), place("12", "3"))

	assert.True(t, Includes("", "", 1))
	assert.False(t, Includes("", "", 0))
	assert.False(t, Includes("", "", math.NaN()))
	const instances = 20_000
	for _, share := range []float64{0.01, 0.05, 0.5, 0.99} {
		n, both := 0.0, 0.0
		for i := range instances {
			instance := fmt.Sprintf("pod-%d", i)
			if !Includes("v1", instance, share) {
				continue
			}
			n++
			if Includes("v2", instance, share) {
				both++
			}
			assert.True(t, Includes("v1", instance, math.Nextafter(share, 2)), "a client that has the set keeps it")
		}
		assert.InDelta(t, share, n/instances, 4*math.Sqrt(share*(1-share)/instances), "share %v", share)
		assert.InDelta(t, share*share, both/instances, 4*math.Sqrt(share*share/instances), "versions have canaries of their own")
	}
}
