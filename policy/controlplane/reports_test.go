package controlplane_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// calls is what a program has counted: calls of one method that went well.
type calls struct {
	mu   sync.Mutex
	n    int64
	slow time.Duration // that a look takes
	seen int           // looks
}

func (c *calls) add(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += n
}

func (c *calls) takes(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slow = d
}

func (c *calls) looks() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen
}

func (c *calls) counts() []policy.MethodCounts {
	c.mu.Lock()
	n, slow := c.n, c.slow
	c.seen++
	c.mu.Unlock()
	virtual.Sleep(slow)
	return []policy.MethodCounts{{Method: "/a.B/C", Ends: []policy.EndCount{{Code: codes.OK, Reason: "succeeded", Calls: n}}}}
}

// inbox is the reports that a server has got, in words.
type inbox struct {
	mu  sync.Mutex
	got []string
	at  []time.Time
}

func (b *inbox) put(_ string, r *regov1.Report) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := uint64(0)
	for _, m := range r.GetMethods() {
		for _, e := range m.GetEnds() {
			n += e.GetCalls()
		}
	}
	b.got = append(b.got, fmt.Sprint(r.GetVersion(), ":", n))
	b.at = append(b.at, time.Now())
}

// take returns what has come since it was last asked, and when.
func (b *inbox) take() ([]string, []time.Time) {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	got, at := b.got, b.at
	b.got, b.at = nil, nil
	return got, at
}

// next returns what comes at a time, once it does, within the longest interval.
func (b *inbox) next() []string {
	for range 5 * every / 4 / time.Millisecond {
		virtual.Sleep(time.Millisecond)
		if got := b.words(); got != nil {
			return got
		}
	}
	return nil
}

func (b *inbox) words() []string {
	got, _ := b.take()
	return got
}

const every = 10 * time.Second

// reported returns a server that asks for reports.
func (b *inbox) server(st *policy.Store) *controlplane.Server {
	s := controlplane.NewServer(st, nil, controlplane.ReportEvery(every))
	s.OnReport(b.put)
	return s
}

func (n *network) reports(t *testing.T, st *policy.Store, c *calls) *controlplane.Watcher {
	t.Helper()
	w, err := controlplane.Watch("passthrough:///control", payments, st, silent, n.options(), controlplane.WithReports(c.counts))
	require.NoError(t, err)
	return w
}

// TestReports: what was added since the last report, if anything was, about as often as asked.
func TestReports(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		var b inbox
		n.serve(b.server(newStore(t, set("1"))))
		c := &calls{n: 1000}
		w := n.reports(t, new(policy.Store), c)
		synctest.Wait()
		began := time.Now()
		c.add(1)
		virtual.Sleep(every)
		got, at := b.take()
		assert.Equal(t, []string{"1:1"}, got, "what was before does not count")
		last := at[0]
		assert.LessOrEqual(t, last.Sub(began), every)
		for i := range 100 {
			c.add(int64(i + 2))
			virtual.Sleep(time.Until(last) + every - 1)
			assert.Empty(t, b.words(), "%d", i)
			virtual.Sleep(every/4 + 1)
			got, at = b.take()
			assert.Equal(t, []string{fmt.Sprint("1:", i+2)}, got)
			last = at[0]
		}
		virtual.Sleep(time.Hour)
		assert.Empty(t, b.words(), "nothing has changed")
		assert.Equal(t, regov1.ClientState_CLIENT_STATE_CURRENT, n.list(t, "")[0].GetState())

		c.add(1)
		require.NoError(t, w.Close())
		virtual.Sleep(time.Minute)
		assert.Empty(t, b.words())
	})
}

// TestReportsAreSpread: clients that came together do not report together.
func TestReportsAreSpread(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		var b inbox
		n.serve(b.server(newStore(t, set("1"))))
		c := new(calls)
		for range 100 {
			defer n.reports(t, new(policy.Store), c).Close()
		}
		synctest.Wait()
		c.add(1)
		began := time.Now()
		virtual.Sleep(every)
		_, at := b.take()
		require.Len(t, at, 100)
		first := 0
		for _, a := range at {
			if a.Sub(began) < every/2 {
				first++
			}
		}
		assert.Greater(t, first, 20)
		assert.Less(t, first, 80)
	})
}

