package main

import (
	"cmp"
	"slices"
	"strings"

	"github.com/rego-go/rego/internal/webpage"
)

// pageOrders are the orders of methods.
var pageOrders = map[string]func(r *methodTraffic) float64{
	"trouble":       func(r *methodTraffic) float64 { return float64(r.extra() + r.Failed + r.Denials) },
	"amplification": func(r *methodTraffic) float64 { return r.Amplification },
	"extra":         func(r *methodTraffic) float64 { return float64(r.extra()) },
	"failed":        func(r *methodTraffic) float64 { return float64(r.Failed) },
	"denied":        func(r *methodTraffic) float64 { return float64(r.Denials) },
	"calls":         func(r *methodTraffic) float64 { return float64(r.Calls) },
	"name":          func(*methodTraffic) float64 { return 0 },
}

// Orders are their words, as the page lists them.
func (o *overviewPage) Orders() [][2]string {
	return [][2]string{
		{"trouble", "trouble"}, {"amplification", "attempts per call"}, {"extra", "extra attempts"},
		{"failed", "failed"}, {"denied", "denied"}, {"calls", "calls"}, {"name", "name"},
	}
}

func sortRows(rows []methodTraffic, order string) {
	of := pageOrders[order]
	slices.SortStableFunc(rows, func(a, b methodTraffic) int {
		first := cmp.Compare(of(&b), of(&a))
		if order != "name" {
			first = cmp.Or(first, cmp.Compare(b.Calls, a.Calls))
		}
		return cmp.Or(first, strings.Compare(a.Service, b.Service), strings.Compare(a.Method, b.Method))
	})
}

// amplification returns how many attempts there were for each call, 1 without calls.
func amplification(r *methodTraffic) float64 {
	if r.Calls == 0 {
		return 1
	}
	return float64(r.Calls+r.extra()) / float64(r.Calls)
}

// What is worth a look.
const (
	fewCalls     = 10   // below which shares say nothing
	muchExtra    = 1.3  // attempts for each call, as the alert has it
	muchFails    = 0.05 // of calls
	muchIsDenied = 0.01 // of calls
)

// Rate returns so many in the time of the traffic, by the second.
func (o *overviewPage) Rate(n uint64) string {
	return webpage.Decimals(webpage.PerSecond(int64(n), o.Traffic.Over))
}

// FailedShare is that of calls.
func (r *methodTraffic) FailedShare() float64 { return r.failedShare() }

// Amplifies reports whether it makes more extra attempts than it should.
func (r *methodTraffic) Amplifies() bool { return r.Calls >= fewCalls && r.Amplification >= muchExtra }

// Fails reports whether more calls fail than should.
func (r *methodTraffic) Fails() bool { return r.Calls >= fewCalls && r.failedShare() >= muchFails }

// IsDenied reports whether more extra attempts are denied than should be.
func (r *methodTraffic) IsDenied() bool {
	return r.Calls >= fewCalls && float64(r.Denials) >= muchIsDenied*float64(r.Calls)
}

// FailedAs are the most frequent ends of calls that failed.
func (r *methodTraffic) FailedAs() (some []ended) {
	const most = 3
	for _, e := range r.Ends {
		if e.failed && len(some) < most {
			some = append(some, e)
		}
	}
	return some
}

// DeniedAs are the most frequent denials.
func (r *methodTraffic) DeniedAs() []denied {
	const most = 2
	return r.Denied[:min(len(r.Denied), most)]
}

// Package is the method's service and a slash, as the page spells it.
func (r *methodTraffic) Package() string {
	return pageText(r.Method[:strings.LastIndexByte(r.Method, '/')+1])
}

// Short is the method without that.
func (r *methodTraffic) Short() string {
	if r.Method == "" {
		return "(others)"
	}
	return pageText(r.Method[strings.LastIndexByte(r.Method, '/')+1:])
}
