package debugpage

import (
	"fmt"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/interceptor"
)

// endMeans says what it means that calls ended for a reason, and what can be done.
var endMeans = map[string]string{
	"unfinished":         "a panic ended it, or it has not ended",
	"succeeded":          "the last attempt was a success",
	"non-retryable":      "a retry would not have helped: look at the code",
	"not-idempotent":     "the server may have executed the request, and the method is not known to be idempotent: if it is, declare it in its proto file or policy",
	"caller-cancelled":   "the caller did not want the answer any more",
	"deadline":           "the caller's deadline or the policy's timeout passed",
	"deadline-too-close": "the wait and another attempt would not have fitted into the deadline",
	"attempts-exhausted": "all attempts that the policy allows have failed: more of them are seldom the answer",
	"budget-denied":      "too much fails for retries to help, so the budget keeps them from the server: look at the server first",
	"pushback":           "the server asked not to be called again",
	"committed":          "a stream broke after messages had been handed to the application",
	"replay-buffer-full": "a stream had sent more than is kept for a replay",
	"disabled":           "retries are switched off",
	"unreachable":        "there was no connection for longer than calls wait for one",
	"chain-stopped":      "the call served a retry, which is left to whoever sent that",
}

// denialMeans says the same of retries and hedges that were denied.
var denialMeans = map[string]string{
	"budget-denied":      "the budget had nothing left: more fails, or is slow, than it pays for",
	"deadline-too-close": "the wait and another attempt would not have fitted into the deadline",
	"not-ready":          "the channel was not connected, so a hedge would have waited as well",
	"not-idempotent":     "the policy asks for hedging, and the method is not known to be idempotent: if it is, declare it in its proto file or policy",
	"reply-type":         "the caller's reply is of a kind of which no second one can be made",
	"few-samples":        "too little is known yet of how long the method takes",
	"too-slow":           "a hedge would be due later than hedge.max_delay",
	"disabled":           "hedging is switched off",
	"not-named":          "a stream in both directions is hedged only by a rule that names it",
	"chain-stopped":      "the call served a retry, which is left to whoever sent that",
	"trigger":            "the client's trigger wanted no hedge",
}

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
			add("%.2f attempts per call: %s, and %s of %s won.%s", c.Amplification(), extraWords(c), number(recent.won), number(c.Extra()), failsAs(recent))
		}
		if c.FailedShare() >= muchFails {
			add("%s of calls fail, most as %s: %s.", percent(c.FailedShare()), row.FailedAs[0].Reason, endMeans[row.FailedAs[0].Reason])
		}
		if d := worstDenial(row.DeniedAs); ratio(d.Count, c.Calls) >= muchIsDenied {
			add("%s extra attempts a second are denied as %s: %s.", decimals(perSecond(d.Count, row.Covers)), d.Reason, denialMeans[d.Reason])
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
	return fmt.Sprintf("%s of the extra ones are retries, the others hedges", percent(ratio(c.Retries, c.Extra())))
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
		hints = append(hints, fmt.Sprintf("Hedges are %s of the calls of the last ten seconds, and the policy promises %s.", percent(h.ExtraLoad), percent(h.MaxExtraLoad)))
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
