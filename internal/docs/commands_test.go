package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/rego-go/rego/internal/docs"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// foreign are programs whose commands are not checked here, and why.
var foreign = map[string]string{
	"rego":     "policy/cmd/rego checks them, which has the flags",
	"./rego":   "the same",
	"fleet":    "TestFleetCalls",
	"fleet()":  "it is grpcurl",
	"}":        "the end of fleet()",
	"$EDITOR":  "the reader's own",
	"docker":   "not of this repository",
	"kubectl":  "not of this repository",
	"ssh":      "not of this repository",
	"buf":      "not of this repository",
	"protoc":   "not of this repository",
	"etcdutl":  "not of this repository",
	"git":      "not of this repository",
	"promtool": "not of this repository",
}

// TestCommands: commands for make and go in the pages, in the Makefile and in the comments of
// programs name verbs, folders, packages, tests and flags that there are.
func TestCommands(t *testing.T) {
	t.Parallel()
	checked := 0
	check := func(where string, c docs.Command) {
		switch program := c.Words[0]; program {
		case "make":
			makeTaken(t, where, c)
		case "go":
			goTaken(t, where, c)
		default:
			assert.Contains(t, foreign, program, "%s: nobody checks %q", where, c)
			return
		}
		checked++
	}
	for page, text := range pages(t) {
		for _, c := range docs.Commands(text, "make", "go", "cd") {
			check(page, c)
		}
	}
	assert.Greater(t, checked, 80, "commands are not found any more")

	checked = 0
	for _, c := range recipes(t) {
		check("Makefile", c)
	}
	assert.Greater(t, checked, 10, "recipes are not found any more")

	checked = 0
	mains, err := filepath.Glob(filepath.Join(root, "examples", "*", "main.go"))
	require.NoError(t, err)
	for _, name := range mains {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`(?m)^//\t((?:go|make|cd) .*)$`).FindAllStringSubmatch(string(text), -1) {
			for _, c := range docs.Script(strings.NewReplacer("[", "", "]", "").Replace(m[1]), "in examples") {
				check(name, c)
			}
		}
	}
	assert.Greater(t, checked, 5, "commands in comments are not found any more")
}

// recipes returns the commands of the Makefile that begin with go or with a variable for it.
func recipes(t *testing.T) (all []docs.Command) {
	t.Helper()
	text := strings.NewReplacer("$$", "$", "\\\n", " ", "$(TOOLS)", "internal/tools").Replace(makefile(t))
	for _, m := range regexp.MustCompile(`(?m)^\t@?((?:[A-Z_]+=\S+ )*go .*)$`).FindAllStringSubmatch(text, -1) {
		all = append(all, docs.Script(m[1], "")...)
	}
	return slices.DeleteFunc(all, func(c docs.Command) bool { return c.Words[0] != "go" })
}

func makefile(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "Makefile"))
	require.NoError(t, err)
	return string(text)
}

// makeTaken holds that a command names verbs and variables of the Makefile.
func makeTaken(t *testing.T, where string, c docs.Command) {
	t.Helper()
	text := makefile(t)
	for _, word := range c.Words[1:] {
		if name, _, isVariable := strings.Cut(word, "="); isVariable {
			assert.Contains(t, text, "$("+name+")", "%s: %s: no variable", where, c)
		} else {
			assert.Regexp(t, `(?m)^`+regexp.QuoteMeta(word)+`:.* ## `, text, "%s: %s: no verb", where, c)
		}
	}
}

// ownFlags are those of go itself. True is for those without a value.
var ownFlags = map[string]bool{
	"race": true, "v": true, "benchmem": true, "short": true, "cover": true, "json": true,
	"run": false, "bench": false, "benchtime": false, "count": false, "cpu": false, "timeout": false, "fuzz": false, "fuzztime": false,
	"modfile": false, "tags": false, "o": false, "C": false,
}

