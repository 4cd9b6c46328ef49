package file_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/file"
)

// tenThousand returns a set of 10,000 rules of their own for 1,000 services.
func tenThousand() policy.Set {
	s := policy.Set{Version: "ten thousand", Rules: make([]policy.Rule, 10_000)}
	for i := range s.Rules {
		s.Rules[i] = policy.Rule{
			Methods: []string{fmt.Sprintf("/company.team.v1.Service%d/Method%d", i/10, i%10)},
			Policy: policy.Policy{
				Name:           fmt.Sprintf("service-%d-method-%d", i/10, i%10),
				Timeout:        2 * time.Second,
				AttemptTimeout: 500 * time.Millisecond,
				Retry: policy.Retry{
					MaxAttempts: 2 + i%3,
					Backoff:     policy.Backoff{Initial: 20 * time.Millisecond, Max: time.Second},
					Codes:       []codes.Code{codes.Unavailable, codes.ResourceExhausted},
				},
			},
		}
	}
	return s
}

func BenchmarkParse10000(b *testing.B) {
	for f := file.JSON; f <= file.Binary; f++ {
		data, err := file.Marshal(tenThousand(), f)
		require.NoError(b, err)
		b.Run(f.String(), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := file.Parse(data, f); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkMarshal10000(b *testing.B) {
	s := tenThousand()
	for f := file.JSON; f <= file.Binary; f++ {
		b.Run(f.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := file.Marshal(s, f); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestParseAllocates: 10,000 rules take at most 100 MB to parse and validate, garbage
// included.
func TestParseAllocates(t *testing.T) {
	const most = 100 << 20
	for f := file.JSON; f <= file.Binary; f++ {
		data, err := file.Marshal(tenThousand(), f)
		require.NoError(t, err)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err = file.Parse(data, f)
		runtime.ReadMemStats(&after)
		require.NoError(t, err)
		assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(most), f)
		t.Log(f, len(data), after.TotalAlloc-before.TotalAlloc)
	}
}
