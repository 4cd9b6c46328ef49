package docs_test

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/rego-go/rego/internal/docs"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// elsewhere are names between backticks that are not of this repository, and whose they are.
var elsewhere = map[string]string{
	"grpc.client.attempt.started":          "a metric of grpc's stats/opentelemetry",
	"grpc.client.call.duration":            "the same",
	"grpc.client.call.transparent_retries": "a metric of gRFC A96 that rego does not have",

	"maxAttempts":         "a field of gRFC A6",
	"hedgingDelay":        "a field of gRFC A6",
	"hedgingPolicy":       "a field of gRFC A6",
	"nonFatalStatusCodes": "a field of gRFC A6",
	"retryPolicy":         "a field of gRPC's service config",
	"retryThrottling":     "a field of gRPC's service config",
	"method_config":       "the same in snake case, which is a fault",
	"requestHashHeader":   "a field of gRPC's service config",
	"subPath":             "a field of Kubernetes",
	"idempotency_level":   "an option of proto files",
	"TypedStruct":         "a message of xDS",
	"QuotaFailure":        "a message of google.rpc",
	"RetryInfo":           "a message of google.rpc",
	"RetryPolicy":         "a message of xDS and a field of gRPC's service config",
	"Forwarded":           "a header of HTTP",
	"Host":                "a header of HTTP",
	"Via":                 "a header of HTTP",
	"Canceled":            "how grpc-go spells a code",
	"Round_Robin":         "a name of round_robin",

	"pick_first":                     "a load-balancing policy of grpc",
	"round_robin":                    "a load-balancing policy of grpc",
	"weighted_round_robin":           "a load-balancing policy of grpc",
	"ring_hash_experimental":         "a load-balancing policy of grpc",
	"least_request_experimental":     "a load-balancing policy of grpc",
	"outlier_detection_experimental": "a load-balancing policy of grpc",

	"CloseAndRecv":                    "of streams of grpc",
	"CloseSend":                       "of streams of grpc",
	"Context":                         "of streams of grpc",
	"Header":                          "of streams and call options of grpc",
	"MaxCallSendMsgSize":              "a call option of grpc",
	"NewStream":                       "of grpc.ClientConn",
	"OnFinish":                        "a call option of grpc",
	"Peer":                            "a call option of grpc",
	"Recv":                            "of streams of grpc",
	"RecvMsg":                         "of streams of grpc",
	"Send":                            "of streams of grpc",
	"SendMsg":                         "of streams of grpc",
	"Trailer":                         "of streams and call options of grpc",
	"WaitForReady":                    "a call option of grpc",
	"DialOption":                      "of grpc",
	"MinTime":                         "of grpc's package keepalive",
	"PermitWithoutStream":             "of grpc's package keepalive",
	"Time":                            "of grpc's package keepalive",
	"Done":                            "of grpc's package balancer",
	"PickInfo.Ctx":                    "of grpc's package balancer",
	"ClientConn.ResetConnectBackoff":  "of grpc",
	"Unregister":                      "of OpenTelemetry",
	"otelgrpc.NewClientHandler":       "of otelgrpc",
	"otelgrpc.NewServerHandler":       "of otelgrpc",
	"sdk/metric.WithCardinalityLimit": "of OpenTelemetry",
	"stats/opentelemetry":             "a package of grpc",
	"balancer/randomsubsetting":       "a package of grpc",
	"testing/synctest":                "a package of Go",
	"go.mod":                          "each module has one",
	"./jaeger":                        "a program of Jaeger",
	"pkg.Service/Method":              "a method",
	"stream.make":                     "a method of an unexported type",
	"unary.make":                      "a method of an unexported type",
	"CloseAndRecv()":                  "of streams of grpc",
	"WithMax":                         "of go-grpc-middleware",
	"FILE.revision":                   "a file beside the reader's",
	"None":                            "a misspelt classifier",
	"Unsampled":                       "a part of a benchmark's name",
	"Locked":                          "the end of names",
	"By":                              "a unit of OpenTelemetry",
	"OK":                              "a code",
	"server.address":                  "of OpenTelemetry's conventions",
	"server.port":                     "of OpenTelemetry's conventions",
	"error.type":                      "of OpenTelemetry's conventions",
	"network.peer.address":            "of OpenTelemetry's conventions",
	"network.peer.port":               "of OpenTelemetry's conventions",
	"rpc.client.call.duration":        "of OpenTelemetry's conventions",
	"rpc.method":                      "of OpenTelemetry's conventions",
	"rpc.response.status_code":        "of OpenTelemetry's conventions",
	"rpc.system.name":                 "of OpenTelemetry's conventions",
	"REFUSED_STREAM":                  "an error of HTTP/2",
	"CURRENT":                         "the end of CLIENT_STATE_CURRENT",
	"NOT_SERVING":                     "a status of gRPC's health service",
	"call.reason":                     "a key of a log line: the group call, and reason of a timeline",
	"policy.Idempotency":              "what classify.Idempotency could have been",
}

