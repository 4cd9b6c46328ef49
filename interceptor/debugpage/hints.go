package debugpage

import (
	"fmt"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/webpage"
)

// What is worth a hint, of late.
const (
	fewCalls      = 10   // below which shares say nothing
	muchExtra     = 0.1  // extra attempts for each call
	muchFails     = 0.05 // of calls
	muchIsDenied  = 0.01 // of calls
	moreThanSlack = 1.2  // times what was promised
)

// hintsOf says in words what stands out of a method of late.
func hintsOf(row *methodRow, recent *totals) []string {
	hints := []string{}
	add := func(format string, args ...any) { hints = append(hints, fmt.Sprintf(format, args...)) }
	c := &row.Recent
	if c.Calls >= fewCalls {
		if extra := ratio(c.Extra(), c.Calls); extra >= muchExtra {
			add("%.2f attempts per call: %s, and %s of %s won.%s", c.Amplification(), extraWords(c), webpage.Number(recent.won), webpage.Number(c.Extra()), failsAs(recent))
		}
		if c.FailedShare() >= muchFails {
			add("%s of calls fail, most as %s: %s.", webpage.Percent(c.FailedShare()), row.FailedAs[0].Reason, webpage.EndMeans[row.FailedAs[0].Reason])
		}
		if d := worstDenial(row.DeniedAs); ratio(d.Count, c.Calls) >= muchIsDenied {
			add("%s extra attempts a second are denied as %s: %s.", webpage.Decimals(webpage.PerSecond(d.Count, row.Covers)), d.Reason, webpage.DenialMeans[d.Reason])
		}
	}
	if row.Method == "" {
		add("These are all methods after the first 16,384: somebody makes names up.")
	}
	return hints
}

// worstDenial returns the most frequent reason that somebody may do something about.
func worstDenial(list []reasonCount) reasonCount {
	for _, d := range list {
		switch d.Reason {
		case "few-samples", "disabled", "chain-stopped", "trigger":
		default:
			return d
		}
	}
	return reasonCount{}
}

func extraWords(c *counts) string {
	switch {
	case c.Hedges == 0:
		return "the extra ones are retries"
	case c.Retries == 0:
		return "the extra ones are hedges"
	}
	return fmt.Sprintf("%s of the extra ones are retries, the others hedges", webpage.Percent(ratio(c.Retries, c.Extra())))
}

// failsAs says as what attempts fail most.
func failsAs(recent *totals) string {
	code := recent.failsAs()
	if code == codes.OK {
		return ""
	}
	return fmt.Sprintf(" Attempts fail most as %s.", codeName(code))
}

// hedgingHints says what stands out of hedging.
func hedgingHints(h *interceptor.HedgingState, row *methodRow) (hints []string) {
	if h == nil {
		return nil
	}
	if h.MaxExtraLoad > 0 && h.ExtraLoad > moreThanSlack*h.MaxExtraLoad && row.Recent.Hedges >= fewCalls {
		hints = append(hints, fmt.Sprintf("Hedges are %s of the calls of the last ten seconds, and the policy promises %s.", webpage.Percent(h.ExtraLoad), webpage.Percent(h.MaxExtraLoad)))
	}
	return hints
}

// policyHints says what stands out of a store.
func policyHints(p *policies) []string {
	hints := []string{}
	add := func(format string, args ...any) { hints = append(hints, fmt.Sprintf(format, args...)) }
	switch p.State {
	case "refused":
		add("The newest set was refused: what was in force before still is.")
	case "stale":
		add("The source of policies is out of reach: the last good set is in force, and calls are fine.")
	}
	for _, text := range p.NoEffect {
		add("A part of the set does nothing here: %s.", text)
	}
	for _, selector := range p.Unknown {
		add("There is a rule for %s, and its service has no such method: it may be misspelt.", selector)
	}
	if p.SnapshotError != "" {
		add("The snapshot of policies could not be read or written.")
	}
	return hints
}
