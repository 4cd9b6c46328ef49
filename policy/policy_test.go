package policy_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/policy"
)

const (
	ms     = time.Millisecond
	second = time.Second
)

// TestDefault spells out what the documentation promises.
func TestDefault(t *testing.T) {
	t.Parallel()
	want := policy.Policy{
		Retry: policy.Retry{
			MaxAttempts: 3,
			Backoff:     policy.Backoff{Initial: 50 * ms, Multiplier: 2, Max: 5 * second, Jitter: policy.JitterFull},
			Reconnect:   5 * second,
		},
		Hedge: policy.Hedge{MinDelay: ms},
	}
	assert.Equal(t, want, policy.Default())
	assert.False(t, policy.Default().Hedge.Asked())
}

// TestValidate has one fault per row, with all of its message.
func TestValidate(t *testing.T) {
	t.Parallel()
	retry := func(r policy.Retry) policy.Policy { return policy.Policy{Retry: r} }
	backoff := func(b policy.Backoff) policy.Policy { return retry(policy.Retry{Backoff: b}) }
	hedge := func(h policy.Hedge) policy.Policy { return policy.Policy{Hedge: h} }
	nan, inf := math.NaN(), math.Inf(1)
	rows := []struct {
		policy policy.Policy
		want   string
	}{
		{policy.Policy{Idempotency: 4}, `idempotency: unknown value 4`},
		{policy.Policy{Timeout: -1}, `timeout: must be between 0 and 24h0m0s, got -1ns`},
		{policy.Policy{Timeout: 25 * time.Hour}, `timeout: must be between 0 and 24h0m0s, got 25h0m0s`},
		{policy.Policy{AttemptTimeout: -second}, `attempt_timeout: must be between 0 and 24h0m0s, got -1s`},
		{policy.Policy{AttemptTimeout: math.MaxInt64}, `attempt_timeout: must be between 0 and 24h0m0s, got 2562047h47m16.854775807s`},
		{policy.Policy{Timeout: second, AttemptTimeout: second + 1}, `attempt_timeout: must not exceed timeout 1s, got 1.000000001s`},

		{retry(policy.Retry{MaxAttempts: -1}), `retry.max_attempts: must be between 1 and 100 (0 means 3), got -1`},
		{retry(policy.Retry{MaxAttempts: 101}), `retry.max_attempts: must be between 1 and 100 (0 means 3), got 101`},
		{retry(policy.Retry{Codes: []codes.Code{codes.OK}}), `retry.codes[0]: is not an error code: OK`},
		{retry(policy.Retry{Codes: []codes.Code{codes.Internal, 17}}), `retry.codes[1]: is not an error code: Code(17)`},
		{policy.Policy{Classifier: "mine", Retry: policy.Retry{Codes: []codes.Code{codes.Internal}}}, `classifier: must not be set beside retry.codes`},

		{backoff(policy.Backoff{Initial: -2}), `retry.backoff.initial: must be between 0 and 24h0m0s, got -2ns`}, // -1 is NoWait
		{backoff(policy.Backoff{Initial: 25 * time.Hour}), `retry.backoff.initial: must be between 0 and 24h0m0s, got 25h0m0s`},
		{backoff(policy.Backoff{Max: -1}), `retry.backoff.max: must be between 0 and 24h0m0s, got -1ns`},
		{backoff(policy.Backoff{Max: 25 * time.Hour}), `retry.backoff.max: must be between 0 and 24h0m0s, got 25h0m0s`},
		{backoff(policy.Backoff{Initial: 2 * second, Max: second}), `retry.backoff.max: must be at least initial 2s, got 1s`},
		{backoff(policy.Backoff{Multiplier: -1}), `retry.backoff.multiplier: must be above 0 and at most 100, got -1`},
		{backoff(policy.Backoff{Multiplier: 100.5}), `retry.backoff.multiplier: must be above 0 and at most 100, got 100.5`},
		{backoff(policy.Backoff{Multiplier: nan}), `retry.backoff.multiplier: must be above 0 and at most 100, got NaN`},
		{backoff(policy.Backoff{Multiplier: inf}), `retry.backoff.multiplier: must be above 0 and at most 100, got +Inf`},
		{backoff(policy.Backoff{Jitter: 4}), `retry.backoff.jitter: unknown value 4`},

		{hedge(policy.Hedge{MaxExtraLoad: -0.1}), `hedge.max_extra_load: must be at least 0 and below 1, got -0.1`},
		{hedge(policy.Hedge{MaxExtraLoad: 2}), `hedge.max_extra_load: must be at least 0 and below 1, got 2`}, // percent, by mistake
		{hedge(policy.Hedge{MaxExtraLoad: nan}), `hedge.max_extra_load: must be at least 0 and below 1, got NaN`},
		{hedge(policy.Hedge{Percentile: 1}), `hedge.percentile: must be at least 0 and below 1, got 1`},
		{hedge(policy.Hedge{Percentile: 95}), `hedge.percentile: must be at least 0 and below 1, got 95`},
		{hedge(policy.Hedge{Percentile: inf}), `hedge.percentile: must be at least 0 and below 1, got +Inf`},
		{hedge(policy.Hedge{Percentile: -inf}), `hedge.percentile: must be at least 0 and below 1, got -Inf`},
		{hedge(policy.Hedge{Delay: -2}), `hedge.delay: must be between 0 and 24h0m0s, got -2ns`}, // -1 is NoWait
		{hedge(policy.Hedge{MinDelay: -1}), `hedge.min_delay: must be between 0 and 24h0m0s, got -1ns`},
		{hedge(policy.Hedge{MaxDelay: -1}), `hedge.max_delay: must be between 0 and 24h0m0s, got -1ns`},
		{hedge(policy.Hedge{MinDelay: 2 * second, MaxDelay: second}), `hedge.max_delay: must be at least min_delay 2s, got 1s`},
		{hedge(policy.Hedge{MaxExtraLoad: 0.02, Percentile: 0.95}),
			`hedge: at most one of max_extra_load, percentile, delay and trigger may be set, but for max_extra_load beside trigger`},
		{hedge(policy.Hedge{Percentile: 0.95, Delay: second}),
			`hedge: at most one of max_extra_load, percentile, delay and trigger may be set, but for max_extra_load beside trigger`},
		{hedge(policy.Hedge{Trigger: "mine", Percentile: 0.95}),
			`hedge: at most one of max_extra_load, percentile, delay and trigger may be set, but for max_extra_load beside trigger`},
		{hedge(policy.Hedge{Trigger: "mine", Delay: policy.NoWait, MaxExtraLoad: 0.02}),
			`hedge: at most one of max_extra_load, percentile, delay and trigger may be set, but for max_extra_load beside trigger`},
		{hedge(policy.Hedge{Trigger: strings.Repeat("n", 257)}), `hedge.trigger: must have at most 256 bytes, got 257`},
		{hedge(policy.Hedge{MaxExtraLoad: 0.02, Percentile: 0.95, Delay: second}),
			`hedge: at most one of max_extra_load, percentile, delay and trigger may be set, but for max_extra_load beside trigger`},
	}
	for _, r := range rows {
		assert.EqualError(t, r.policy.Validate(), r.want)
	}
}

