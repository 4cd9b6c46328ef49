package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "draw the pictures in docs again")

// TestRecorded draws what a Jaeger has answered of package jaeger's calls.
func TestRecorded(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		trace string
		rows  int
		want  []string // texts, from the top
		not   string   // of the legend
	}{
		{"slow-and-hedged", 6, []string{
			"slow, and hedged", "succeeded, attempts: 2, policy hedged", "#1 original, lost, CANCELLED", "cancel",
			"#2 hedge, won, OK, beside #1", "100ms hedge-delay", "hatched: lost to another attempt",
		}, "red: failed"},
		{"a-stream-that-breaks-and-is-resumed", 6, []string{
			"commit: answer", "wait 500ms backoff", "commit: answer", "!", "#1 original, failed, UNAVAILABLE",
			"#2 retry, won, OK, resumed", "500ms backoff", "red: failed",
		}, "hatched"},
		{"refused-then-recovers", 4, []string{
			"#1 original, won, OK", "without a connection", "reconnect, at most 5s", "dashed frame: no connection",
		}, "dotted"},
		{"pushback", 6, []string{"wait 30ms pushback", "#1 original, failed", "pushback 30ms", "#2 retry, won"}, "hatched"},
		{"connection-killed-not-idempotent", 4, []string{"not-idempotent, attempts: 1", "#1 original, failed, UNAVAILABLE"}, "diamond"},
		{"budget-spent", 4, []string{"budget-denied, attempts: 1, policy out-of-budget", "no retry: budget-denied"}, "dotted"},
	} {
		p := drawAnswer(t, recorded(t, c.trace))
		assert.Len(t, p.rows, c.rows, c.trace)
		assert.Truef(t, inOrder(p.texts, c.want), "%s: want %q in\n%q", c.trace, c.want, p.texts)
		assert.NotContains(t, p.texts[len(p.texts)-1], c.not, c.trace)
	}
}

// TestLink: a hedge is joined to the attempt that ran when it began, at that time.
func TestLink(t *testing.T) {
	t.Parallel()
	p := drawAnswer(t, recorded(t, "slow-and-hedged"))
	links := p.of("line", "link")
	require.Len(t, links, 1)
	assert.Equal(t, links[0]["x1"], links[0]["x2"])
	hedge := p.rows[4]["rect"]
	assert.Equal(t, hedge["x"], links[0]["x1"])
	assert.Len(t, p.of("rect", "lost0"), 1)
	assert.Len(t, p.of("line", "wait"), 1)
	assert.Empty(t, p.of("rect", "s0 failed"))
}

// TestDocs: the pictures in docs are those of the recorded traces.
func TestDocs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ trace, file string }{
		{"slow-and-hedged", "trace-hedged.svg"},
		{"a-stream-that-breaks-and-is-resumed", "trace-resumed.svg"},
	} {
		file := filepath.Join("..", "..", "docs", c.file)
		tr, err := parse(recorded(t, c.trace))
		require.NoError(t, err)
		if *update {
			require.NoError(t, os.WriteFile(file, draw(tr), 0o644))
		}
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.Equal(t, string(want), string(draw(tr)), "go test ./tracesvg -update draws %s again", c.file)
	}
}

// TestRefused: what is no trace is an error that says why.
func TestRefused(t *testing.T) {
	t.Parallel()
	many := make([]map[string]any, maxSpans+1)
	for _, c := range []struct{ answer, want string }{
		{``, "not an answer of Jaeger's"},
		{`<html>`, "not an answer of Jaeger's"},
		{`{"data":[{"spans":[{"startTime":"now"}]}]}`, "not an answer of Jaeger's"},
		{`{"data":[{"spans":[{"duration":1e999}]}]}`, "not an answer of Jaeger's"},
		{`{"data":null,"errors":[{"code":404,"msg":"trace not found"}]}`, "jaeger: trace not found"},
		{`{"data":[]}`, "want one trace, got 0"},
		{`{"data":[{},{}]}`, "want one trace, got 2"},
		{`{"data":[{"traceID":"a","spans":[]}]}`, "no spans"},
		{`{"data":[{"spans":` + string(encode(t, many)) + `}]}`, "has 1001 spans, at most 1000"},
	} {
		_, err := parse([]byte(c.answer))
		assert.ErrorContains(t, err, c.want, cut(c.answer, 80))
	}
}

