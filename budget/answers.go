package budget

import "sync/atomic"

// answers counts what a budget has said of retries and hedges.
type answers struct{ granted, denied atomic.Int64 }

// Answers returns how many extra attempts the budget has granted, and how many it has denied.
// One that was granted and then not sent counts as granted.
func (a *answers) Answers() (granted, denied int64) { return a.granted.Load(), a.denied.Load() }

// answer counts what is said of an extra attempt, and says it.
func (a *answers) answer(granted bool) bool {
	if granted {
		a.granted.Add(1)
	} else {
		a.denied.Add(1)
	}
	return granted
}
