package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// traffic is what top prints as JSON, which is part of the promise.
type traffic struct {
	Over      float64         `json:"over_seconds"`
	Reporting uint64          `json:"reporting"` // clients
	LeftOut   uint64          `json:"left_out"`  // methods that the server had no room for
	Methods   []methodTraffic `json:"methods"`
}

// methodTraffic is what the calls of a method did.
type methodTraffic struct {
	Service       string   `json:"service"` // of the clients; empty for those that are not told apart
	Method        string   `json:"method"`  // empty for those whose names may be made up
	Calls         uint64   `json:"calls"`
	Failed        uint64   `json:"failed"` // with another code than OK, and not since the caller cancelled
	Retries       uint64   `json:"retries"`
	Hedges        uint64   `json:"hedges"`
	Denials       uint64   `json:"denials"`
	Amplification float64  `json:"amplification"` // attempts per call
	Denied        []denied `json:"denied"`        // the most frequent first
	Ends          []ended  `json:"ends"`          // of calls, likewise
}

// denied is how many attempts were denied.
type denied struct {
	Kind   string `json:"kind"` // retry or hedge
	Reason string `json:"reason"`
	Count  uint64 `json:"count"`
}

// ended is how many calls ended like that.
type ended struct {
	Code   string `json:"code"`
	Reason string `json:"reason"`
	Calls  uint64 `json:"calls"`

	failed bool
}

// callerCancelled is the reason of calls that did not fail, whatever their code.
const callerCancelled = "caller-cancelled"

// rowsOf returns the traffic of each method.
func rowsOf(m *regov1.ListTrafficResponse) []methodTraffic {
	rows := make([]methodTraffic, len(m.GetTraffic()))
	for i, t := range m.GetTraffic() {
		r := methodTraffic{
			Service: t.GetService(), Method: t.GetMethod(), Retries: t.GetRetries(), Hedges: t.GetHedges(),
			Denied: []denied{}, Ends: []ended{},
		}
		for _, e := range t.GetEnds() {
			failed := e.GetCode() != regov1.Code_OK && e.GetReason() != callerCancelled
			r.Ends = append(r.Ends, ended{e.GetCode().String(), e.GetReason(), e.GetCalls(), failed})
			r.Calls += e.GetCalls()
			if failed {
				r.Failed += e.GetCalls()
			}
		}
		for _, d := range t.GetDenials() {
			r.Denied = append(r.Denied, denied{d.GetKind(), d.GetReason(), d.GetCount()})
			r.Denials += d.GetCount()
		}
		slices.SortStableFunc(r.Ends, func(a, b ended) int { return cmp.Compare(b.Calls, a.Calls) })
		slices.SortStableFunc(r.Denied, func(a, b denied) int { return cmp.Compare(b.Count, a.Count) })
		r.Amplification = 1
		if r.Calls > 0 {
			r.Amplification = float64(r.Calls+r.extra()) / float64(r.Calls)
		}
		rows[i] = r
	}
	return rows
}

func (r *methodTraffic) extra() uint64 { return r.Retries + r.Hedges }

func (r *methodTraffic) failedShare() float64 {
	return float64(r.Failed) / float64(max(1, r.Calls))
}

// deniedMostly returns the most frequent reason of denials.
func (r *methodTraffic) deniedMostly() string {
	if len(r.Denied) == 0 {
		return ""
	}
	d := r.Denied[0]
	return fmt.Sprintf("%s %s", d.Kind, d.Reason)
}

// failedMostly says how the most failed calls ended, and which share of them that is.
func (r *methodTraffic) failedMostly() string {
	i := slices.IndexFunc(r.Ends, func(e ended) bool { return e.failed })
	if i < 0 {
		return ""
	}
	e := r.Ends[i]
	return fmt.Sprintf("%s %s (%s)", e.Code, e.Reason, percent(float64(e.Calls)/float64(r.Failed)))
}

// order is a flag that says what comes first.
type order string

const (
	orderExtra         order = "extra"
	orderCalls         order = "calls"
	orderAmplification order = "amplification"
	orderFailed        order = "failed"
)

var orders = []string{string(orderExtra), string(orderCalls), string(orderAmplification), string(orderFailed)}

// flags adds the flag --sort.
func (o *order) flags(cmd *cobra.Command) {
	*o = orderExtra
	cmd.Flags().Var(o, "sort", "sort by `extra`, calls, amplification or failed, the highest first")
	completes(cmd, "sort", orders...)
}

// String is that of pflag.Value.
func (o *order) String() string { return string(*o) }

// Set is that of pflag.Value.
func (o *order) Set(s string) error {
	if !slices.Contains(orders, s) {
		return fmt.Errorf("must be one of %s", strings.Join(orders, ", "))
	}
	*o = order(s)
	return nil
}

// Type is that of pflag.Value.
func (o *order) Type() string { return "order" }

// compare returns what sorts rows. Those that are alike are by extra attempts, failed calls, calls
// and names.
func (o *order) compare() func(a, b methodTraffic) int {
	return func(a, b methodTraffic) int {
		first := 0
		switch *o {
		case orderExtra: // as those that are alike
		case orderCalls:
			first = cmp.Compare(b.Calls, a.Calls)
		case orderAmplification:
			first = cmp.Compare(b.Amplification, a.Amplification)
		case orderFailed:
			first = cmp.Compare(b.Failed, a.Failed)
		}
		return cmp.Or(first, cmp.Compare(b.extra(), a.extra()), cmp.Compare(b.Failed, a.Failed), cmp.Compare(b.Calls, a.Calls),
			strings.Compare(a.Service, b.Service), strings.Compare(a.Method, b.Method))
	}
}