// goTaken holds that a command for go names what there is.
func goTaken(t *testing.T, where string, c docs.Command) {
	t.Helper()
	words, dir := c.Words[1:], filepath.Join(root, c.Dir)
	if len(words) > 1 && words[0] == "-C" {
		words, dir = words[2:], filepath.Join(dir, words[1])
	}
	if len(words) == 0 || len(words) == 1 && c.Inline && words[0] == "tool" {
		return // a word of the text
	}
	verb, words := words[0], words[1:]
	assert.DirExists(t, dir, "%s: %s", where, c)
	switch verb {
	case "run", "test", "build", "vet":
	case "doc":
		path, ok := strings.CutPrefix(words[0], "github.com/rego-go/rego/")
		assert.True(t, ok, "%s: %s", where, c)
		assert.DirExists(t, filepath.Join(root, path), "%s: %s", where, c)
		return
	case "tool":
		toolTaken(t, where, c, words)
		return
	default:
		assert.Contains(t, []string{"mod", "list", "get", "generate"}, verb, "%s: %s: nobody checks it", where, c)
		return
	}

	if slices.Contains(words, "-C") {
		dir = filepath.Join(dir, words[slices.Index(words, "-C")+1])
	}
	inExamples := !isFolder(filepath.Join(dir, firstFolder(words))) && isFolder(filepath.Join(root, "examples", firstFolder(words)))
	if inExamples {
		dir = filepath.Join(root, "examples")
		saysWhere := strings.Contains(c.Section, "examples")
		assert.True(t, saysWhere, "%s: %s: the text does not say in which folder", where, c) // without the text, which is long
	}
	flags, values, folders := parseFlags(t, where, c, verb, words)
	var sources []*ast.File
	for _, folder := range folders {
		if !strings.HasPrefix(folder, ".") {
			return // a variable of the Makefile, or a package of another module
		}
		sources = append(sources, parsed(t, dir, folder, verb == "test")...)
		assert.NotEmpty(t, sources, "%s: %s: no Go in %s", where, c, folder)
	}
	if len(folders) == 0 {
		return // a part of a command, or the module itself
	}
	known := flagsOf(sources)
	for _, name := range flags {
		if _, isGo := ownFlags[name]; !isGo || verb == "run" {
			assert.True(t, known[name], "%s: %s: no flag -%s", where, c, name)
		}
	}
	for _, name := range []string{"run", "bench", "fuzz"} {
		if pattern, given := values[name]; given && verb == "test" {
			namesTaken(t, where, c, name, pattern, sources)
		}
	}
	for _, variable := range c.Env {
		name, _, _ := strings.Cut(variable, "=")
		assert.True(t, strings.HasPrefix(name, "GO") || mentions(parsed(t, root, "./...", true), name), "%s: %s: nothing looks at %s", where, c, name)
	}
}

// toolTaken holds that the go.mod of tools has the tool.
func toolTaken(t *testing.T, where string, c docs.Command, words []string) {
	t.Helper()
	file, ok := strings.CutPrefix(words[0], "-modfile=")
	require.True(t, ok, "%s: %s", where, c)
	file = strings.NewReplacer("$(TOOLS)", "internal/tools").Replace(file)
	mod, err := os.ReadFile(filepath.Join(root, file))
	require.NoError(t, err, "%s: %s", where, c)
	assert.Regexp(t, `(?m)^(tool |\t)\S+/`+words[1]+`( // indirect)?$`, string(mod), "%s: %s", where, c)
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// firstFolder returns the first word that is a folder as go names it.
func firstFolder(words []string) string {
	for _, word := range words {
		if word == "." || strings.HasPrefix(word, "./") {
			return strings.TrimSuffix(word, "...")
		}
	}
	return "."
}

// parseFlags splits the words after go run, go test, go build and go vet. Of go run, only the flags
// of the program count.
func parseFlags(t *testing.T, where string, c docs.Command, verb string, words []string) (flags []string, values map[string]string, folders []string) {
	t.Helper()
	values = make(map[string]string)
	for i := 0; i < len(words); i++ {
		word := words[i]
		switch {
		case strings.HasPrefix(word, "-"):
			name, value, hasValue := strings.Cut(strings.TrimLeft(word, "-"), "=")
			if verb == "run" && len(folders) == 0 {
				continue // of go itself
			}
			flags = append(flags, name)
			if withoutValue := ownFlags[name]; !hasValue && !withoutValue && i+1 < len(words) && !strings.HasPrefix(words[i+1], "-") && !strings.HasPrefix(words[i+1], "./") {
				i++
				value = words[i]
			}
			values[name] = value
		case word == "…":
		case verb == "run" && len(folders) > 0:
			assert.Fail(t, "an argument that no example takes", "%s: %s", where, c)
		default:
			folders = append(folders, word)
		}
	}
	return flags, values, folders
}

// parsed returns the Go files of a folder, and of all below it if it ends with three dots.
func parsed(t *testing.T, dir, folder string, tests bool) (files []*ast.File) {
	t.Helper()
	top, deep := strings.CutSuffix(filepath.Join(dir, folder), "...")
	top = filepath.Clean(top)
	_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != top && (!deep || strings.HasPrefix(d.Name(), ".")):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") && !tests:
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		files = append(files, f)
		return nil
	})
	return files
}

