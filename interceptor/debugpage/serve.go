package debugpage

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"html/template"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
)

//go:embed pages
var files embed.FS

// The pages, and their style sheet with its hash for the Content-Security-Policy.
var (
	pages = template.Must(template.New("").Funcs(formats).Funcs(template.FuncMap{"style": func() template.CSS { return style }}).ParseFS(files, "pages/*.html"))
	style = func() template.CSS {
		b, err := files.ReadFile("pages/style.css")
		if err != nil {
			panic(err) // it is embedded
		}
		return template.CSS(b)
	}()
	contentPolicy = func() string {
		hash := sha256.Sum256([]byte(style))
		return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) +
			"'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	}()
)

// maxQuery is the longest query of a page's own: names of targets and methods, escaped.
const maxQuery = 16 << 10

// ServeHTTP serves the pages below "/", so the prefix that they are mounted under has to be
// stripped.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", contentPolicy)
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	if !h.expects(r.Host) {
		http.Error(w, "this Host is not expected here: see debugpage.WithHosts", http.StatusMisdirectedRequest)
		return
	}
	look, timelines := h.auth(r)
	if !look {
		http.Error(w, "not for you: see debugpage.WithAuth", http.StatusForbidden)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "nothing can be changed here", http.StatusMethodNotAllowed)
		return
	}
	if len(r.URL.RawQuery) > maxQuery {
		http.Error(w, "the query is too long", http.StatusRequestURITooLong)
		return
	}
	if r.URL.Path == "" { // links are relative to a slash
		header.Set("Location", withSlash(r))
		w.WriteHeader(http.StatusMovedPermanently)
		return
	}
	h.serve(w, r, timelines)
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

// serve answers with a page, or with what it is made of.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, timelines bool) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	format := query.Get("format")
	if err != nil || format != "" && format != "json" {
		http.Error(w, "the query is not understood", http.StatusBadRequest)
		return
	}
	name, data := h.page(r.URL.Path, query, timelines)
	if data == nil {
		http.NotFound(w, r)
		return
	}
	var b bytes.Buffer
	kind := "text/html; charset=utf-8"
	if format == "json" {
		kind = "application/json"
		err = json.NewEncoder(&b).Encode(data)
	} else {
		err = pages.ExecuteTemplate(&b, name, data)
	}
	if err != nil {
		http.Error(w, "the page cannot be made: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	_, _ = w.Write(b.Bytes()) // whoever asked may be gone
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
