package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/examples/internal/mixed"
	"github.com/rego-go/rego/interceptor/debugpage"
	"github.com/rego-go/rego/internal/chromium"
	"github.com/rego-go/rego/internal/testsrv"
)

// pagesOf returns the pages to look at, by name. If REGO_DEBUGPAGE names those of a running
// program, they are its own.
func pagesOf(t *testing.T) (pages map[string]string) {
	t.Helper()
	base := os.Getenv("REGO_DEBUGPAGE")
	if base == "" {
		l, err := mixed.New()
		require.NoError(t, err)
		t.Cleanup(l.Close)
		ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
		defer stop()
		page := debugpage.New(l.Interceptor)
		t.Cleanup(page.Close)
		l.Run(ctx)
		mux := http.NewServeMux()
		mux.Handle("/debug/rego/", http.StripPrefix("/debug/rego", page))
		server := httptest.NewServer(mux)
		t.Cleanup(server.Close)
		base = server.URL + "/debug/rego/"
	}
	method := func(name string) string {
		return base + "method?" + url.Values{"target": {mixed.Targets[0]}, "method": {name}}.Encode()
	}
	return map[string]string{
		"overview": base, "budgets": base + "budgets", "policies": base + "policies",
		"get": method(testsrv.Get), "put": method(testsrv.Put), "pay": method(testsrv.Pay), "watch": method(testsrv.Watch),
	}
}

// TestPages: all pages of a mixed load answer.
func TestPages(t *testing.T) {
	t.Parallel()
	for name, at := range pagesOf(t) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at, nil)
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, http.StatusOK, resp.StatusCode, name)
	}
}

// TestInChromium loads all pages of a mixed load, narrow and wide, light and dark. None may
// write to the console, be refused anything, or be wider than its window. With
// REGO_SCREENSHOTS, pictures of all go into that folder.
func TestInChromium(t *testing.T) {
	b := chromium.New(t)
	b.Deadline(2 * time.Minute)
	for name, at := range pagesOf(t) {
		b.Look(name, at)
	}
}
