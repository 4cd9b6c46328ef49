package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"
)

// A scenario is how long the server takes for an attempt, and what its calls are
// hedged with.
type scenario struct {
	name, about  string
	maxExtraLoad float64
	cold         bool // calls count from the first one on
	// takes draws what an attempt takes, in the first half of what is measured or
	// in the second.
	takes   func(r *rand.Rand, second bool) time.Duration
	targets []target
}

// A target is what a run with hedging should reach.
type target struct {
	text string
	met  func(result) bool
}

func (sc scenario) verdicts(r result) string {
	var texts []string
	for _, t := range sc.targets {
		verdict := "ok"
		if !t.met(r) {
			verdict = "MISSED"
		}
		texts = append(texts, t.text+": "+verdict)
	}
	return strings.Join(texts, ", ")
}

func atMost(q float64, d time.Duration) target {
	return target{fmt.Sprintf("p%v ≤ %v", 100*q, d), func(r result) bool { return r.quantile(q) <= d }}
}

// extraAtMost is of all calls, and of any ten seconds' but for one attempt, which
// mostExtra leaves out.
func extraAtMost(share float64) target {
	return target{"extra ≤ " + percent(share), func(r result) bool { return r.extra <= share && r.mostExtra <= share }}
}

const ms = time.Millisecond

var scenarios = []scenario{
	{
		"tail", "98 % of attempts take 4 to 6 ms, 2 % take 200 ms", 0.025, false,
		func(r *rand.Rand, _ bool) time.Duration { return bimodal(r) },
		[]target{atMost(0.99, 15*ms), atMost(0.999, 18*ms), extraAtMost(0.025)},
	},
	{
		"lognormal", "attempts take 5 ms in the median and 51 ms at the 99th percentile", 0.05, false,
		func(r *rand.Rand, _ bool) time.Duration {
			return time.Duration(float64(5*ms) * math.Exp(r.NormFloat64()*math.Log(51.0/5)/2.326))
		},
		[]target{atMost(0.99, 36*ms), extraAtMost(0.05)},
	},
	{
		"shift", "as tail, and from half of the time on every attempt takes 15 ms longer", 0.025, false,
		func(r *rand.Rand, second bool) time.Duration {
			if second {
				return bimodal(r) + 15*ms
			}
			return bimodal(r)
		},
		[]target{extraAtMost(0.025)},
	},
	{
		"cold", "as tail, from the first call of the process on", 0.025, true,
		func(r *rand.Rand, _ bool) time.Duration { return bimodal(r) },
		[]target{atMost(0.99, 15*ms), atMost(0.999, 40*ms), atMost(0.9995, 40*ms), extraAtMost(0.025)},
	},
	{
		"cold5", "as cold, with twice the load", 0.05, true,
		func(r *rand.Rand, _ bool) time.Duration { return bimodal(r) },
		[]target{atMost(0.99, 14*ms), atMost(0.999, 18*ms), atMost(0.9995, 40*ms), extraAtMost(0.05)},
	},
}

func bimodal(r *rand.Rand) time.Duration {
	if r.Float64() < 0.02 {
		return 200 * ms
	}
	return 4*ms + time.Duration(r.Int64N(int64(2*ms)))
}
