// Debugpage serves the pages of package debugpage over a mixed load: calls that are retried,
// hedged, denied and refused, streams, and a backend that is ill from time to time.
//
// What surprises people: the pages answer to this machine alone, under the name localhost or
// a loopback address.
//
//	go run ./debugpage
//	go run ./debugpage -addr localhost:9000 -for 10m
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/rego-go/rego/examples/internal/mixed"
	"github.com/rego-go/rego/interceptor/debugpage"
)

func main() {
	addr := flag.String("addr", "localhost:8080", "where the pages are served")
	length := flag.Duration("for", 0, "how long; until it is interrupted if zero")
	flag.Parse()
	if err := run(*addr, *length); err != nil {
		fmt.Fprintln(os.Stderr, "debugpage:", err)
		os.Exit(1)
	}
}

// run serves the pages for so long, or until it is interrupted if that is zero.
func run(addr string, length time.Duration) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if length > 0 {
		ctx, stop = context.WithTimeout(ctx, length)
		defer stop()
	}
	l, err := mixed.New()
	if err != nil {
		return err
	}
	defer l.Close()
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Printf("http://%s/debug/rego/\n", listener.Addr())
	page := debugpage.New(l.Interceptor)
	defer page.Close()
	mux := http.NewServeMux()
	mux.Handle("/debug/rego/", http.StripPrefix("/debug/rego", page))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	go func() { // until the load has ended, which ctx ends
		l.Run(ctx)
		_ = server.Close()
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
