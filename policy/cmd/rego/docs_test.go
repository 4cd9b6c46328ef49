package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// blocks returns the code blocks of a page in a language.
func blocks(page, language string) (all []string) {
	for _, rest := range strings.Split(page, "\n```"+language+"\n")[1:] {
		text, _, _ := strings.Cut(rest, "\n```")
		all = append(all, text)
	}
	return all
}

// TestOperations: docs/operations.md has every flag and metric of serve, and its commands are
// taken.
func TestOperations(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../../docs/operations.md")
	require.NoError(t, err)
	page := string(b)
	rows := strings.Join(regexp.MustCompile("(?m)^\\| `.*?` ").FindAllString(page, -1), "\n")
	s := &streams{strings.NewReader(""), printer{io.Discard}, printer{io.Discard}}
	newServeCommand(s).Flags().VisitAll(func(f *pflag.Flag) {
		assert.Regexp(t, "`--"+f.Name, rows, "no row")
	})
	for _, row := range regexp.MustCompile("(?m)^\\| `--([a-z-]+)").FindAllStringSubmatch(page, -1) {
		assert.NotNil(t, newServeCommand(s).Flags().Lookup(row[1]), row[1])
	}
	descs := make(chan *prometheus.Desc, 100)
	fleetMetrics{}.Describe(descs)
	newMetrics().denials.Describe(descs)
	close(descs)
	for d := range descs {
		name := regexp.MustCompile(`fqName: "([^"]+)"`).FindStringSubmatch(d.String())[1]
		assert.Regexp(t, "\\| `"+name, rows, "no row")
	}

	units := blocks(page, "ini")
	require.Len(t, units, 1)
	_, line, ok := strings.Cut(strings.ReplaceAll(units[0], "\\\n", " "), "ExecStart=/usr/local/bin/rego serve ")
	require.True(t, ok)
	line, _, _ = strings.Cut(line, "\n")
	taken(t, strings.Fields(line))

	manifests := blocks(page, "yaml")
	require.Len(t, manifests, 1)
	kinds := map[string]bool{}
	for in := yaml.NewDecoder(strings.NewReader(manifests[0])); ; {
		var m struct {
			Kind string            `yaml:"kind"`
			Data map[string]string `yaml:"data"`
			Spec struct {
				Template struct {
					Spec struct {
						Containers []struct {
							Args []string `yaml:"args"`
						} `yaml:"containers"`
					} `yaml:"spec"`
				} `yaml:"template"`
			} `yaml:"spec"`
		}
		err := in.Decode(&m)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		kinds[m.Kind] = true
		for _, c := range m.Spec.Template.Spec.Containers {
			require.Equal(t, "serve", c.Args[0])
			taken(t, c.Args[1:])
		}
		for _, text := range m.Data {
			code, out, errs := call(text, "lint", "-")
			assert.Equal(t, exitOK, code, out+errs)
		}
	}
	assert.Equal(t, map[string]bool{"ConfigMap": true, "Deployment": true, "Service": true}, kinds)
}

// taken holds that flags of serve are taken, with certificates in the place of those that are not
// here.
func taken(t *testing.T, args []string) {
	t.Helper()
	var out bytes.Buffer
	v := &serve{streams: &streams{strings.NewReader(""), printer{&out}, printer{&out}}}
	cmd := newServeCommandFor(v)
	require.NoError(t, cmd.ParseFlags(args))
	require.NoError(t, v.access.check(v.addr))
	_, err := v.access.options(v.addr)
	require.NoError(t, err)
}
