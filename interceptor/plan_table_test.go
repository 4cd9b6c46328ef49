package interceptor

import (
	"reflect"
	"runtime"
	"testing"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/policy"
)

// TestOldTablesAreFreed: sets may be large, so what was made under an earlier one must not keep it.
func TestOldTablesAreFreed(t *testing.T) {
	t.Parallel()
	own := policy.Default()
	var mc methodConfig
	reflect.ValueOf(&mc.RetryPolicy).Elem().Set(reflect.New(reflect.TypeOf(mc.RetryPolicy).Elem())) // its type is grpc's own
	ofSet := func(t *testing.T, tg *target) *plan { t.Helper(); return tg.plan(benchMethod) }
	ofCall := func(t *testing.T, tg *target) *plan {
		t.Helper()
		p, err := tg.ownPlan(&own, benchMethod)
		require.NoError(t, err)
		return p
	}
	ofChannel := func(t *testing.T, tg *target) *plan {
		t.Helper()
		return tg.channelPlan(tg.method(benchMethod), mc)
	}
	for _, r := range []struct {
		name  string
		calls func(*testing.T, *target) *plan
		last  func(*testing.T, *target) *plan // under the last set; nil if there is no call any more
	}{
		{name: "policy of the set", calls: ofSet, last: ofSet},
		{name: "policy of the call", calls: ofCall, last: ofCall},
		{name: "policy of the channel", calls: ofChannel, last: ofChannel},
		{name: "policy of the set, and then of the call", calls: ofSet, last: ofCall},
		{name: "policy of the channel, and then of the set", calls: ofChannel, last: ofSet},
		{name: "idle after a policy of the set", calls: ofSet},
		{name: "idle after a policy of the call", calls: ofCall},
		{name: "idle after a policy of the channel", calls: ofChannel},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			st := new(policy.Store)
			it, err := New(WithPolicies(st))
			require.NoError(t, err)
			tg := it.target(nil)
			update := func(off bool) weak.Pointer[policy.Table] {
				require.NoError(t, st.Update(policy.Set{RetriesOff: off, Rules: []policy.Rule{{Methods: []string{"*"}}}}))
				return weak.Make(st.Current())
			}
			var old []weak.Pointer[policy.Table]
			for i := range 5 {
				off := i%2 == 0
				old = append(old, update(off))
				p := r.calls(t, tg)
				assert.Equal(t, off, p.retriesOff, "it is of set %d", i)
				assert.Same(t, p, r.calls(t, tg), "it is kept while the set stays")
			}
			update(false)
			if r.last != nil {
				r.last(t, tg)
			}
			runtime.GC()
			for i, table := range old {
				assert.Nil(t, table.Value(), "set %d", i)
			}
			runtime.KeepAlive(it)
		})
	}
}
