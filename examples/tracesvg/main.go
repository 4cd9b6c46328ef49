// Tracesvg draws one trace as SVG, in the manner of Jaeger's trace view.
//
// It reads what Jaeger's HTTP API answers for a trace, from the API itself, a file or
// standard input. There is a row for each span, coloured by service, on one time axis.
// What rego says of a call is drawn too: attempts that lost are hatched, failed ones have
// a red frame, waits are dotted, a hedge is joined to what it ran beside, and events such
// as denials and commits are marks with a label.
//
//	go run ./tracesvg -from http://localhost:16686/api/traces/ID -to trace.svg
//	curl -s http://localhost:16686/api/traces/ID | go run ./tracesvg > trace.svg
//
// Package jaeger makes calls whose traces are worth a look. Those in testdata are recorded
// from it, and those in docs are drawn from them:
//
//	REGO_JAEGER=/path/to/jaeger go test -count=1 ./jaeger -record ../tracesvg/testdata
//	go test ./tracesvg -update
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// maxAnswer is how many bytes of a trace are read.
const maxAnswer = 64 << 20

func main() {
	from := flag.String("from", "-", "what to draw: the URL of a trace in Jaeger's HTTP API, or a file with its answer; - is standard input")
	to := flag.String("to", "-", "the SVG file to write; - is standard output")
	flag.Parse()
	if err := run(context.Background(), *from, *to, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "tracesvg:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, from, to string, in io.Reader, out io.Writer) error {
	answer, err := read(ctx, from, in)
	if err != nil {
		return err
	}
	t, err := parse(answer)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	picture := draw(t)
	if to == "-" {
		_, err = out.Write(picture)
		return err
	}
	return os.WriteFile(to, picture, 0o644)
}

// read returns the answer of Jaeger's API, wherever it is.
func read(ctx context.Context, from string, in io.Reader) ([]byte, error) {
	switch {
	case from == "-":
		return readAll(in)
	case strings.HasPrefix(from, "http://"), strings.HasPrefix(from, "https://"):
		return fetch(ctx, from)
	}
	f, err := os.Open(from)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f)
}

func fetch(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := readAll(resp.Body)
	if err != nil {
		return nil, err
	}
	// Jaeger says in JSON what it did not find; others need not.
	if resp.StatusCode != http.StatusOK && !bytes.HasPrefix(answer, []byte("{")) {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return answer, nil
}

func readAll(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		err = fmt.Errorf("the trace has more than %d bytes", maxAnswer)
	}
	return b, err
}
