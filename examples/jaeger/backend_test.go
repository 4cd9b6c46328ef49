package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var record = flag.String("record", "", "keep what Jaeger answers in this folder, a file for each call")

// backend is a Jaeger in a process of its own.
type backend struct {
	otlp  string        // where it takes spans
	query string        // where it answers
	ended chan struct{} // closed when the process has
}

// jaegerConfig is as little as a Jaeger needs to take spans and give them back.
const jaegerConfig = `
service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces:
      receivers: [otlp]
      exporters: [jaeger_storage_exporter]
  telemetry:
    metrics:
      level: none
extensions:
  jaeger_storage:
    backends:
      memory:
        memory:
          max_traces: 1000
  jaeger_query:
    storage:
      traces: memory
    http:
      endpoint: %s
    grpc:
      endpoint: %s
receivers:
  otlp:
    protocols:
      grpc:
        endpoint: %s
exporters:
  jaeger_storage_exporter:
    trace_storage: memory
`

// patience bounds each wait for the process. It only ends a test that has failed.
const patience = time.Minute

// startJaeger starts the Jaeger that REGO_JAEGER names, for the time of the test.
func startJaeger(t *testing.T) *backend {
	t.Helper()
	binary := os.Getenv("REGO_JAEGER")
	if binary == "" {
		t.Skip("needs a Jaeger: run `make e2e`, or set REGO_JAEGER to the path of a Jaeger 2 binary")
	}
	http, grpc, otlp := freeAddr(t), freeAddr(t), freeAddr(t)
	config := filepath.Join(t.TempDir(), "jaeger.yaml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, jaegerConfig, http, grpc, otlp), 0o600))

	ctx, stop := context.WithCancel(context.Background())
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, "--config", config)
	cmd.Stdout, cmd.Stderr = &out, &out
	// It would trace itself, and at its end wait for somebody to send that to.
	cmd.Env = append(os.Environ(), "OTEL_TRACES_SAMPLER=always_off")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second // then it is killed
	require.NoError(t, cmd.Start())

	b := &backend{otlp: "http://" + otlp, query: "http://" + http, ended: make(chan struct{})}
	go func() {
		defer close(b.ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		stop()
		<-b.ended
		if t.Failed() {
			t.Logf("the log of Jaeger:\n%s", &out)
		}
	})
	b.eventually(t, "Jaeger takes spans", func() bool {
		conn, err := net.Dial("tcp", otlp)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil && b.get(t, "/api/services", nil)
	})
	return b
}

// freeAddr returns an address nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// eventually polls until ok, while the process runs.
func (b *backend) eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-b.ended:
			require.FailNow(t, "Jaeger has ended", "while waiting: %s", what)
		case <-deadline:
			require.FailNow(t, "too late", "while waiting: %s", what)
		}
	}
}

// get asks the query API. It reports false for anything but a success.
func (b *backend) get(t *testing.T, path string, into any) bool {
	t.Helper()
	resp, err := http.Get(b.query + path)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return false
	}
	if into != nil {
		require.NoError(t, json.NewDecoder(resp.Body).Decode(into))
	}
	return true
}

// keep writes a trace, as Jaeger gives it, to a file that is named after its call.
func (b *backend) keep(t *testing.T, folder, call, id string) {
	t.Helper()
	resp, err := http.Get(b.query + "/api/traces/" + id)
	require.NoError(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	name := strings.ReplaceAll(strings.ReplaceAll(call, ",", ""), " ", "-") + ".json"
	require.NoError(t, os.WriteFile(filepath.Join(folder, name), answer, 0o600))
}

// The trace as /api/traces gives it.
type (
	span struct {
		ID         string `json:"spanID"`
		Name       string `json:"operationName"`
		Start      int64  `json:"startTime"`
		Process    string `json:"processID"`
		Tags       []tag  `json:"tags"`
		References []struct {
			Type string `json:"refType"`
			Span string `json:"spanID"`
		} `json:"references"`
		Logs []struct {
			Fields []tag `json:"fields"`
		} `json:"logs"`
	}
	tag struct {
		Key   string `json:"key"`
		Value any    `json:"value"`
	}
	trace struct {
		Spans     []span `json:"spans"`
		Processes map[string]struct {
			Service string `json:"serviceName"`
		} `json:"processes"`
	}
)

// trace waits until Jaeger has all the spans of a trace, and draws it.
func (b *backend) trace(t *testing.T, id string, spans int) string {
	t.Helper()
	var answer struct{ Data []trace }
	b.eventually(t, "trace "+id, func() bool {
		answer.Data = nil
		return b.get(t, "/api/traces/"+id, &answer) && len(answer.Data) == 1 && len(answer.Data[0].Spans) >= spans
	})
	tr := answer.Data[0]
	slices.SortStableFunc(tr.Spans, func(a, b span) int { return cmp.Compare(a.Start, b.Start) })
	var w strings.Builder
	w.WriteByte('\n')
	tr.draw(&w, "", "")
	return w.String()
}

// draw writes the children of parent: service, kind, name and status, then the
// attributes of rego and the events.
func (tr *trace) draw(w *strings.Builder, parent, indent string) {
	for _, s := range tr.Spans {
		if s.parent() != parent {
			continue
		}
		fmt.Fprintf(w, "%s%s %v %s", indent, tr.Processes[s.Process].Service, s.tag("span.kind"), s.Name)
		if code := s.tag("otel.status_code"); code != nil {
			fmt.Fprintf(w, " %v", code)
		}
		if scope := s.tag("otel.scope.name"); scope == "github.com/rego-go/rego/otelobs" {
			fmt.Fprintf(w, ": %v", cmp.Or(s.tag("otel.status_description"), any("fine")))
			for _, n := range tr.beside(&s) {
				fmt.Fprintf(w, ", beside %v", n)
			}
			s.drawTags(w, indent+"    ")
		}
		w.WriteByte('\n')
		for _, l := range s.Logs {
			fmt.Fprintf(w, "%s    @%s\n", indent, words(l.Fields, ""))
		}
		tr.draw(w, s.ID, indent+"  ")
	}
}

func (s *span) drawTags(w *strings.Builder, indent string) {
	fmt.Fprintf(w, "\n%s%s\n%s%s", indent, words(s.Tags, "rego."), indent, words(s.Tags, "rpc."))
}

// beside returns the numbers of the attempts that the span is linked to.
func (tr *trace) beside(s *span) (numbers []any) {
	for _, r := range s.References {
		for _, other := range tr.Spans {
			if r.Type == "FOLLOWS_FROM" && other.ID == r.Span {
				numbers = append(numbers, other.tag("rego.attempt.number"))
			}
		}
	}
	return numbers
}

func (s *span) parent() string {
	for _, r := range s.References {
		if r.Type == "CHILD_OF" {
			return r.Span
		}
	}
	return ""
}

func (s *span) tag(key string) any {
	for _, t := range s.Tags {
		if t.Key == key {
			return t.Value
		}
	}
	return nil
}

func words(tags []tag, prefix string) string {
	var words []string
	for _, t := range tags {
		if t.Key == "rego.wasted.duration" || t.Key == "rego.attempt.unreachable" {
			t.Value = "some" // of real time
		}
		if key, ok := strings.CutPrefix(t.Key, prefix); ok {
			words = append(words, fmt.Sprintf("%s=%v", key, t.Value))
		}
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}
