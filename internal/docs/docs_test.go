// Package docs_test compares the pages for readers with the code: links lead somewhere, blocks of
// code compile and parse, commands have the flags that they use, and names exist.
package docs_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rego-go/rego/internal/docs"
)

// root is the folder of the repository.
const root = "../.."

// pages returns the text of each page, by its path in the repository.
func pages(t *testing.T) map[string]string {
	t.Helper()
	all, err := docs.Pages(root)
	require.NoError(t, err)
	return all
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	noSlug  = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// TestLinks: what a page links to is there, and so is the heading that an anchor names.
func TestLinks(t *testing.T) {
	t.Parallel()
	all := pages(t)
	links := 0
	for page, text := range all {
		for _, m := range link.FindAllStringSubmatch(docs.Prose(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			path, anchor, _ := strings.Cut(m[1], "#")
			target := page
			if path != "" {
				target = filepath.ToSlash(filepath.Join(filepath.Dir(page), path))
				_, err := os.Stat(filepath.Join(root, target))
				require.NoError(t, err, "%s: link to %s", page, m[1])
			}
			if anchor != "" {
				assert.Contains(t, anchors(all[target]), anchor, "%s: link to %s", page, m[1])
			}
		}
	}
	assert.Greater(t, links, 50, "links are not found any more")
}

// anchors returns those of a page's headings, as GitHub makes them.
func anchors(text string) (all []string) {
	seen := make(map[string]int)
	for _, m := range heading.FindAllStringSubmatch(docs.Outside(text), -1) {
		slug := strings.ReplaceAll(noSlug.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")
		if n := seen[slug]; n > 0 {
			all = append(all, fmt.Sprint(slug, "-", n))
		} else {
			all = append(all, slug)
		}
		seen[slug]++
	}
	return all
}

// unchecked are the blocks that do not compile by themselves, by how they begin, and why.
var unchecked = map[string]string{
	"conn, err := grpc.NewClient(target,\n\tgrpc.WithChainUnaryInterceptor(breaker": "breaker is the reader's own",
	"client.Watch(ctx, req, interceptor.WithResume(":                                "pb is the reader's own proto package",
	"client, err := clientv3.New(etcd.Config(":                                      "needs the module policy/etcd",
}

// imports are the packages that blocks may name.
var imports = map[string]string{
	"attribute":    "go.opentelemetry.io/otel/attribute",
	"atomic":       "sync/atomic",
	"budget":       "github.com/rego-go/rego/budget",
	"classify":     "github.com/rego-go/rego/classify",
	"codes":        "google.golang.org/grpc/codes",
	"context":      "context",
	"controlplane": "github.com/rego-go/rego/policy/controlplane",
	"credentials":  "google.golang.org/grpc/credentials",
	"debugpage":    "github.com/rego-go/rego/interceptor/debugpage",
	"errdetails":   "google.golang.org/genproto/googleapis/rpc/errdetails",
	"errors":       "errors",
	"file":         "github.com/rego-go/rego/policy/file",
	"fmt":          "fmt",
	"grpc":         "google.golang.org/grpc",
	"hedge":        "github.com/rego-go/rego/hedge",
	"http":         "net/http",
	"insecure":     "google.golang.org/grpc/credentials/insecure",
	"interceptor":  "github.com/rego-go/rego/interceptor",
	"io":           "io",
	"keepalive":    "google.golang.org/grpc/keepalive",
	"metadata":     "google.golang.org/grpc/metadata",
	"otel":         "go.opentelemetry.io/otel",
	"otelgrpc":     "go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc",
	"otelobs":      "github.com/rego-go/rego/otelobs",
	"policy":       "github.com/rego-go/rego/policy",
	"propagation":  "go.opentelemetry.io/otel/propagation",
	"regov1":       "github.com/rego-go/rego/proto/rego/v1",
	"runtime":      "runtime",
	"slog":         "log/slog",
	"slogobs":      "github.com/rego-go/rego/interceptor/slogobs",
	"spread":       "github.com/rego-go/rego/interceptor/spread",
	"stats":        "google.golang.org/grpc/stats",
	"status":       "google.golang.org/grpc/status",
	"synctest":     "testing/synctest",
	"testing":      "testing",
	"testsrv":      "github.com/rego-go/rego/internal/testsrv",
	"testv1":       "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1",
	"time":         "time",
	"tls":          "crypto/tls",
	"trace":        "go.opentelemetry.io/otel/trace",
	"virtual":      "github.com/rego-go/rego/internal/virtual",
}

// given is what a block has without saying so: the text around it does.
const given = `ctx context.Context, it, r *interceptor.Interceptor, store *policy.Store, client testv1.TestServiceClient,
	conn *grpc.ClientConn, request *testv1.PayRequest, target string, node controlplane.Node, creds credentials.TransportCredentials,
	g *grpc.Server, t hedge.Trigger, logger *slog.Logger, provider trace.TracerProvider, audit func(controlplane.Denial),
	isOperator, isOnCall func(*http.Request) bool`

// TestGoBlocks: each block of Go compiles. A block is a file, declarations, statements or an
// expression. What it declares and does not use is no fault.
func TestGoBlocks(t *testing.T) {
	t.Parallel()
	set := token.NewFileSet()
	packages := importer.ForCompiler(set, "gc", exports(t))
	skipped := make(map[string]bool)
	blocks := 0
	for page, text := range pages(t) {
		for i, block := range goBlocks(text) {
			blocks++
			if begin := isUnchecked(block); begin != "" {
				skipped[begin] = true
				continue
			}
			var faults []string
			conf := types.Config{Importer: packages, Error: func(err error) {
				if e, ok := err.(types.Error); !ok || !e.Soft { //nolint:errorlint // it is not wrapped
					faults = append(faults, err.Error())
				}
			}}
			f, err := parse(set, fmt.Sprintf("%s, block %d", page, i+1), block)
			require.NoError(t, err)
			_, _ = conf.Check("p", set, []*ast.File{f}, nil) // the error is the first of faults
			assert.Empty(t, faults, "%s, block %d:\n%s", page, i+1, block)
		}
	}
	assert.Greater(t, blocks, 20, "blocks are not found any more")
	for begin := range unchecked {
		assert.True(t, skipped[begin], "no block begins with %s", begin)
	}
}

func isUnchecked(block string) (begin string) {
	for begin := range unchecked {
		if strings.HasPrefix(block, begin) {
			return begin
		}
	}
	return ""
}

// goBlocks returns the blocks of Go in a page.
func goBlocks(text string) (all []string) {
	for _, rest := range strings.Split("\n"+text, "\n```go\n")[1:] {
		block, _, _ := strings.Cut(rest, "\n```")
		all = append(all, block)
	}
	return all
}

// parse reads a block as the first of these that it can be.
func parse(set *token.FileSet, name, block string) (*ast.File, error) {
	if strings.HasPrefix(block, "package ") {
		return parser.ParseFile(set, name, block, parser.SkipObjectResolution)
	}
	head := "package p\n"
	for pkg, path := range imports {
		if regexp.MustCompile(`\b` + pkg + `\.`).MatchString(block + given) {
			head += fmt.Sprintf("import %s %q\n", pkg, path)
		}
	}
	if f, err := parser.ParseFile(set, name, head+block, parser.SkipObjectResolution); err == nil {
		return f, nil
	}
	if e, err := parser.ParseExpr(block); err == nil {
		if _, isCall := e.(*ast.CallExpr); !isCall {
			block = "_ = " + block
		}
	}
	return parser.ParseFile(set, name, head+"func _("+given+") {{\n"+block+"\n}}", parser.SkipObjectResolution)
}

// exports returns where the compiled form of each package is that blocks may name.
func exports(t *testing.T) func(path string) (io.ReadCloser, error) {
	t.Helper()
	args := []string{"list", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}"}
	for _, path := range imports {
		args = append(args, path)
	}
	cmd := exec.CommandContext(t.Context(), "go", args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	require.NoError(t, err, errs.String())
	files := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		files[path] = file
	}
	return func(path string) (io.ReadCloser, error) { return os.Open(files[path]) }
}

// TestOnboardingNames: the files and functions that docs/onboarding.md names are there.
func TestOnboardingNames(t *testing.T) {
	t.Parallel()
	page := pages(t)["docs/onboarding.md"]
	rows := regexp.MustCompile("(?m)^\\| [^|]* \\| `([a-z_/]+\\.go)` \\| (`.*`) \\|$").FindAllStringSubmatch(page, -1)
	require.Greater(t, len(rows), 20, "rows are not found any more")
	for _, row := range rows {
		file := row[1]
		if !strings.Contains(file, "/") {
			file = "interceptor/" + file
		}
		src, err := os.ReadFile(filepath.Join(root, file))
		require.NoError(t, err)
		for _, name := range docs.Inline(row[2]) {
			assert.Regexp(t, `(?m)^(func (\(\w+ \*?\w+\) )?|type )`+name+`\b`, string(src), "%s of %s", name, row[1])
		}
	}
	for _, m := range regexp.MustCompile("`([a-z_0-9/]+\\.(?:go|proto))`").FindAllStringSubmatch(page, -1) {
		inside, _ := filepath.Glob(filepath.Join(root, "interceptor", m[1]))
		whole, _ := filepath.Glob(filepath.Join(root, m[1]))
		assert.NotEmpty(t, append(inside, whole...), m[1])
	}
}

// TestTrackRecordTests: the tests that docs/track-record.md names are in the packages that it says.
func TestTrackRecordTests(t *testing.T) {
	t.Parallel()
	named := regexp.MustCompile("`([a-z/]+)\\.(Test\\w+)`").FindAllStringSubmatch(pages(t)["docs/track-record.md"], -1)
	require.Greater(t, len(named), 60, "tests are not found any more")
	for _, m := range named {
		files, err := filepath.Glob(filepath.Join(root, m[1], "*_test.go"))
		require.NoError(t, err)
		var src []byte
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			src = append(src, text...)
		}
		assert.True(t, bytes.Contains(src, []byte("\nfunc "+m[2]+"(t *testing.T)")), "%s has no %s", m[1], m[2])
	}
}
