// Streaming shows what rego does when streams break: a gRPC server and its clients
// in one program, over loopback TCP, with connections that the server cuts. Run it
// in the examples folder:
//
//	go run ./streaming
//
// Each scene makes one call and prints what the application got, what the server
// read of each attempt, and the timeline.
//
// What surprises people: a stream can be retried until the application has its
// first message, and no longer. To go on after that takes a hook that makes the
// request for what is missing.
//
// Begin with dial in client.go, then read the scenes: watch.go, upload.go, chat.go.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
)

func main() {
	if err := run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "streaming:", err)
		os.Exit(1)
	}
}

func run(out io.Writer) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	return play(ctx, &stage{out: out})
}

// play plays the scenes, less than a second in all.
func play(ctx context.Context, s *stage) error {
	for _, scene := range []func(context.Context, *stage) error{
		breaksEarly, replays, talks, breaksLate, resumes, hedges, outgrows,
	} {
		if err := scene(ctx, s); err != nil {
			return err
		}
	}
	return nil
}
