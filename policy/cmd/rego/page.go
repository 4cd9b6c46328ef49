package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/rego-go/rego/internal/webpage"
	"github.com/rego-go/rego/policy/controlplane"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

//go:embed page
var pageFiles embed.FS

var pageSite = webpage.New(pageFiles, "page", template.FuncMap{
	"plain":      pageText,
	"others":     func(service string) string { return pageText(orOthers(service, "(all others)")) },
	"grouped":    grouped,
	"rev":        revisionOf,
	"clientsURL": clientsURL,
})

// pageText returns a name or a text of somebody else's as pages have it: nothing hides in it, and it is
// not long.
func pageText(text string) string {
	const most = 300
	if len(text) > most {
		cut := most
		for cut > 0 && !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut] + "…"
	}
	return harmless(text)
}

// pages are what operators see of the fleet in a browser.
type pages struct {
	fleet regov1.FleetServiceServer
	admin regov1.PolicyAdminServiceServer
	hosts webpage.Hosts // that a proxy passes requests on under
	busy  chan struct{} // has room for each page that is being made
}

// What making pages may take from the clients.
const (
	pagesAtOnce  = 2
	pageWaits    = 5 * time.Second // until it is its turn
	pageTakes    = 5 * time.Second // for what a storage has to be asked
	pageIsWanted = 30 * time.Second
)

func newPages(fleet regov1.FleetServiceServer, admin regov1.PolicyAdminServiceServer, hosts []string) *pages {
	p := &pages{fleet: fleet, admin: admin, hosts: make(webpage.Hosts), busy: make(chan struct{}, pagesAtOnce)}
	p.hosts.Add(hosts...)
	return p
}

// may is the rule for who may look: this machine and, under the names that the operator has given,
// those whom a proxy on this machine lets in.
func (p *pages) may(r *http.Request) bool {
	return webpage.IsFromHere(r) && (!webpage.IsPassedOn(r) || p.hosts.Has(r.Host))
}

// ServeHTTP is that of http.Handler.
func (p *pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !pageSite.Enter(w, r, webpage.Door{Hosts: p.hosts, May: p.may, HostHelp: "--page-host of rego serve", MayHelp: "--page-host of rego serve"}) {
		return
	}
	query, inJSON, ok := webpage.Query(w, r)
	if !ok {
		return
	}
	of := p.page(r.URL.Path)
	if of == nil {
		http.NotFound(w, r)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), pageWaits)
	defer cancel()
	select {
	case p.busy <- struct{}{}:
		defer func() { <-p.busy }()
	case <-ctx.Done():
		http.Error(w, "others look at the moment: try again", http.StatusServiceUnavailable)
		return
	}
	name, data, err := of(context.WithValue(r.Context(), ourselves{}, true), query, inJSON)
	if err != nil {
		http.Error(w, harmless(withoutStatus(err)), http.StatusBadRequest)
		return
	}
	pageSite.Answer(w, name, data, inJSON)
}

// page returns what makes the page of a path, nil if there is none.
func (p *pages) page(path string) func(context.Context, url.Values, bool) (string, any, error) {
	switch path {
	case "/":
		return p.overview
	case "/clients":
		return p.clients
	}
	return nil
}

// withoutStatus returns an error of one of our services in words.
func withoutStatus(err error) string {
	if s, ok := statusOf(err); ok {
		return s.Message()
	}
	return err.Error()
}

// pageHead is on every page.
type pageHead struct {
	Time time.Time `json:"time"`

	Page string `json:"-"`
}

// pageFlags say where the pages are served.
type pageFlags struct {
	addr  string
	hosts []string
}

func (f *pageFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.addr, "page", "", "`ADDRESS` for a page of the fleet that only this machine can reach, such as localhost:9903 (default: none)")
	cmd.Flags().StringSliceVar(&f.hosts, "page-host", nil, "`NAME` of the host under which a proxy with a login forwards requests to the page; may be repeated")
}

// check returns what is wrong with the flags.
func (f *pageFlags) check() error {
	if f.addr == "" {
		if len(f.hosts) > 0 {
			return errors.New("--page-host goes with --page")
		}
		return nil
	}
	if _, _, err := net.SplitHostPort(f.addr); err != nil {
		return fmt.Errorf("--page must be HOST:PORT: %w", err)
	}
	if !isLoopback(f.addr) {
		return fmt.Errorf("--page must be an address that only this machine can reach, such as localhost:9903, got %q: to show it to others, put a proxy that asks for a login before it, with --page-host", f.addr)
	}
	for _, h := range f.hosts {
		if webpage.Host(h) == "" || strings.Contains(h, "*") {
			return fmt.Errorf("--page-host must be a name or an address, got %q", h)
		}
	}
	return nil
}

// servePage serves the pages until ctx is done, and returns where; empty without --page.
func (v *serve) servePage(ctx context.Context, s *controlplane.Replica, log *slog.Logger) (string, error) {
	if v.page.addr == "" {
		return "", nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", v.page.addr)
	if err != nil {
		return "", err
	}
	h := &http.Server{
		Handler: newPages(s.Fleet(), s.Admin(), v.page.hosts), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: pageIsWanted, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	context.AfterFunc(ctx, func() { _ = h.Close() }) // whoever looks asks again
	go func() {
		if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("rego: the page is not served any more", "error", err)
		}
	}()
	return l.Addr().String(), nil
}
