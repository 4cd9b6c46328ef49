// Package chromium looks at pages in a headless Chromium, for tests.
package chromium

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Browser is a headless Chromium with one tab, spoken to over the pipe of its DevTools
// protocol. It is for one goroutine.
type Browser struct {
	t       *testing.T
	to      io.Writer
	from    *bufio.Reader
	last    int
	session string

	loaded   bool
	problems []string // errors and warnings of the console, exceptions, and what was refused
}

// New starts Chromium, which REGO_CHROMIUM names, and the test fails without it. It skips the test
// if REGO_CHROMIUM is not set: "make pages" sets it.
func New(t *testing.T) *Browser {
	t.Helper()
	name := os.Getenv("REGO_CHROMIUM")
	if name == "" {
		t.Skip("needs a Chromium: run `make pages`, or set REGO_CHROMIUM to the path of one")
	}
	folder, err := os.MkdirTemp("", "chromium") //nolint:usetesting // processes of Chromium may write there when the test has ended
	require.NoError(t, err)
	toChild, to, err := os.Pipe()
	require.NoError(t, err)
	from, fromChild, err := os.Pipe()
	require.NoError(t, err)
	c := exec.CommandContext(t.Context(), name, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--hide-scrollbars", "--no-first-run", "--user-data-dir="+folder, "--remote-debugging-pipe")
	c.ExtraFiles = []*os.File{toChild, fromChild} // 3 and 4, as Chromium expects them
	require.NoError(t, c.Start())
	require.NoError(t, toChild.Close())
	require.NoError(t, fromChild.Close())
	b := &Browser{t: t, to: to, from: bufio.NewReaderSize(from, 1<<20)}
	t.Cleanup(func() {
		_, _ = fmt.Fprintf(to, `{"id": 0, "method": "Browser.close"}`+"\x00")
		_, _ = io.Copy(io.Discard, b.from)
		_ = c.Wait()
		_ = to.Close()
		_ = from.Close()
		for range 100 { // processes that it has started may write there a little longer
			if os.RemoveAll(folder) == nil {
				return
			}
		}
	})
	b.open()
	return b
}

func (b *Browser) open() {
	var target struct{ TargetID string }
	b.do("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var session struct{ SessionID string }
	b.do("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &session)
	b.session = session.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		b.do(domain+".enable", nil, nil)
	}
}

// message is a command, its answer or an event.
type message struct {
	ID        int             `json:"id,omitempty"`
	SessionID string          `json:"sessionId,omitempty"`
	Method    string          `json:"method,omitempty"`
	Params    any             `json:"params,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	Error     json.RawMessage `json:"error,omitempty"`
}

// do sends a command and waits for its answer.
func (b *Browser) do(method string, params, result any) {
	b.t.Helper()
	b.last++
	text, err := json.Marshal(message{ID: b.last, SessionID: b.session, Method: method, Params: params})
	require.NoError(b.t, err)
	_, err = b.to.Write(append(text, 0))
	require.NoError(b.t, err)
	for {
		m := b.next()
		if m.ID != b.last {
			continue
		}
		require.Empty(b.t, string(m.Error), method)
		if result != nil {
			require.NoError(b.t, json.Unmarshal(m.Result, result))
		}
		return
	}
}

// next reads a message, and notes what an event says.
func (b *Browser) next() message {
	b.t.Helper()
	text, err := b.from.ReadBytes(0)
	require.NoError(b.t, err, "chromium has ended")
	text = bytes.TrimSuffix(text, []byte{0})
	var m message
	require.NoError(b.t, json.Unmarshal(text, &m))
	switch m.Method {
	case "Page.loadEventFired":
		b.loaded = true
	case "Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Network.loadingFailed":
		b.problems = append(b.problems, string(text))
	}
	return m
}

// Load opens a page in a window so wide, light or dark, and waits until it is there.
func (b *Browser) Load(url string, width int, scheme string) {
	b.t.Helper()
	b.do("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false}, nil)
	b.do("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	b.loaded = false
	b.do("Page.navigate", map[string]any{"url": url}, nil)
	for !b.loaded {
		b.next()
	}
}

// Look loads a page narrow and wide, light and dark, and asserts that it is not wider than its window,
// has its style, a title and one heading, and that nothing was written to the console or refused. With
// REGO_SCREENSHOTS, pictures go into that folder.
func (b *Browser) Look(name, at string) {
	b.t.Helper()
	for _, width := range []int{400, 1600} {
		for _, scheme := range []string{"light", "dark"} {
			what := fmt.Sprintf("%s-%d-%s", name, width, scheme)
			b.Load(at, width, scheme)
			var got struct {
				Width  int
				Title  string
				Ground string
				H1     int
			}
			b.Evaluate(`({width: document.documentElement.scrollWidth, title: document.title, h1: document.querySelectorAll("h1").length,
				ground: getComputedStyle(document.body).backgroundColor})`, &got)
			assert.Equal(b.t, width, got.Width, "%s: the page is wider than its window", what)
			assert.Equal(b.t, 1, got.H1, what)
			assert.Contains(b.t, got.Title, "rego", what)
			assert.Equal(b.t, map[string]string{"light": "rgb(246, 247, 249)", "dark": "rgb(20, 23, 27)"}[scheme], got.Ground, "%s: has its style", what)
			if folder := os.Getenv("REGO_SCREENSHOTS"); folder != "" {
				require.NoError(b.t, os.WriteFile(filepath.Join(folder, what+".png"), b.Screenshot(width, 0), 0o600))
			}
		}
	}
	assert.Empty(b.t, b.problems)
}

// Evaluate returns the value of an expression.
func (b *Browser) Evaluate(expression string, value any) {
	b.t.Helper()
	var answer struct {
		Result struct{ Value json.RawMessage }
	}
	b.do("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true}, &answer)
	require.NoError(b.t, json.Unmarshal(answer.Result.Value, value), expression)
}

// Screenshot returns the whole page, or its first so many pixels if height is not zero, as PNG.
func (b *Browser) Screenshot(width, height int) []byte {
	b.t.Helper()
	if height == 0 {
		b.Evaluate("document.documentElement.scrollHeight", &height)
	}
	var shot struct{ Data []byte }
	b.do("Page.captureScreenshot", map[string]any{
		"captureBeyondViewport": true, "optimizeForSpeed": false,
		"clip": map[string]any{"x": 0, "y": 0, "width": width, "height": height, "scale": 1},
	}, &shot)
	return shot.Data
}

// Deadline ends the browser, and with it the test, if a page does not come.
func (b *Browser) Deadline(d time.Duration) {
	timer := time.AfterFunc(d, func() { _, _ = fmt.Fprintf(b.to, `{"id": 0, "method": "Browser.close"}`+"\x00") })
	b.t.Cleanup(func() { timer.Stop() })
}