// vocabulary is what the sources of the repository, all of its modules, have for names.
type vocabulary struct {
	declared map[string]bool            // functions, types, methods, fields, constants and variables
	literals map[string]bool            // strings, without tests
	tests    map[string]bool            // TestX, ExampleX, BenchmarkX, FuzzX
	metrics  map[string]bool            // strings of package otelobs
	members  map[string]map[string]bool // of a folder: declared
	files    []string
}

var words = sync.OnceValues(func() (*vocabulary, error) {
	v := &vocabulary{
		declared: map[string]bool{}, literals: map[string]bool{}, tests: map[string]bool{},
		metrics: map[string]bool{}, members: map[string]map[string]bool{},
	}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name != root && strings.HasPrefix(d.Name(), ".") && d.Name() != ".ci" {
				return fs.SkipDir
			}
			return nil
		}
		file, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		v.files = append(v.files, filepath.ToSlash(file))
		if strings.HasSuffix(name, ".go") {
			return v.read(name, filepath.ToSlash(file))
		}
		return nil
	})
	return v, err
})

func (v *vocabulary) read(name, file string) error {
	f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	isTest, dir := strings.HasSuffix(file, "_test.go"), path.Dir(file)
	if v.members[dir] == nil {
		v.members[dir] = map[string]bool{}
	}
	declare := func(ids ...*ast.Ident) {
		for _, id := range ids {
			v.declared[id.Name], v.members[dir][id.Name] = true, true
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			declare(n.Name)
			if isTest && regexp.MustCompile(`^(Test|Example|Benchmark|Fuzz)`).MatchString(n.Name.Name) {
				v.tests[n.Name.Name] = true
			}
		case *ast.TypeSpec:
			declare(n.Name)
		case *ast.ValueSpec:
			declare(n.Names...)
		case *ast.InterfaceType:
			for _, method := range n.Methods.List {
				declare(method.Names...)
			}
		case *ast.StructType:
			for _, field := range n.Fields.List {
				declare(field.Names...)
				if field.Tag != nil {
					for _, m := range regexp.MustCompile(`"([a-z_]+)[",]`).FindAllStringSubmatch(field.Tag.Value, -1) {
						v.literals[m[1]] = true
					}
				}
			}
		case *ast.BasicLit:
			if n.Kind == token.STRING && !isTest {
				v.literals[unquoted(n)] = true
				v.metrics[unquoted(n)] = v.metrics[unquoted(n)] || dir == "otelobs"
			}
		}
		return true
	})
	return nil
}

// kinds are names between backticks, by what they look like. The first that fits checks the name.
var kinds = []struct {
	looks *regexp.Regexp
	is    func(v *vocabulary, name string) bool
}{
	{regexp.MustCompile(`^(Test|Example|Benchmark|Fuzz)\w+…?$`), (*vocabulary).isTest},
	{regexp.MustCompile(`^[a-z/]+\.(Test|Fuzz)\w+$`), func(v *vocabulary, name string) bool {
		dir, test := path.Split(strings.ReplaceAll(name, ".Test", "/Test"))
		return v.members[strings.TrimSuffix(dir, "/")][test]
	}},
	{regexp.MustCompile(`^Rego[A-Z]\w+$`), func(_ *vocabulary, name string) bool {
		alerts, _ := os.ReadFile(filepath.Join(root, "docs", "alerts.yml"))
		return strings.Contains(string(alerts), "alert: "+name+"\n")
	}},
	{regexp.MustCompile(`^[\w*-]+\.(go|proto|md|yml|json)$`), func(v *vocabulary, name string) bool {
		return slices.ContainsFunc(v.files, func(file string) bool { ok, _ := path.Match(name, path.Base(file)); return ok })
	}},
	{regexp.MustCompile(`^\.?[\w*-][\w.*-]*(/[\w.*-]+)+/?$`), func(v *vocabulary, name string) bool {
		name = strings.TrimSuffix(name, "/")
		return slices.ContainsFunc(v.files, func(file string) bool {
			ok, _ := path.Match(name, file)
			return ok || strings.HasPrefix(file, name+"/")
		})
	}},
	{regexp.MustCompile(`^rego\.v1\.\w+$`), func(_ *vocabulary, name string) bool { return messages()[strings.TrimPrefix(name, "rego.v1.")] }},
	{regexp.MustCompile(`^(rego|grpc)(\.[a-z_]+)+$`), func(v *vocabulary, name string) bool { return v.metrics[name] }},
	{regexp.MustCompile(`^rego(_[a-z]+)+$`), func(v *vocabulary, name string) bool { return v.literals[name] || v.isPrometheus(name) }},
	{regexp.MustCompile(`^[a-z]+\.[A-Z]\w*(\.\w+)*$`), func(v *vocabulary, name string) bool { return isSymbol(name) }},
	{regexp.MustCompile(`^[A-Z][a-z]\w*(\.[A-Z]\w*)*(\(\))?$`), func(v *vocabulary, name string) bool {
		for part := range strings.SplitSeq(strings.TrimSuffix(name, "()"), ".") {
			if !v.declared[part] && !v.literals[part] {
				return false
			}
		}
		return true
	}},
	{regexp.MustCompile(`^(\w+(\[\])?\.)*[a-z]+(_[a-z]+)*(\[\])?$`), func(v *vocabulary, name string) bool {
		if !strings.ContainsAny(name, "._") {
			return true // a word
		}
		for part := range strings.SplitSeq(strings.ReplaceAll(name, "[]", ""), ".") {
			if !fields()[part] && !v.literals[part] {
				return false
			}
		}
		return true
	}},
	{regexp.MustCompile(`^[a-z]+([A-Z]\w*)+$`), func(v *vocabulary, name string) bool { return v.declared[name] }},
	{regexp.MustCompile(`^[A-Z]+(_[A-Z]+)+$`), func(v *vocabulary, name string) bool {
		return v.literals[name] || fields()[name] || v.literals["IDEMPOTENCY_"+name] || slices.Contains(codeNames(), name)
	}},
}

