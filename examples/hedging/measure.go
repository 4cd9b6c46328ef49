package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/rego-go/rego/examples/internal/openloop"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

const (
	callsPerSecond = 1000

	// warmUp is how long calls are offered before they count: hedging needs to
	// know the method, and what it may borrow grows over seconds.
	warmUp = 10 * time.Second
)

// A result is what a run shows.
type result struct {
	hedged    bool
	latencies []time.Duration // of the calls, sorted, from when they were to start
	extra     float64         // attempts that the server got besides one per call, as a share of all calls
	mostExtra float64         // the same of the worst ten seconds, but for one attempt
}

// quantile returns the latency that 1-q of the calls exceed.
func (r result) quantile(q float64) time.Duration {
	return r.latencies[min(int(q*float64(len(r.latencies))), len(r.latencies)-1)]
}

// A stage is where a scenario is played: how long, after how long a warm-up, how calls
// wait for their time, and on what kind of server.
type stage struct {
	warmUp time.Duration
	length time.Duration
	wait   func(until time.Time)
	server []testsrv.Option
}

// measure offers the load to a server of the scenario, with hedging or without.
func (s stage) measure(sc scenario, hedged bool) (result, error) {
	srv, err := testsrv.New(append(s.server, testsrv.NoRecording())...)
	if err != nil {
		return result{}, err
	}
	defer srv.Close()
	arrived := &arrivals{begin: time.Now(), rand: rand.New(rand.NewPCG(5, 6))}
	turn := s.warmUp + s.length/2
	srv.Handle(testsrv.Get, func(a testsrv.Arrival) testsrv.Step {
		return testsrv.Delay(arrived.takes(sc, a, turn))
	})

	p := policy.Policy{Name: sc.name, Retry: policy.Retry{Off: true}}
	if hedged {
		p.Hedge.MaxExtraLoad = sc.maxExtraLoad
	}
	rego, err := interceptor.New(interceptor.WithPolicy(p))
	if err != nil {
		return result{}, err
	}
	conn, err := srv.Dial(rego.DialOptions()...)
	if err != nil {
		return result{}, err
	}
	defer conn.Close()
	client := testv1.NewTestServiceClient(conn)
	// What it takes to connect is not what is measured.
	if _, err := client.Put(context.Background(), &testv1.PutRequest{}); err != nil {
		return result{}, err
	}

	at := openloop.Poisson(rand.New(rand.NewPCG(1000, 1)), callsPerSecond, s.warmUp+s.length)
	latencies, failed := make([]time.Duration, len(at)), make([]error, len(at))
	openloop.Offer(at, s.wait, func(i int, due time.Time) {
		_, failed[i] = client.Get(context.Background(), &testv1.GetRequest{})
		latencies[i] = time.Since(due)
	})
	counted := 0
	if !sc.cold {
		counted, _ = slices.BinarySearch(at, s.warmUp)
	}
	latencies = latencies[counted:]
	slices.Sort(latencies)
	return result{
		hedged: hedged, latencies: latencies, extra: arrived.share(), mostExtra: arrived.most(),
	}, errors.Join(failed...)
}

// arrivals is what the server sees: when originals and when other attempts come.
type arrivals struct {
	begin time.Time

	mu               sync.Mutex
	rand             *rand.Rand
	originals, extra []time.Duration
}

// takes notes an arrival, and draws what it takes.
func (a *arrivals) takes(sc scenario, arrival testsrv.Arrival, turn time.Duration) time.Duration {
	at := arrival.Time.Sub(a.begin)
	a.mu.Lock()
	defer a.mu.Unlock()
	if arrival.Previous == 0 {
		a.originals = append(a.originals, at)
	} else {
		a.extra = append(a.extra, at)
	}
	return sc.takes(a.rand, at >= turn)
}

func (a *arrivals) share() float64 { return float64(len(a.extra)) / float64(len(a.originals)) }

// most returns the greatest share that ten seconds show which begin with an extra
// attempt and end before the run does, that one attempt not counted.
func (a *arrivals) most() (most float64) {
	const window = 10 * time.Second
	slices.Sort(a.originals)
	slices.Sort(a.extra)
	end := a.originals[len(a.originals)-1]
	for i, from := range a.extra {
		if from+window > end {
			break
		}
		more := count(a.extra[i:], from, from+window) - 1
		most = max(most, float64(more)/float64(count(a.originals, from, from+window)))
	}
	return most
}

// count returns how many of the times are from one to another.
func count(times []time.Duration, from, to time.Duration) int {
	low, _ := slices.BinarySearch(times, from)
	high, _ := slices.BinarySearch(times, to+1)
	return high - low
}
