package debugpage_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	"github.com/rego-go/rego/internal/virtual"
	"github.com/rego-go/rego/policy"
)

// TestJSONIsDocumented: the fields of all pages are those of the tables in docs/debugpage.md, and
// of the types that these say. What is released stays.
func TestJSONIsDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/debugpage.md")
	require.NoError(t, err)
	documented := make(map[string]string)
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_.\\[\\]]+)` \\| ([a-z ]+) \\|").FindAllStringSubmatch(string(doc), -1) {
		documented[row[1]] = row[2]
	}
	synctest.Test(t, func(t *testing.T) {
		store, err := policy.NewStore(policy.Set{})
		require.NoError(t, err)
		require.NoError(t, store.Source("file").Update(policy.Set{Version: "1", Rules: []policy.Rule{{Methods: []string{testsrv.Get, "/rego.test.v1.TestService/Gte"}}}}))
		require.Error(t, store.Source("file").Update(policy.Set{Version: "2", Rules: []policy.Rule{{}}}))
		it := mixed(t, interceptor.WithPolicies(store))
		page := newPage(t, it)
		plain(t.Context(), it, "/a.B/Hedged", 0, 200)
		plain(t.Context(), it, testsrv.Get, 20, 30) // fails, and is denied, of late
		virtual.Sleep(20 * time.Second)
		found := make(map[string]string)
		for _, at := range []string{"/", "/budgets", "/policies", methodAt(target, testsrv.Get), methodAt("", testsrv.Get), methodAt("", "/a.B/Hedged")} {
			collect(found, "", getJSON(t, page, at))
		}
		for path, kind := range found {
			assert.NotEmpty(t, documented[path], "%s is not documented", path)
			if want := documented[path]; kind != "null" && want != "" {
				assert.Equal(t, want, kind, path)
			}
		}
		for path := range documented {
			assert.NotEmpty(t, found[path], "%s is documented", path)
		}
		if t.Failed() {
			var paths []string
			for path, kind := range found {
				if documented[path] == "" {
					paths = append(paths, "| `"+path+"` | "+kind+" |")
				}
			}
			slices.Sort(paths)
			t.Log("\n" + strings.Join(paths, "\n"))
		}
	})
}

// collect notes the paths of fields and their kinds. A timeline's own are left out.
func collect(found map[string]string, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, of := range v {
			at := strings.TrimPrefix(path+"."+name, ".")
			kind := kindOf(of)
			if found[at] == "" || found[at] == "null" {
				found[at] = kind
			}
			if name != "timeline" {
				collect(found, at, of)
			}
		}
	case []any:
		for _, of := range v {
			collect(found, path+"[]", of)
		}
	}
}

func kindOf(v any) string {
	switch v.(type) {
	case map[string]any:
		return "object"
	case []any:
		return "array"
	case string:
		return "string"
	case float64:
		return "number"
	case bool:
		return "boolean"
	}
	return "null"
}
