package testsrv_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/internal/virtual"
)

const ms = time.Millisecond

// arriving is an attempt that is sent at a time and has to end at another, in
// milliseconds. The client gives up at a third, if that is not zero.
type arriving struct {
	at, gives, ends int
	code            codes.Code
}

func TestWorkers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		workers    testsrv.Workers
		later      testsrv.Workers // from 15 ms on, if not zero
		arriving   []arriving
		turnedAway int
	}{
		{"no limit", testsrv.Workers{Work: 10 * ms}, testsrv.Workers{}, []arriving{
			{0, 0, 10, codes.OK}, {0, 0, 10, codes.OK}, {1, 0, 11, codes.OK},
		}, 0},
		{"in line", testsrv.Workers{N: 1, Work: 10 * ms, Queue: time.Second}, testsrv.Workers{}, []arriving{
			{0, 0, 10, codes.OK}, {1, 0, 20, codes.OK}, {2, 0, 30, codes.OK},
			{45, 0, 55, codes.OK}, // nobody was there since 30
		}, 0},
		{"two workers", testsrv.Workers{N: 2, Work: 10 * ms, Queue: time.Second}, testsrv.Workers{}, []arriving{
			{0, 0, 10, codes.OK}, {4, 0, 14, codes.OK}, {5, 0, 20, codes.OK}, {6, 0, 24, codes.OK}, {7, 0, 30, codes.OK},
		}, 0},
		{"turned away", testsrv.Workers{N: 1, Work: 10 * ms, Queue: 15 * ms}, testsrv.Workers{}, []arriving{
			{0, 0, 10, codes.OK},
			{1, 0, 20, codes.OK},           // waits 9
			{4, 0, 4, codes.Unavailable},   // would wait 16
			{5, 0, 30, codes.OK},           // waits 15
			{14, 0, 14, codes.Unavailable}, // would wait 16
		}, 2},
		{"no line", testsrv.Workers{N: 1, Work: 10 * ms}, testsrv.Workers{}, []arriving{
			{0, 0, 10, codes.OK}, {9, 0, 9, codes.Unavailable}, {11, 0, 21, codes.OK},
		}, 1},
		{"turning away costs", testsrv.Workers{N: 2, Work: 10 * ms, TurnAway: 0.2}, testsrv.Workers{}, []arriving{
			{0, 0, 14, codes.OK}, // held up twice: it would end first each time
			{3, 0, 15, codes.OK}, // and this the third time
			{5, 0, 5, codes.Unavailable}, {6, 0, 6, codes.Unavailable}, {7, 0, 7, codes.Unavailable},
			{16, 0, 26, codes.OK},
		}, 3},
		{"giving up at work frees the worker", testsrv.Workers{N: 1, Work: 10 * ms, Queue: time.Second}, testsrv.Workers{}, []arriving{
			{0, 4, 4, codes.Canceled}, {1, 0, 14, codes.OK}, {2, 0, 24, codes.OK},
		}, 0},
		{"giving up in line moves the others up", testsrv.Workers{N: 1, Work: 10 * ms, Queue: 15 * ms}, testsrv.Workers{}, []arriving{
			{0, 0, 10, codes.OK}, {1, 7, 7, codes.Canceled}, {6, 0, 20, codes.OK}, {8, 0, 30, codes.OK},
		}, 0},
		{"slower", testsrv.Workers{N: 1, Work: 10 * ms, Queue: time.Second}, testsrv.Workers{N: 1, Work: 20 * ms, Queue: 20 * ms}, []arriving{
			{0, 0, 10, codes.OK}, {1, 0, 20, codes.OK},
			{2, 0, 40, codes.OK}, // in line at the change
			{17, 0, 17, codes.Unavailable}, {21, 0, 60, codes.OK},
		}, 1},
		{"faster, while one still works slowly", testsrv.Workers{N: 2, Work: 30 * ms, Queue: time.Second}, testsrv.Workers{N: 2, Work: 5 * ms, Queue: 23 * ms}, []arriving{
			{0, 0, 30, codes.OK}, {14, 0, 44, codes.OK},
			{16, 0, 35, codes.OK}, {17, 0, 40, codes.OK}, // one worker serves both before the other ends
			{20, 0, 45, codes.OK},
			{21, 0, 49, codes.OK}, {22, 0, 50, codes.OK},
			{23, 0, 23, codes.Unavailable}, // would wait until 49
		}, 1},
		{"more workers", testsrv.Workers{N: 1, Work: 10 * ms, Queue: time.Second}, testsrv.Workers{N: 3, Work: 10 * ms, Queue: time.Second}, []arriving{
			{0, 0, 10, codes.OK}, {1, 0, 20, codes.OK}, {2, 0, 25, codes.OK}, {3, 0, 25, codes.OK}, {4, 0, 30, codes.OK},
		}, 0},
		{"fewer workers", testsrv.Workers{N: 3, Work: 20 * ms, Queue: time.Second}, testsrv.Workers{N: 1, Work: 20 * ms, Queue: 11 * ms}, []arriving{
			{0, 0, 20, codes.OK}, {4, 0, 24, codes.OK}, {8, 0, 28, codes.OK},
			{16, 0, 16, codes.Unavailable}, // would wait until 28
			{17, 0, 48, codes.OK},
		}, 1},
		{"no limit any more", testsrv.Workers{N: 1, Work: 10 * ms, Queue: time.Second}, testsrv.Workers{Work: ms}, []arriving{
			{0, 0, 10, codes.OK}, {1, 0, 20, codes.OK}, {2, 0, 16, codes.OK}, {3, 0, 16, codes.OK},
		}, 0},
		{"all fail", testsrv.Workers{N: 1, Work: 10 * ms, Queue: time.Second, Fail: 1}, testsrv.Workers{N: 1, Work: 10 * ms, Queue: time.Second}, []arriving{
			{0, 0, 10, codes.Unavailable}, {1, 0, 20, codes.OK},
		}, 0},
		{"no work", testsrv.Workers{N: 1}, testsrv.Workers{}, []arriving{{0, 0, 0, codes.OK}, {1, 0, 1, codes.OK}}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := testsrv.Start(t)
				c := client(t, s)
				s.SetWorkers(tt.workers)
				if tt.later != (testsrv.Workers{}) {
					time.AfterFunc(15*ms, func() { s.SetWorkers(tt.later) })
				}

				start := time.Now()
				got := make([]arriving, len(tt.arriving))
				var wg sync.WaitGroup
				for i, a := range tt.arriving {
					wg.Go(func() {
						virtual.Sleep(time.Duration(a.at) * ms)
						ctx, cancel := context.WithCancel(t.Context())
						defer cancel()
						if a.gives > 0 {
							time.AfterFunc(time.Duration(a.gives-a.at)*ms, cancel)
						}
						_, err := c.Get(ctx, &testv1.GetRequest{})
						got[i] = arriving{a.at, a.gives, int(time.Since(start) / ms), status.Code(err)}
					})
				}
				wg.Wait()
				assert.Equal(t, ledger(tt.arriving), ledger(got))
				assert.Equal(t, tt.turnedAway, s.TurnedAway())
			})
		})
	}
}