var definesFlag = regexp.MustCompile(`^(Bool|Duration|Float64|Func|Int|Int64|String|Text|Uint|Uint64)?(Var)?$`)

// flagsOf returns the names that files give to package flag.
func flagsOf(files []*ast.File) map[string]bool {
	names := make(map[string]bool)
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if fun, ok := call.Fun.(*ast.SelectorExpr); ok && definesFlag.MatchString(fun.Sel.Name) && len(call.Args) > 2 {
				for _, arg := range call.Args[:2] {
					if lit, ok := arg.(*ast.BasicLit); ok {
						names[unquoted(lit)] = true
						break
					}
				}
			}
			return true
		})
	}
	return names
}

func unquoted(lit *ast.BasicLit) string {
	if text, err := strconv.Unquote(lit.Value); err == nil {
		return text
	}
	return lit.Value
}

// mentions tells whether one of files has the text as a literal.
func mentions(files []*ast.File, text string) (has bool) {
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && unquoted(lit) == text {
				has = true
			}
			return !has
		})
	}
	return has
}

// namesTaken holds that each alternative of a pattern of -run, -bench or -fuzz fits a function.
func namesTaken(t *testing.T, where string, c docs.Command, flag, pattern string, files []*ast.File) {
	t.Helper()
	kinds := map[string]string{"run": "Test|Example|Fuzz", "bench": "Benchmark", "fuzz": "Fuzz"}
	isOne := regexp.MustCompile(`^(` + kinds[flag] + `)`)
	var names []string
	for _, f := range files {
		for _, d := range f.Decls {
			if fun, ok := d.(*ast.FuncDecl); ok && isOne.MatchString(fun.Name.Name) {
				names = append(names, fun.Name.Name)
			}
		}
	}
	if pattern == "^$" || strings.HasPrefix(pattern, "$(") {
		return
	}
	for one := range strings.SplitSeq(strings.NewReplacer("(", "", ")", "", "^", "", "$", "").Replace(pattern), "|") {
		expr := one
		if strings.Contains(pattern, "^") {
			expr = "^" + expr
		}
		if strings.Contains(pattern, "$") {
			expr += "$"
		}
		assert.True(t, slices.ContainsFunc(names, regexp.MustCompile(expr).MatchString), "%s: %s: no function fits %s", where, c, one)
	}
}

// TestFleetCalls: requests to the fleet service in the pages are those of its methods.
func TestFleetCalls(t *testing.T) {
	t.Parallel()
	methods := regov1.File_rego_v1_fleet_proto.Services().ByName("FleetService").Methods()
	calls := 0
	for page, text := range pages(t) {
		for _, c := range docs.Commands(text) {
			if c.Words[0] != "fleet" {
				continue
			}
			calls++
			require.Len(t, c.Words, 3, "%s: %s", page, c)
			m := methods.ByName(protoreflect.Name(c.Words[1]))
			require.NotNil(t, m, "%s: %s", page, c)
			require.NoError(t, protojson.Unmarshal([]byte(c.Words[2]), dynamicpb.NewMessage(m.Input())), "%s: %s", page, c)
		}
	}
	assert.Positive(t, calls, "calls are not found any more")
}