// TestReportsBySet: calls count to the set that was in force, wherever it is from.
func TestReportsBySet(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		var b inbox
		source, st := newStore(t, set("1")), new(policy.Store)
		n.serve(b.server(source))
		c := new(calls)
		defer n.reports(t, st, c).Close()
		synctest.Wait()
		c.add(1)
		require.Equal(t, []string{"1:1"}, b.next())

		c.add(2)
		require.NoError(t, source.Update(set("2")))
		synctest.Wait()
		c.add(3)
		assert.Equal(t, []string{"1:2", "2:3"}, b.next(), "a report each")

		c.add(4)
		require.NoError(t, st.Update(set("of the program")))
		synctest.Wait()
		c.add(5)
		assert.Equal(t, []string{"2:4", "of the program:5"}, b.next())

		greedy := set("3")
		greedy.Rules[0].Policy.Retry.MaxAttempts = -1
		c.add(6)
		require.NoError(t, st.Guard(func(*policy.Table) error { return nil }))
		_ = st.Update(greedy)
		c.add(7)
		assert.Equal(t, []string{"of the program:13"}, b.next(), "a set that is refused changes nothing")

		for i := range 6 { // faster than they can be reported
			c.add(1)
			require.NoError(t, st.Update(set(fmt.Sprint("quick ", i))))
			synctest.Wait()
		}
		c.add(10)
		assert.Equal(t, []string{"quick 2:1", "quick 3:1"}, b.next(), "two at a time, of the four last")
		assert.Equal(t, []string{"quick 4:1", "quick 5:10"}, b.next())
	})
}

// TestReportsWait: without a server nothing is lost, and nothing is sent until the next one asks.
func TestReportsWait(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		var b inbox
		source, st := newStore(t, set("1")), new(policy.Store)
		n.serve(b.server(source))
		c := new(calls)
		defer n.reports(t, st, c).Close()
		virtual.Sleep(time.Minute)
		n.stop()
		c.add(1)
		virtual.Sleep(time.Hour)
		require.NoError(t, st.Update(set("2")))
		synctest.Wait()
		c.add(2)
		virtual.Sleep(time.Hour)
		assert.Empty(t, b.words())
		n.serve(b.server(newStore(t, policy.Set{}))) // it has no set, and asks with its heartbeat
		virtual.Sleep(30*time.Second + every)
		assert.Equal(t, []string{"1:1", "2:2"}, b.words())
		c.add(3)
		virtual.Sleep(5 * every / 4)
		assert.Equal(t, []string{"2:3"}, b.words())

		n.serve(controlplane.NewServer(source, nil)) // it does not ask
		looks := c.looks()
		c.add(100)
		virtual.Sleep(time.Hour)
		c.add(100)
		assert.Len(t, n.list(t, ""), 1)
		assert.LessOrEqual(t, c.looks(), looks+1, "of the set that has come")
		n.serve(b.server(source))
		virtual.Sleep(30 * time.Second)
		c.add(4)
		virtual.Sleep(2 * every)
		assert.Equal(t, []string{"1:4"}, b.words(), "counts of a time when nobody asked are not reported")
	})
}

// TestReportsOnce: streams that break take reports with them, and no call is reported twice.
func TestReportsOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *network) {
		var b inbox
		streams := 0
		n.serve(scripted{serve: func(s serverStream) error {
			streams++
			lasts := time.Duration(5+streams*7%20) * time.Second
			r := response("a", set(fmt.Sprint(streams)).Proto())
			r.ReportEvery = durationpb.New(time.Second)
			if err := s.Send(r); err != nil {
				return err
			}
			reads := streams%3 > 0 // or it breaks with all that has been sent
			go func() {
				for r, err := s.Recv(); reads && err == nil; r, err = s.Recv() {
					if r.GetReport() != nil {
						b.put("", r.GetReport())
					}
				}
			}()
			select {
			case <-time.After(lasts):
			case <-s.Context().Done():
			}
			return nil
		}})
		c := new(calls)
		defer n.reports(t, new(policy.Store), c).Close()
		synctest.Wait()
		for range 900 {
			c.add(1)
			virtual.Sleep(time.Second)
		}
		sum := 0
		for _, got := range b.words() {
			var set, calls int
			_, err := fmt.Sscanf(got, "%d:%d", &set, &calls)
			require.NoError(t, err)
			sum += calls
		}
		assert.Greater(t, streams, 30)
		assert.LessOrEqual(t, sum, 900)
		assert.Greater(t, sum, 450, "a third of the streams read nothing")
	})
}
