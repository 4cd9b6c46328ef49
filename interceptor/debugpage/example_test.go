package debugpage_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/interceptor/debugpage"
)

// The pages are mounted where a program likes them, and answer to its own machine.
func Example() {
	it, err := interceptor.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	page := debugpage.New(it)
	defer page.Close()
	mux := http.NewServeMux()
	mux.Handle("/debug/rego/", http.StripPrefix("/debug/rego", page))
	server := httptest.NewServer(mux)
	defer server.Close()

	reply, err := http.Get(server.URL + "/debug/rego/")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(reply.Body)
	fmt.Println(reply.Status, strings.Contains(string(body), "No call has been made yet."), err)

	// Output:
	// 200 OK true <nil>
}

// Operators may look from other machines, and only those on call see single calls.
func ExampleWithAuth() {
	it, err := interceptor.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	role := func(r *http.Request) string { return r.Header.Get("Role") } // as a proxy has found out
	page := debugpage.New(it, debugpage.WithHosts("shop.internal"), debugpage.WithAuth(func(r *http.Request) (look, timelines bool) {
		return role(r) != "", role(r) == "on-call"
	}))
	defer page.Close()

	for _, r := range []struct{ host, role string }{{"shop.internal", "operator"}, {"shop.internal", ""}, {"shop.example", "operator"}} {
		request := httptest.NewRequest(http.MethodGet, "http://"+r.host+"/", nil)
		request.Header.Set("Role", r.role)
		w := httptest.NewRecorder()
		page.ServeHTTP(w, request)
		fmt.Println(w.Code)
	}

	// Output:
	// 200
	// 403
	// 421
}
