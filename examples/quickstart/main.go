// Quickstart shows what rego does when calls fail: a gRPC server and its clients
// in one program, over loopback TCP. Run it in the examples folder:
//
//	go run ./quickstart
//
// Each scene plays one kind of trouble and prints the timelines of its calls; the
// table at the end says what each cost the server. With OTEL_EXPORTER_OTLP_ENDPOINT
// set (http://localhost:4317) the same calls are exported as spans.
//
// Begin with dial in client.go, which is all that a client needs, then read the
// scenes: restart.go, pushback.go, payment.go, outage.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
)

func main() {
	if err := run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(out io.Writer) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	spans, flush, err := telemetry(ctx)
	if err != nil {
		return err
	}
	// Not with ctx: what was seen before an interrupt is worth exporting too.
	defer func() { err = errors.Join(err, flush(context.Background(), out)) }()

	return play(ctx, &stage{out: out, spans: spans})
}

// play plays the scenes, about ten seconds in all, and ends with the table.
func play(ctx context.Context, s *stage) error {
	for _, scene := range []func(context.Context, *stage) error{restart, pushback, payment, outage} {
		if err := scene(ctx, s); err != nil {
			return err
		}
	}
	return s.table()
}
