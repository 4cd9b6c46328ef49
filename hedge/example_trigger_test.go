package hedge_test

import (
	"fmt"
	"time"

	"github.com/rego-go/rego/hedge"
)

// byTarget hedges where replicas are known to be uneven, and nowhere else.
type byTarget struct {
	uneven map[string]bool
	*hedge.Delay
}

func (t byTarget) Next(c hedge.Call) (time.Duration, hedge.State) {
	if !t.uneven[c.Target] {
		return 0, hedge.Declined
	}
	return t.Delay.Next(c)
}

// How does a program say itself when a second attempt is due? With a trigger, which may ask a
// Delay for what it does not decide itself. interceptor.WithTrigger gives it a name for policies.
func ExampleTrigger() {
	t := byTarget{uneven: map[string]bool{"dns:///search": true}, Delay: hedge.Fixed(20 * time.Millisecond)}

	fmt.Println(t.Next(hedge.Call{Target: "dns:///search", SinceLast: 5 * time.Millisecond}))
	_, state := t.Next(hedge.Call{Target: "dns:///users"})
	fmt.Println(state)

	// Output:
	// 15ms ready
	// declined
}