func ledger(arrivals []arriving) string {
	var b strings.Builder
	for _, a := range arrivals {
		fmt.Fprintf(&b, "at %d: %v at %d\n", a.at, a.code, a.ends)
	}
	return b.String()
}

// A load as programs use it: the capacity is exact whatever arrives.
func TestWorkersCapacity(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		workers testsrv.Workers
		rate    int // attempts a second, for three seconds
		served  [2]int
	}{
		{"below", testsrv.Workers{N: 10, Work: 10 * ms, Queue: 50 * ms}, 700, [2]int{2100, 2100}},
		{"twice what it can", testsrv.Workers{N: 10, Work: 10 * ms, Queue: 50 * ms}, 2000, [2]int{3000, 3060}},                  // and the line at the end
		{"turning away costs", testsrv.Workers{N: 10, Work: 10 * ms, Queue: 50 * ms, TurnAway: 0.25}, 2000, [2]int{2000, 2080}}, // x + (2000-x)/4 = 1000
		{"a fifth fails", testsrv.Workers{N: 10, Work: 10 * ms, Queue: 50 * ms, Fail: 0.2}, 700, [2]int{1620, 1740}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := testsrv.Start(t, testsrv.NoRecording())
				c := client(t, s)
				s.SetWorkers(tt.workers)

				var mu sync.Mutex
				var wg sync.WaitGroup
				served, slowest := 0, time.Duration(0)
				for range 3 * tt.rate {
					wg.Go(func() {
						start := time.Now()
						_, err := c.Get(t.Context(), &testv1.GetRequest{})
						mu.Lock()
						defer mu.Unlock()
						if err == nil {
							served++
							slowest = max(slowest, time.Since(start))
						}
					})
					virtual.Sleep(time.Second / time.Duration(tt.rate))
				}
				wg.Wait()
				assert.GreaterOrEqual(t, served, tt.served[0])
				assert.LessOrEqual(t, served, tt.served[1])
				if tt.workers.TurnAway == 0 {
					assert.LessOrEqual(t, slowest, tt.workers.Queue+tt.workers.Work)
				}
				assert.Equal(t, 3*tt.rate, s.Count(testsrv.Get))
			})
		})
	}
}
