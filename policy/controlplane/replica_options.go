package controlplane

import (
	"context"
	"log/slog"
	"time"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/repository"
)

// replica is what a Replica is configured with besides.
type replica struct {
	outlets         map[string]*outlet
	sourceName      string
	guard           func(*policy.Table) error
	log             *slog.Logger
	onService       func(string, *policy.Store)
	onDecision      func(repository.Policies)
	authorizeChange func(context.Context, string, bool) error
	onChange        func(Made)
}

// Outlet says that the policies of a service are those of st, which are kept elsewhere: name
// is the name of the file. What st gets from there goes into the repository. What is put
// into the repository has to come into st, through the repository.Files that it is kept in.
// It is for repositories that are not durable.
func Outlet(service string, st *policy.Store, name string) ServeOption {
	return serveOption(func(c *serving) {
		if c.outlets == nil {
			c.outlets = make(map[string]*outlet)
		}
		c.outlets[service] = &outlet{store: st, name: name}
	})
}

// SourceName sets the source of sets in the status of stores. Default: "repository".
func SourceName(name string) ServeOption {
	return serveOption(func(c *serving) { c.sourceName = name })
}

// Guarded sets a check of every set before a replica serves it, whoever has put the set. A
// set that check refuses is not served, and the one before it still is. Default, and what
// nil means: valid sets are served.
func Guarded(check func(*policy.Table) error) ServeOption {
	return serveOption(func(c *serving) { c.guard = check })
}

// LogTo sets where a replica reports problems. Default, and what nil means: slog.Default.
func LogTo(l *slog.Logger) ServeOption {
	return serveOption(func(c *serving) { c.log = l })
}

// OnService sets a function that is called for every service that gets policies of its own,
// with the store that will have them. Default, and what nil means: none.
func OnService(told func(service string, st *policy.Store)) ServeOption {
	return serveOption(func(c *serving) { c.onService = told })
}

// OnDecision sets a function that is called when this replica has taken a rollout a step
// further, promoted it or rejected it. The rollout says why. Default, and what nil means:
// none.
func OnDecision(told func(repository.Policies)) ServeOption {
	return serveOption(func(c *serving) { c.onDecision = told })
}

// AuthorizeChange sets the rule for the service of [Replica.Admin]. allow is asked for every
// call, with the service whose policies it is about, and whether they are to be changed.
// [PeerIs] and [ServiceFromCertificate] make rules. Errors are as in [Authorize]. Default,
// and what nil means: everybody who can reach the service may.
func AuthorizeChange(allow func(ctx context.Context, service string, write bool) error) ServeOption {
	return serveOption(func(c *serving) { c.authorizeChange = allow })
}

// OnChange sets a function that is called for every change that somebody has made, for an
// audit log. Default, and what nil means: none.
func OnChange(told func(Made)) ServeOption {
	return serveOption(func(c *serving) { c.onChange = told })
}

// Made is a change that somebody has made.
type Made struct {
	Time time.Time
	// Method is the full name of the RPC.
	Method string
	// Peer and Identities say who it was, as in a Denial.
	Peer       string
	Identities []string
	// Message says why, in the author's words.
	Message string
	// Before and After are the policies of the service before and after the change.
	Before, After repository.Policies
}
