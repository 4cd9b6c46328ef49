package docs_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/rego-go/rego/internal/docs"
	"github.com/rego-go/rego/policy/file"
)

// languages are those of blocks, and which test reads them.
var languages = map[string]string{
	"":        "what a program prints, a picture, or a line of go.mod",
	"go":      "TestGoBlocks",
	"ini":     "TestOperations in policy/cmd/rego",
	"json":    "TestPolicyBlocks",
	"mermaid": "a picture",
	"proto":   "TestProtoBlocks",
	"sh":      "TestCommands here, TestDocCommands in policy/cmd/rego",
	"yaml":    "TestPolicyBlocks, and TestOperations in policy/cmd/rego",
}

// TestLanguages: each block of code has a language that a test reads.
func TestLanguages(t *testing.T) {
	t.Parallel()
	for page, text := range pages(t) {
		for _, b := range docs.Blocks(text) {
			assert.Contains(t, languages, b.Language, "%s: nobody checks\n%s", page, b.Text)
		}
	}
}

// surroundings are where a piece of a policy can stand. Each is a set or limits in YAML.
var surroundings = []string{
	"%s",
	"rules: [{methods: ['*'], policy: {%s}}]",
	"rules: [{methods: ['*'], policy: {retry: {%s}}}]",
	"rules: [{methods: ['*'], policy: {retry: {backoff: {%s}}}}]",
	"rules: [{methods: ['*'], policy: {hedge: {%s}}}]",
	"budgets: [{name: b, %s}]",
}

// isPolicy tells whether text is a set, limits, or a piece of one of them.
func isPolicy(text string, f file.Format) bool {
	if _, err := file.ParseLimits([]byte(text), f); err == nil {
		return true
	}
	for _, around := range surroundings {
		if _, err := file.Parse(fmt.Appendf(nil, around, strings.TrimSpace(text)), f); err == nil {
			return true
		}
	}
	return false
}

// TestPolicyBlocks: blocks of YAML and JSON are policies or limits, and so is what between
// backticks looks like YAML.
func TestPolicyBlocks(t *testing.T) {
	t.Parallel()
	looksLikeYAML := regexp.MustCompile(`^[a-z_]+: [^"]+$`)
	blocks, pieces := 0, 0
	for page, text := range pages(t) {
		for _, b := range docs.Blocks(text) {
			format, isOne := map[string]file.Format{"yaml": file.YAML, "json": file.JSON}[b.Language]
			if !isOne || strings.HasPrefix(b.Text, "apiVersion: ") { // TestOperations of policy/cmd/rego reads Kubernetes
				continue
			}
			blocks++
			assert.True(t, isPolicy(b.Text, format), "%s: no policy:\n%s", page, b.Text)
		}
		for _, text := range docs.Inline(text) {
			if !looksLikeYAML.MatchString(text) || strings.HasPrefix(text, "rego: ") { // a line of the log
				continue
			}
			pieces++
			assert.True(t, isPolicy(text, file.YAML), "%s: no piece of a policy: %s", page, text)
		}
	}
	assert.Greater(t, blocks, 4, "blocks are not found any more")
	assert.Greater(t, pieces, 15, "pieces of policies are not found any more")
}

// TestProtoBlocks: options of rego in blocks of proto have the fields of a policy, and what they
// import is there.
func TestProtoBlocks(t *testing.T) {
	t.Parallel()
	option := regexp.MustCompile(`(?s)option \((rego\.v1\.\w+)\) = (\{.*?\});`)
	options := 0
	for page, text := range pages(t) {
		for _, b := range docs.Blocks(text) {
			if b.Language != "proto" {
				continue
			}
			for _, m := range option.FindAllStringSubmatch(b.Text, -1) {
				options++
				kind, err := protoregistry.GlobalTypes.FindExtensionByName(protoreflect.FullName(m[1]))
				require.NoError(t, err, page)
				value := kind.New().Message().Interface()
				require.NoError(t, prototext.Unmarshal([]byte(m[2][1:len(m[2])-1]), value), "%s: %s", page, m[0])
			}
			for _, m := range regexp.MustCompile(`import "(.*)";`).FindAllStringSubmatch(b.Text, -1) {
				_, err := protoregistry.GlobalFiles.FindFileByPath(m[1])
				require.NoError(t, err, page)
			}
		}
	}
	assert.Positive(t, options, "options are not found any more")
}