// TestHostile: what spans say is drawn within the page, escaped, and each span once, whatever
// their references are.
func TestHostile(t *testing.T) {
	t.Parallel()
	child := func(id, of string) string {
		return fmt.Sprintf(`{"spanID":%q,"operationName":%q,"startTime":5,"duration":2,"references":[{"refType":"CHILD_OF","spanID":%q}]}`, id, id, of)
	}
	tagged := func(key, value string) string {
		return fmt.Sprintf(`{"spanID":"a","startTime":1,"duration":9,"tags":[{"key":%q,"value":%s}]}`, key, value)
	}
	deep := make([]string, 500)
	for i := range deep {
		deep[i] = child(fmt.Sprint(i), fmt.Sprint(i-1))
	}
	for _, c := range []struct {
		name  string
		spans []string
		want  string // a text that is there
	}{
		{"nothing said", []string{`{}`}, "unknown service"},
		{"its own parent", []string{child("a", "a")}, "a"},
		{"a cycle", []string{child("a", "b"), child("b", "c"), child("c", "a")}, "c"},
		{"a cycle beside a root", []string{`{"spanID":"r"}`, child("a", "b"), child("b", "a")}, "b"},
		{"no such parent", []string{child("a", "gone"), child("b", "a")}, "its parent is not in the trace"},
		{"no ID", []string{`{}`, `{}`, child("a", "")}, "a"},
		{"the same ID", []string{child("a", ""), child("a", ""), child("b", "a")}, "b"},
		{"deep", deep, "499"},
		{"markup", []string{`{"operationName":"</text><script>&amp;\"'","processID":"p"}`}, "<script>"},
		{"what XML cannot have", []string{`{"operationName":"a\u0000\u001b\ud800b"}`}, "a���b"},
		{"a long name", []string{`{"operationName":"` + strings.Repeat("long", 1000) + `"}`}, "…"},
		{"huge", []string{`{"startTime":-1e308,"duration":1e308}`, `{"startTime":1e308,"duration":1e308}`}, "e+12s"},
		{"ends before it begins", []string{`{"startTime":7,"duration":-5}`}, "0µs"},
		{"a huge wait", []string{tagged("rego.wait.duration", "1e300")}, "1e+12s"},
		{"a wait below zero", []string{tagged("rego.wait.duration", "-3")}, "9µs"},
		{"a wait in words", []string{tagged("rego.wait.duration", `"long"`)}, "9µs"},
		{"without a connection for longer than it ran", []string{tagged("rego.attempt.unreachable", "1e300")}, "9µs"},
		{"a number of another type", []string{tagged("rego.attempt.number", `{"a":[1,null]}`)}, "#map[a"},
		{"an event far away", []string{`{"startTime":1,"duration":9,"logs":[{"timestamp":1e308,"fields":[{"key":"event","value":"<here>"}]}]}`}, "<here>"},
		{"many events", []string{`{"duration":9,"logs":[` + strings.Repeat(`{"timestamp":4},`, 5000) + `{}]}`}, "4989 more events"},
		{"a link to itself and to nothing", []string{
			`{"spanID":"a","references":[{"refType":"FOLLOWS_FROM","spanID":"a"},{"refType":"FOLLOWS_FROM","spanID":"x"}]}`,
		}, "0µs"},
	} {
		p := drawAnswer(t, []byte(`{"data":[{"processes":{"p":{"serviceName":"a<b"}},"spans":[`+strings.Join(c.spans, ",")+`]}]}`))
		assert.Len(t, p.rows, len(c.spans), c.name)
		assert.Contains(t, strings.Join(p.texts, "\n"), c.want, c.name)
	}
}

