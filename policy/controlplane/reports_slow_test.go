package controlplane_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// TestSlowCounts: nothing but reports waits for what counts.
func TestSlowCounts(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		var b inbox
		source, st := newStore(t, set("1")), new(policy.Store)
		n.serve(b.server(source))
		c := new(calls)
		w := n.reports(t, st, c)
		virtual.Sleep(every)
		c.add(1)
		c.takes(time.Minute)
		virtual.Sleep(10 * time.Minute)
		assert.Equal(t, []string{"1:1"}, b.words(), "one set is in force all the while")

		c.add(2)
		for v := range 20 {
			virtual.Sleep(30 * time.Second)
			require.NoError(t, source.Update(set(fmt.Sprint("quick ", v))))
			synctest.Wait()
			require.Equal(t, fmt.Sprint("quick ", v), st.Current().Version(), "at once")
			require.Equal(t, regov1.ClientState_CLIENT_STATE_CURRENT, n.list(t, "")[0].GetState())
		}
		virtual.Sleep(10 * time.Minute)
		assert.Empty(t, b.words(), "nobody knows which set they belong to")
		c.add(3)
		virtual.Sleep(10 * time.Minute)
		assert.Equal(t, []string{"quick 19:3"}, b.words())

		c.takes(time.Hour)
		virtual.Sleep(2 * time.Minute) // a look has begun since
		closing := time.Now()
		require.NoError(t, w.Close())
		assert.Greater(t, time.Since(closing), 50*time.Minute, "Close waits")
		assert.Less(t, time.Since(closing), time.Hour)
	})
}

// TestReportsFillTheWindow: a server that asks and does not read holds up reports. The next set is
// taken at once, and then the server is given up, since it does not take the answer.
func TestReportsFillTheWindow(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		n.serve(scripted{serve: func(s serverStream) error {
			for v := range 2 {
				r := response(fmt.Sprint(v), set(fmt.Sprint(v)).Proto())
				r.ReportEvery = durationpb.New(time.Second)
				if err := s.Send(r); err != nil {
					return err
				}
				select {
				case <-time.After(10 * time.Second):
				case <-s.Context().Done():
				}
			}
			<-s.Context().Done()
			return nil
		}})
		st, c := new(policy.Store), new(calls)
		w, err := controlplane.Watch("passthrough:///control", payments, st, silent, n.options(), controlplane.WithReports(func() []policy.MethodCounts {
			c.add(1)
			counts := c.counts()
			for i := range 1000 { // 48 KiB each time
				m := counts[0]
				m.Method = fmt.Sprintf("/a.B/%0100d", i)
				counts = append(counts, m)
			}
			return counts
		}))
		require.NoError(t, err)
		defer w.Close()
		virtual.Sleep(10 * time.Second)
		synctest.Wait()
		assert.Equal(t, "1", st.Current().Version())
		n.dialed()
		virtual.Sleep(15*time.Second + 300*time.Millisecond)
		synctest.Wait()
		assert.NotEmpty(t, n.dialed(), "it was given up")
	})
}
