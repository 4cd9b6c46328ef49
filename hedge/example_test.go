package hedge_test

import (
	"fmt"
	"time"

	"github.com/rego-go/rego/hedge"
)

// Two percent of the attempts may be followed by a hedge: those that take longer
// than all others.
func ExampleTracker_Quantile() {
	const load = 0.02
	delay := hedge.NewTracker().Quantile(1-load, hedge.Bounds{Min: time.Millisecond})

	_, state := delay.After()
	fmt.Println("at first nothing is known:", state == hedge.Cold)

	start := time.Now()
	for i := range 1000 {
		start = start.Add(time.Millisecond)
		took := 5 * time.Millisecond
		if i%100 == 0 {
			took = 200 * time.Millisecond
		}
		delay.Record(start, start.Add(took))
	}
	after, _ := delay.After()
	fmt.Println("a hundredth is slow:", after.Round(100*time.Microsecond))
	// Output:
	// at first nothing is known: true
	// a hundredth is slow: 5ms
}
