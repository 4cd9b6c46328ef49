package interceptor

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// coreImports are what the core may import and, if it may not use all of that, which names.
var coreImports = map[string][]string{
	"math/rand/v2":                     {"Float64"},
	"time":                             {"Time", "Duration", "Second", "Millisecond"},
	"google.golang.org/grpc/codes":     nil,
	"github.com/rego-go/rego/budget":   {"Kind", "Original", "Retry", "Hedge", "Replacement", "Result", "Unsent", "Success", "Failure", "Neutral"},
	"github.com/rego-go/rego/classify": nil,
	"github.com/rego-go/rego/policy":   {"Backoff", "OverloadBackoff"},
}

// coreValues are the types that the core shares with the rest of the package.
var coreValues = []string{"Attempt", "EndReason", "DenialReason", "WaitReason", "CommitReason", "AttemptResult"}

// TestCoreIsApart: the files course*.go refer to nothing of the other files but public
// values, and to nothing that waits, locks, tells the time or speaks grpc.
func TestCoreIsApart(t *testing.T) {
	t.Parallel()
	assert.Empty(t, coreFaults(t, ""))
	for add, fault := range map[string]string{
		`import "sync"; type x struct{ mu sync.Mutex }`:                                          "import sync",
		`import "context"; func x(context.Context) {}`:                                           "import context",
		`import "google.golang.org/grpc"; type x struct{ o grpc.CallOption }`:                    "import google.golang.org/grpc",
		`import "time"; func x() time.Time { return time.Now() }`:                                "time.Now",
		`import t "time"; func x() { t.AfterFunc(0, nil) }`:                                      "time.AfterFunc",
		`import . "time"; func x() Time { return Now() }`:                                        "dot import of time",
		`import "github.com/rego-go/rego/budget"; func x() { budget.Take(nil, 0) }`:              "budget.Take",
		`import "github.com/rego-go/rego/policy"; func x(p *policy.Policy) {}`:                   "policy.Policy",
		`type x struct{ of *call }`:                                                              "call of call.go",
		`func x(k *course) *plan { return nil }`:                                                 "plan of plan.go",
		`func x() int { return DefaultMaxAttempts }`:                                             "DefaultMaxAttempts of options.go",
		`func x(a *Attempt) string { return a.peerName() }`:                                      "peerName of timeline.go",
		`func x(r EndReason) string { return endReasons[r] }`:                                    "endReasons of timeline.go",
		`func x() Denial { return Denial{} }`:                                                    "Denial of timeline.go",
		`func x(k *course) { go k.stop() }`:                                                      "go statement",
		`func x(c chan int) {}`:                                                                  "channel",
		`func x() { select {} }`:                                                                 "select",
		`func x(k *course, a *Attempt) EndReason { _ = a.Result; k.stop(); return EndDeadline }`: "",
	} {
		faults := coreFaults(t, "package interceptor\n"+add)
		if fault == "" {
			assert.Empty(t, faults, add)
			continue
		}
		require.NotEmpty(t, faults, add)
		assert.Contains(t, faults[0], fault, add)
	}
}

// coreFaults returns what the core, with one more file, must not refer to. Other packages
// are taken for empty, since to read them takes a minute: then what is theirs stays
// unknown, and what is the package's own is known.
func coreFaults(t *testing.T, more string) (faults []string) {
	t.Helper()
	fset := token.NewFileSet()
	names, err := filepath.Glob("*.go")
	require.NoError(t, err)
	var files, core []*ast.File
	parse := func(name string, src any) {
		f, err := parser.ParseFile(fset, name, src, parser.SkipObjectResolution)
		require.NoError(t, err)
		files = append(files, f)
		if isCore(name) {
			core = append(core, f)
		}
	}
	for _, name := range names {
		if !strings.HasSuffix(name, "_test.go") {
			parse(name, nil)
		}
	}
	require.Greater(t, len(core), 2)
	if more != "" {
		parse("course_more.go", more)
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	conf := types.Config{Importer: emptyPackages{}, Error: func(error) {}}
	pkg, _ := conf.Check("interceptor", fset, files, info)
	for _, f := range core {
		fault := func(n ast.Node, format string, args ...any) {
			faults = append(faults, fmt.Sprintf("%v: ", fset.Position(n.Pos()))+fmt.Sprintf(format, args...))
		}
		for _, i := range f.Imports {
			path, _ := strconv.Unquote(i.Path.Value)
			if _, ok := coreImports[path]; !ok {
				fault(i, "import %v", path)
			}
			if i.Name != nil && i.Name.Name == "." {
				fault(i, "dot import of %v", path)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				fault(n, "go statement")
			case *ast.ChanType:
				fault(n, "channel")
			case *ast.SelectStmt:
				fault(n, "select")
			case *ast.SelectorExpr:
				if id, ok := n.X.(*ast.Ident); ok {
					if p, ok := info.Uses[id].(*types.PkgName); ok {
						path := p.Imported().Path()
						if may := coreImports[path]; may != nil && !slices.Contains(may, n.Sel.Name) {
							fault(n, "%v.%v", path[strings.LastIndex(path, "/")+1:], n.Sel.Name)
						}
					}
				}
			case *ast.Ident:
				if o := info.Uses[n]; o != nil && o.Pkg() == pkg && !mayUse(o) {
					if from := filepath.Base(fset.Position(o.Pos()).Filename); !isCore(from) {
						fault(n, "%v of %v", n.Name, from)
					}
				}
			}
			return true
		})
	}
	return faults
}

func isCore(file string) bool { return strings.HasPrefix(file, "course") }

// mayUse reports whether something is one of coreValues, a field or a value of one.
func mayUse(o types.Object) bool {
	switch o := o.(type) {
	case *types.TypeName:
		return slices.Contains(coreValues, o.Name())
	case *types.Const:
		named, ok := o.Type().(*types.Named)
		return ok && slices.Contains(coreValues, named.Obj().Name())
	case *types.Var:
		return o.IsField() && o.Exported() && !o.Embedded()
	}
	return false
}

// emptyPackages has nothing in any package.
type emptyPackages struct{}

func (emptyPackages) Import(path string) (*types.Package, error) {
	name := path[strings.LastIndex(path, "/")+1:]
	if name == "v2" || name == "v3" {
		name = strings.Split(path, "/")[strings.Count(path, "/")-1]
	}
	p := types.NewPackage(path, name)
	p.MarkComplete()
	return p, nil
}