// TestRun: a trace is read from a server, a file or standard input, and written to a file or
// standard output.
func TestRun(t *testing.T) {
	t.Parallel()
	answer := recorded(t, "pushback")
	mux := http.NewServeMux()
	mux.HandleFunc("/api/traces/1", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(answer) })
	mux.HandleFunc("/api/traces/2", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"data":null,"errors":[{"code":404,"msg":"trace not found"}]}`)
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	file := filepath.Join(t.TempDir(), "trace.svg")

	var fetched, piped bytes.Buffer
	require.NoError(t, run(t.Context(), srv.URL+"/api/traces/1", "-", nil, &fetched))
	require.NoError(t, run(t.Context(), "-", "-", bytes.NewReader(answer), &piped))
	require.NoError(t, run(t.Context(), "testdata/pushback.json", file, nil, nil))
	written, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, piped.String(), fetched.String())
	assert.Equal(t, piped.String(), string(written))

	require.ErrorContains(t, run(t.Context(), srv.URL+"/api/traces/2", "-", nil, io.Discard), "/api/traces/2: jaeger: trace not found")
	require.ErrorContains(t, run(t.Context(), srv.URL+"/trace/1", "-", nil, io.Discard), "404 Not Found")
	require.ErrorIs(t, run(t.Context(), "testdata/none.json", "-", nil, io.Discard), os.ErrNotExist)
}

func TestTicks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ total, want float64 }{
		{1, .2}, {3, 1}, {5.9, 1}, {6, 2}, {14.9, 2}, {15, 5}, {29, 5}, {184e3, 50e3}, {829e3, 200e3}, {1e18, 2e17},
	} {
		assert.InEpsilon(t, c.want, ticks(c.total), 1e-9, "%g µs", c.total)
	}
}

func TestDuration(t *testing.T) {
	t.Parallel()
	for micros, want := range map[float64]string{
		0: "0µs", 889: "889µs", 1000: "1ms", 81476: "81.5ms", 999_400: "999ms", 999_600: "0.9996s", 1_500_000: "1.5s", 1e18: "1e+12s",
	} {
		assert.Equal(t, want, duration(micros))
	}
}

func TestShort(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		runes int
		want  string
	}{
		{"shop.v1.Basket/Get", 18, "shop.v1.Basket/Get"},
		{"shop.v1.Basket/Get", 17, "…Basket/Get"},
		{"Attempt.shop.v1.Basket/Get", 20, "Attempt …Basket/Get"},
		{"Basket/Get", 7, "Basket…"},
		{"Attempt.", 3, "At…"},
		{"ééé", 2, "é…"},
		{"a", -1, "…"},
	} {
		assert.Equal(t, c.want, short(c.name, c.runes))
	}
}

func recorded(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	require.NoError(t, err)
	return b
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return b
}

// drawn is what a picture has: its elements, and the texts from the top.
type drawn struct {
	elements []element
	texts    []string
	rows     []map[string]element // of each, the last element of a kind
}

// element is one by its attributes; "" is its name.
type element map[string]string

// drawAnswer draws an answer and reads the picture: it is well-formed, knows no element but those
// that are expected, and each of them is on the page.
func drawAnswer(t *testing.T, answer []byte) (d drawn) {
	t.Helper()
	tr, err := parse(answer)
	require.NoError(t, err)
	dec := xml.NewDecoder(bytes.NewReader(draw(tr)))
	var open []string
	var text strings.Builder
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return d
		}
		require.NoError(t, err)
		switch token := token.(type) {
		case xml.StartElement:
			e := element{"": token.Name.Local}
			for _, a := range token.Attr {
				e[a.Name.Local] = a.Value
				assert.NotContains(t, a.Value, "NaN")
				assert.NotContains(t, a.Value, "Inf")
			}
			require.Contains(t, " svg title style defs pattern clipPath rect g text tspan line circle path ", " "+e[""]+" ")
			for _, name := range []string{"x", "x1", "x2", "cx", "width"} {
				var v float64
				if _, err := fmt.Sscan(e[name], &v); err == nil {
					assert.True(t, v >= 0 && v <= width, "%s of %v", name, e)
				}
			}
			if e[""] == "g" && open[len(open)-1] == "svg" {
				d.rows = append(d.rows, map[string]element{})
			}
			d.elements = append(d.elements, e)
			if len(d.rows) > 0 && e[""] != "g" {
				d.rows[len(d.rows)-1][e[""]] = e
			}
			open = append(open, e[""])
		case xml.EndElement:
			open = open[:len(open)-1]
			if token.Name.Local == "text" {
				d.texts = append(d.texts, text.String())
				if e := d.elements[len(d.elements)-1]; strings.HasPrefix(e["class"], "label") {
					x, err := strconv.ParseFloat(e["x"], 64)
					require.NoError(t, err)
					end := x + smallLetter*float64(utf8.RuneCountInString(text.String()))
					assert.True(t, x > namesRight && end <= width, "%q from %g to %g", &text, x, end)
				}
				text.Reset()
			}
		case xml.CharData:
			if n := len(open); n > 0 && (open[n-1] == "text" || open[n-1] == "tspan") {
				text.Write(token)
			}
		}
	}
}

// of returns the elements of a kind and a class.
func (d *drawn) of(name, class string) (found []element) {
	for _, e := range d.elements {
		if e[""] == name && e["class"] == class {
			found = append(found, e)
		}
	}
	return found
}

// inOrder reports whether some text contains each of want, in their order.
func inOrder(texts, want []string) bool {
	for _, text := range texts {
		if len(want) > 0 && strings.Contains(text, want[0]) {
			want = want[1:]
		}
	}
	return len(want) == 0
}
