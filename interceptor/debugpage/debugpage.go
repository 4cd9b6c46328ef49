// Package debugpage shows what an [interceptor.Interceptor] does, as pages of the running
// process. The pages say which methods make extra attempts and why, under which policy and
// where the policy comes from, and what budgets have left. They show calls that are worth a
// look as waterfalls.
//
// The rule that surprises people: only requests from the same machine, under a name of that
// machine, may see the pages. [WithAuth] and [WithHosts] let others in. Nothing can be
// changed from the pages. They hold no request content, metadata or error texts of calls.
//
// Importing the package mounts nothing. Begin with [New]:
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
// most 4 MiB: about 2.7 kB for each of 1,000 methods and 0.9 kB for each of 1,000 budgets.
// If there are more, those that need it most have a history. It does so until Close, or
// until the program no longer holds the handler. Calls pay nothing for this.
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

// WithAuth decides who may see the pages, and who may also see timelines of single calls,
// which name peers. It is called for every request and must be safe for concurrent use.
// Default, and what nil means: requests over loopback and over unix sockets that no proxy
// has forwarded may see everything, and others nothing.
func WithAuth(f func(r *http.Request) (look, timelines bool)) Option {
	return optionFunc(func(c *config) {
		if c.auth = f; f == nil {
			c.auth = isLocal
		}
	})
}

// WithHosts adds names and addresses, without a port, that requests may have as their Host.
// Requests with any other Host are refused. Otherwise a website could let its own name point
// to this machine, and make a browser read the pages (DNS rebinding). Default: localhost and
// loopback addresses, which are always allowed.
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

// Close ends the sampling. The pages still work, with what was kept so far.
func (h *Handler) Close() { h.stop() }
