// Package debugpage shows what an [interceptor.Interceptor] knows of itself as pages of the
// running process: which methods make extra attempts, why, under which policy and from
// where, what budgets have left, and calls worth seeing as waterfalls.
//
// The rule that surprises: only whoever comes from the same machine may look, under a name
// of that machine. [WithAuth] and [WithHosts] let others in. Nothing can be changed from the
// pages, and they hold no request content, metadata or error texts of calls.
//
// Nothing is mounted by import. Begin with [New]:
//
//	page := debugpage.New(it)
//	defer page.Close()
//	http.Handle("/debug/rego/", http.StripPrefix("/debug/rego", page))
package debugpage

import (
	"context"
	"net/http"
	"runtime"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/webpage"
)

// Handler serves the pages. It is safe for concurrent use.
//
// It samples the interceptor's counters every ten seconds and keeps ten minutes of them, at
// most 4 MiB: some 2.7 kB for each of 1,000 methods and 0.9 kB for each of as many budgets. If
// there are more, those have a history that need it most. It does so until Close, or until nobody
// has the handler any more. Calls do not pay for that.
type Handler struct {
	config
	it      *interceptor.Interceptor
	history *history
	stop    context.CancelFunc
}

// Option configures [New].
type Option interface{ apply(*config) }

type config struct {
	auth  func(*http.Request) (look, timelines bool)
	hosts webpage.Hosts
}

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

// WithAuth decides who may look at the pages, and who of them may see timelines of single
// calls, which name peers. It is called for every request and must be safe for concurrent
// use. Default, and what nil means: all is shown to requests over loopback and over unix
// sockets that no proxy has passed on, and nothing to others.
func WithAuth(f func(r *http.Request) (look, timelines bool)) Option {
	return optionFunc(func(c *config) {
		if c.auth = f; f == nil {
			c.auth = isLocal
		}
	})
}

// WithHosts adds names and addresses, without a port, that requests may have as their Host.
// All others are refused, so that no website can have a browser read the pages by a name of
// its own that it lets point to this machine (DNS rebinding). Default: localhost and loopback
// addresses, which are always among them.
func WithHosts(names ...string) Option {
	return optionFunc(func(c *config) { c.hosts.Add(names...) })
}

// New returns the pages of an interceptor, and begins to sample it.
func New(it *interceptor.Interceptor, opts ...Option) *Handler {
	c := config{auth: isLocal, hosts: make(webpage.Hosts)}
	for _, o := range opts {
		if o != nil {
			o.apply(&c)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	h := &Handler{config: c, it: it, history: newHistory(it), stop: stop}
	go h.history.run(ctx) // until Close or the cleanup, which both call stop
	runtime.AddCleanup(h, func(stop context.CancelFunc) { stop() }, stop)
	return h
}

// Close ends the sampling. The pages still work, with what was kept until then.
func (h *Handler) Close() { h.stop() }