func TestValidateAccepts(t *testing.T) {
	t.Parallel()
	every := make([]codes.Code, 0, codes.Unauthenticated)
	for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
		every = append(every, c)
	}
	for _, p := range []policy.Policy{
		{},
		policy.Default(),
		{Timeout: second, AttemptTimeout: second},
		{Timeout: policy.MaxDuration, AttemptTimeout: policy.MaxDuration},
		{AttemptTimeout: second}, // without a timeout there is nothing to exceed
		{Idempotency: classify.NoSideEffects, Budget: "shared", Classifier: "mine"},
		{Retry: policy.Retry{MaxAttempts: 1}},
		{Retry: policy.Retry{MaxAttempts: policy.MaxAttempts, Codes: every}},
		{Retry: policy.Retry{Backoff: policy.Backoff{Initial: policy.NoWait}}},
		{Retry: policy.Retry{Backoff: policy.Backoff{Initial: policy.NoWait, Max: 1}}},
		{Retry: policy.Retry{Backoff: policy.Backoff{Initial: time.Minute}}}, // Max follows
		{Retry: policy.Retry{Backoff: policy.Backoff{Max: ms}}},              // Initial follows
		{Retry: policy.Retry{Backoff: policy.Backoff{Multiplier: 1, Jitter: policy.JitterProportional}}},
		{Retry: policy.Retry{Backoff: policy.Backoff{Multiplier: policy.MaxMultiplier}}},
		{Hedge: policy.Hedge{MaxExtraLoad: 0.02, MinDelay: second}},
		{Hedge: policy.Hedge{Percentile: 0.999}},
		{Hedge: policy.Hedge{Delay: policy.MaxDuration}},
		{Hedge: policy.Hedge{Delay: policy.NoWait}},
		{Hedge: policy.Hedge{MaxExtraLoad: 0.02, MinDelay: second, MaxDelay: second}},
		{Hedge: policy.Hedge{Trigger: "mine"}},
		{Hedge: policy.Hedge{Trigger: "mine", MaxExtraLoad: 0.02}},
	} {
		assert.NoError(t, p.Validate(), "%+v", p)
	}
}

