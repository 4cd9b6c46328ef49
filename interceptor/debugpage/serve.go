package debugpage

import (
	"embed"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/rego-go/rego/internal/webpage"
)

//go:embed pages
var files embed.FS

var site = webpage.New(files, "pages", formats)

// ServeHTTP serves the pages below "/": strip the prefix that they are mounted under.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var timelines bool
	ok := site.Enter(w, r, webpage.Door{
		Hosts: h.hosts, HostHelp: "debugpage.WithHosts", MayHelp: "debugpage.WithAuth",
		May: func(r *http.Request) (look bool) {
			look, timelines = h.auth(r)
			return look
		},
	})
	if !ok {
		return
	}
	if r.URL.Path == "" { // links are relative to a slash
		w.Header().Set("Location", withSlash(r))
		w.WriteHeader(http.StatusMovedPermanently)
		return
	}
	query, inJSON, ok := webpage.Query(w, r)
	if !ok {
		return
	}
	name, data := h.page(r.URL.Path, query, timelines)
	if data == nil {
		http.NotFound(w, r)
		return
	}
	site.Answer(w, name, data, inJSON)
}

// withSlash is where a request for the prefix itself should go, relative to it.
func withSlash(r *http.Request) string {
	asked, _, _ := strings.Cut(r.RequestURI, "?")
	to := "./" + path.Base(asked) + "/" // which is escaped
	if r.URL.RawQuery != "" {
		to += "?" + r.URL.RawQuery
	}
	return to
}

// page returns the name of a page and what it is made of, nil if there is none.
func (h *Handler) page(at string, query url.Values, timelines bool) (name string, data any) {
	all := query.Has("all")
	switch at {
	case "/":
		order := query.Get("sort")
		if orders[order] == nil {
			order = "extra"
		}
		return "overview.html", h.overview(order, all)
	case "/budgets":
		return "budgets.html", h.budgets(all)
	case "/policies":
		return "policies.html", h.policies()
	case "/method":
		if p := h.method(query.Get("target"), query.Get("method"), timelines); p != nil {
			return "method.html", p
		}
	}
	return "", nil
}
