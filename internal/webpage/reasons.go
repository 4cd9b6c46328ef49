package webpage

// EndMeans says what it means that calls ended for a reason, and what can be done.
var EndMeans = map[string]string{
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

// DenialMeans says the same of retries and hedges that were denied.
var DenialMeans = map[string]string{
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