// TestFaults: one error names everything, and is made of parts that can be asked.
func TestFaults(t *testing.T) {
	t.Parallel()
	err := policy.Policy{
		Name:    "users", // a policy does not name itself: a set does
		Timeout: -second,
		Retry:   policy.Retry{MaxAttempts: 200, Backoff: policy.Backoff{Jitter: 9}},
		Hedge:   policy.Hedge{Percentile: 95, Delay: -2},
	}.Validate()
	require.EqualError(t, err, `timeout: must be between 0 and 24h0m0s, got -1s; `+
		`retry.max_attempts: must be between 1 and 100 (0 means 3), got 200; `+
		`retry.backoff.jitter: unknown value 9; `+
		`hedge.percentile: must be at least 0 and below 1, got 95; `+
		`hedge.delay: must be between 0 and 24h0m0s, got -2ns; `+
		`hedge: at most one of max_extra_load, percentile, delay and trigger may be set, but for max_extra_load beside trigger`)

	var faults policy.Faults
	require.ErrorAs(t, err, &faults)
	paths := make([]string, len(faults))
	for i, f := range faults {
		paths[i] = f.Path
	}
	assert.Equal(t, []string{"timeout", "retry.max_attempts", "retry.backoff.jitter", "hedge.percentile", "hedge.delay", "hedge"}, paths)

	var first policy.Fault
	require.ErrorAs(t, err, &first)
	assert.Equal(t, policy.Fault{Path: "timeout", Text: "must be between 0 and 24h0m0s, got -1s"}, first)
	require.ErrorIs(t, err, faults[3])
	require.NotErrorIs(t, err, policy.Fault{Path: "timeout"})
	require.NotErrorIs(t, err, errors.ErrUnsupported)

	require.EqualError(t, policy.Fault{Text: "is empty"}, "is empty", "no path, no colon")
	assert.EqualError(t, policy.Faults{{Path: "a", Text: "x"}, {Path: "b", Text: "y"}}, "a: x; b: y")
}

func TestHedgeAsked(t *testing.T) {
	t.Parallel()
	rows := []struct {
		hedge policy.Hedge
		want  bool
	}{
		{policy.Hedge{}, false},
		{policy.Hedge{MinDelay: second}, false}, // a bound asks for nothing
		{policy.Hedge{MaxExtraLoad: 0.02}, true},
		{policy.Hedge{Percentile: 0.95}, true},
		{policy.Hedge{Delay: second}, true},
		{policy.Hedge{Delay: policy.NoWait}, true},
		{policy.Hedge{Trigger: "mine"}, true},
		{policy.Hedge{Delay: second, Off: true}, true},
	}
	for _, r := range rows {
		assert.Equal(t, r.want, r.hedge.Asked(), "%+v", r.hedge)
	}
}
