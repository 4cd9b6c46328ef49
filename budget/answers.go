package budget

import (
	"sync/atomic"

	"github.com/rego-go/rego/internal/percpu"
)

// answers counts what a budget has said of retries and hedges, in a cell for each processor:
// in an outage every call asks.
type answers []answerCell

type answerCell struct {
	granted, denied atomic.Int64

	_ [112]byte // up to 128, as package percpu has it
}

func newAnswers() answers { return make(answers, percpu.Cells()) }

// Answers returns how many extra attempts the budget has granted, and how many it has
// denied. An attempt that was granted and then not sent counts as granted. An attempt that
// another budget of the same [All] has denied counts only there.
func (a answers) Answers() (granted, denied int64) {
	for i := range a {
		granted += a[i].granted.Load()
		denied += a[i].denied.Load()
	}
	return granted, denied
}

// answer counts what is said of an extra attempt, and says it.
func (a answers) answer(granted bool) bool {
	c := &a[percpu.Mine(len(a))]
	if granted {
		c.granted.Add(1)
	} else {
		c.denied.Add(1)
	}
	return granted
}

// counting is a budget that counts its answers apart from giving them: so All counts a grant once
// it is known that no other budget denies it. To count it at once and take it back would not do,
// since counters must never go back.
type counting interface {
	ask(Kind) bool // Acquire of an extra attempt, without counting
	answer(granted bool) bool
}

// ask asks a budget without counting that it has granted.
func ask(b Budget, k Kind) bool {
	if k == Original {
		return b.Acquire(k)
	}
	if c, ok := b.(counting); ok {
		return c.ask(k) || c.answer(false)
	}
	return b.Acquire(k)
}