func (v *vocabulary) isTest(name string) bool {
	begin, isBegin := strings.CutSuffix(name, "…")
	if !isBegin {
		return v.tests[name]
	}
	for test := range v.tests {
		if strings.HasPrefix(test, begin) {
			return true
		}
	}
	return false
}

// isPrometheus tells whether a name is what Prometheus makes of one of otelobs.
func (v *vocabulary) isPrometheus(name string) bool {
	for metric := range v.metrics {
		begin := strings.ReplaceAll(metric, ".", "_")
		if rest, ok := strings.CutPrefix(name, begin); ok && strings.HasPrefix(metric, "rego.") &&
			regexp.MustCompile(`^(_seconds|_bytes|_ratio)?(_total|_bucket|_sum|_count)?$`).MatchString(rest) {
			return true
		}
	}
	return false
}

// messages returns the messages, enums and services of the public proto files.
func messages() map[string]bool { return protoNames().messages }

// fields returns the fields, and the values of enums, of the public proto files.
func fields() map[string]bool { return protoNames().fields }

type names struct{ messages, fields map[string]bool }

var protoNames = sync.OnceValue(func() names {
	n := names{map[string]bool{}, map[string]bool{}}
	enums := func(all protoreflect.EnumDescriptors) {
		for i := range all.Len() {
			n.messages[string(all.Get(i).Name())] = true
			for j := range all.Get(i).Values().Len() {
				n.fields[string(all.Get(i).Values().Get(j).Name())] = true
			}
		}
	}
	for _, f := range []protoreflect.FileDescriptor{
		regov1.File_rego_v1_policy_proto, regov1.File_rego_v1_limits_proto, regov1.File_rego_v1_discovery_proto,
		regov1.File_rego_v1_fleet_proto, regov1.File_rego_v1_options_proto, regov1.File_rego_v1_admin_proto,
		regov1.File_rego_v1_repository_proto, regov1.File_rego_v1_snapshot_proto,
	} {
		enums(f.Enums())
		for i := range f.Services().Len() {
			n.messages[string(f.Services().Get(i).Name())] = true
		}
		for i := range f.Messages().Len() {
			m := f.Messages().Get(i)
			n.messages[string(m.Name())] = true
			enums(m.Enums())
			for j := range m.Fields().Len() {
				n.fields[string(m.Fields().Get(j).Name())] = true
			}
		}
	}
	return n
})

func codeNames() []string {
	return []string{
		"CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
		"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
	}
}

// isSymbol looks names such as policy.Store.Source up in the packages that blocks of Go may name.
var isSymbol func(name string) bool

// TestNames: names between backticks are those of the code: tests, files, folders, metrics, attributes,
// fields of policies and messages, functions, types and what they have.
func TestNames(t *testing.T) {
	t.Parallel()
	v, err := words()
	require.NoError(t, err)
	packages := importer.ForCompiler(token.NewFileSet(), "gc", exports(t))
	isSymbol = func(name string) bool {
		parts := strings.Split(name, ".")
		pkg, err := packages.Import(imports[parts[0]])
		if err != nil {
			return false
		}
		object := pkg.Scope().Lookup(parts[1])
		for _, part := range parts[2:] {
			if object == nil {
				return false
			}
			object, _, _ = types.LookupFieldOrMethod(types.NewPointer(object.Type()), true, pkg, part)
		}
		return object != nil
	}
	used, checked := make(map[string]bool), 0
	for page, text := range pages(t) {
		if page == "docs/debugpage.md" {
			text, _, _ = strings.Cut(text, "\n## JSON") // a test of the debug page reads these tables
		}
		for _, name := range docs.Inline(text) {
			if _, is := elsewhere[name]; is {
				used[name] = true
				continue
			}
			for _, k := range kinds {
				if k.looks.MatchString(name) {
					checked++
					assert.True(t, k.is(v, name), "%s: `%s` is no name of the code", page, name)
					break
				}
			}
			for _, metric := range regexp.MustCompile(`\brego(_[a-z]+)+\b`).FindAllString(name, -1) {
				assert.True(t, v.literals[metric] || v.isPrometheus(metric), "%s: no metric %s", page, metric)
			}
		}
	}
	assert.Greater(t, checked, 900, "names are not found any more")
	for name := range elsewhere {
		assert.True(t, used[name], "no page has `%s`", name)
	}
}
