// Package webpage has what all pages of rego have in common: who may look at them, what browsers
// are told of them, their layout and style, and how numbers are written.
//
// Pages only show: nothing can be changed from them, and they load nothing and need no script.
package webpage

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
)

//go:embed layout.html style.css
var files embed.FS

// Site is pages that look alike. It is safe for concurrent use.
type Site struct {
	pages         *template.Template
	contentPolicy string
}

// New returns the site of the templates of a folder, with its style.css after the common one, and
// funcs besides the common ones. The folder must define "nav", the links in the head of each page,
// and "when", the words beside them; a page begins with {{template "top" .}}, which takes its title
// from the field Page, and ends with {{template "bottom" .}}. It panics if a template is wrong.
func New(of fs.FS, folder string, funcs template.FuncMap) *Site {
	style := read(files, "style.css") + read(of, folder+"/style.css")
	t := template.New("").Funcs(formats).Funcs(funcs).Funcs(template.FuncMap{"style": func() template.CSS { return template.CSS(style) }})
	template.Must(t.ParseFS(files, "layout.html"))
	template.Must(t.ParseFS(of, folder+"/*.html"))
	hash := sha256.Sum256([]byte(style))
	return &Site{t, "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) +
		"'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}
}

func read(of fs.FS, name string) string {
	b, err := fs.ReadFile(of, name)
	if err != nil {
		panic(err) // it is embedded
	}
	return string(b)
}

// Door says who may look at the pages of a site.
type Door struct {
	// Hosts that requests may have besides those of this machine.
	Hosts Hosts
	// May decides about a request. It is called after its Host was found to be one of those.
	May func(*http.Request) bool
	// HostHelp and MayHelp say what a program can do who is to be let in.
	HostHelp, MayHelp string
}

// maxQuery is the longest query of a page's own: names of targets and methods, escaped.
const maxQuery = 16 << 10

// Enter tells the browser what it may do with the answer, and reports whether there is to be one:
// it answers itself if whoever asks may not look, or wants more than to look.
func (s *Site) Enter(w http.ResponseWriter, r *http.Request, d Door) bool {
	header := w.Header()
	header.Set("Content-Security-Policy", s.contentPolicy)
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	switch {
	case !d.Hosts.expect(r.Host):
		http.Error(w, "this Host is not expected here: see "+d.HostHelp, http.StatusMisdirectedRequest)
	case !d.May(r):
		http.Error(w, "not for you: see "+d.MayHelp, http.StatusForbidden)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "nothing can be changed here", http.StatusMethodNotAllowed)
	case len(r.URL.RawQuery) > maxQuery:
		http.Error(w, "the query is too long", http.StatusRequestURITooLong)
	default:
		return true
	}
	return false
}

// Query returns the query of a request, and whether the answer is to be JSON. If the query is not
// understood it says so to whoever asks.
func Query(w http.ResponseWriter, r *http.Request) (query url.Values, inJSON, ok bool) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	format := query.Get("format")
	if err != nil || format != "" && format != "json" {
		http.Error(w, "the query is not understood", http.StatusBadRequest)
		return nil, false, false
	}
	return query, format == "json", true
}

// Answer answers with the page of a template, or with what it is made of.
func (s *Site) Answer(w http.ResponseWriter, name string, data any, inJSON bool) {
	var b bytes.Buffer
	var err error
	kind := "text/html; charset=utf-8"
	if inJSON {
		kind = "application/json"
		err = json.NewEncoder(&b).Encode(data)
	} else {
		err = s.pages.ExecuteTemplate(&b, name, data)
	}
	if err != nil {
		http.Error(w, "the page cannot be made: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	_, _ = w.Write(b.Bytes()) // whoever asked may be gone
}
