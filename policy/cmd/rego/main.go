// Rego is for people who write policies: it tells what is wrong with a file, what the
// file means for a method, and writes it in another format.
//
//	rego lint FILE...
//	rego explain FILE /pkg.Service/Method
//	rego convert [-to FORMAT] FILE
//
// Formats are yaml, json, binary (a message rego.v1.Set) and serviceconfig (gRPC's).
// The extension of a file says which; -from says it for others and for service configs,
// whose files end with .json, too. FILE may be - for the standard input.
//
// It exits with 0, with 1 if a file has faults, and with 2 if it was called wrongly.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/file"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

const usage = `usage:
  rego lint [-from FORMAT] FILE...                      all faults of files
  rego explain [-from FORMAT] FILE /pkg.Service/Method  what a method's policy is, and what it leads to
  rego convert [-from FORMAT] [-to FORMAT] FILE         the file in another format, yaml if not said
formats: yaml, json, binary, serviceconfig
`

// The exit codes.
const (
	exitOK = iota
	exitFaults
	exitUsage
)

type command struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	from, to       string
	args           []string
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := command{stdin: stdin, stdout: stdout, stderr: stderr}
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	flags.StringVar(&c.from, "from", "", "format of the file")
	if args[0] == "convert" {
		flags.StringVar(&c.to, "to", "yaml", "format to write")
	}
	if err := flags.Parse(args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitOK
		}
		return exitUsage
	}
	c.args = flags.Args()
	switch {
	case args[0] == "lint" && len(c.args) > 0:
		return c.lint()
	case args[0] == "explain" && len(c.args) == 2:
		return c.explain()
	case args[0] == "convert" && len(c.args) == 1:
		return c.convert()
	}
	fmt.Fprint(stderr, usage)
	return exitUsage
}

// serviceConfig is the format that package file does not know.
const serviceConfig = "serviceconfig"

// read returns the set in a file and what its import left out, which only service
// configs have.
func (c command) read(path string) (policy.Set, []policy.Fault, error) {
	data, err := c.open(path)
	if err != nil {
		return policy.Set{}, nil, err
	}
	if c.from == serviceConfig {
		return policy.FromServiceConfig(data)
	}
	format, err := formatOf(c.from, path)
	if err != nil {
		return policy.Set{}, nil, err
	}
	set, err := file.Parse(data, format)
	return set, nil, err
}

// open reads a file, or as much of it as is too much.
func (c command) open(path string) ([]byte, error) {
	in := c.stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close() //nolint:errcheck // it is only read
		in = f
	}
	return io.ReadAll(io.LimitReader(in, policy.MaxSize+1))
}

func formatOf(name, path string) (file.Format, error) {
	for _, f := range []file.Format{file.YAML, file.JSON, file.Binary} {
		if name == f.String() {
			return f, nil
		}
	}
	if name != "" {
		return 0, fmt.Errorf("format %q is none of yaml, json, binary, %s", name, serviceConfig)
	}
	return file.FormatOf(path)
}

// tell prints what is wrong with a file, a line each, and returns the exit code.
func (c command) tell(path string, err error) int {
	var faults policy.Faults
	if !errors.As(err, &faults) {
		fmt.Fprintln(c.stderr, "rego:", err)
		return exitUsage
	}
	c.list(path, "", faults)
	return exitFaults
}

// list prints faults as FILE:LINE:COLUMN, which editors know.
func (c command) list(path, kind string, faults []policy.Fault) {
	for _, f := range faults {
		place := path
		if f.Line > 0 {
			place = fmt.Sprintf("%s:%d:%d", path, f.Line, f.Column)
		}
		f.Line = 0
		fmt.Fprintf(c.stderr, "%s: %s%s\n", place, kind, f.Error())
	}
}

// lint prints every fault of every file.
func (c command) lint() int {
	worst := exitOK
	for _, path := range c.args {
		_, warnings, err := c.read(path)
		c.list(path, "warning: ", warnings)
		if err != nil {
			worst = max(worst, c.tell(path, err))
		}
	}
	return worst
}

// convert prints a file in another format. What that cannot say is told.
func (c command) convert() int {
	path := c.args[0]
	set, left, err := c.read(path)
	if err != nil {
		return c.tell(path, err)
	}
	c.list(path, "not taken over: ", left)
	var data []byte
	if c.to == serviceConfig {
		data, left, err = set.ServiceConfig()
		c.list(path, "cannot be said: ", left)
	} else {
		var format file.Format
		if format, err = formatOf(c.to, ""); err == nil {
			data, err = file.Marshal(set, format)
		}
	}
	if err != nil {
		return c.tell(path, err)
	}
	if _, err := c.stdout.Write(data); err != nil {
		return c.tell(path, err)
	}
	return exitOK
}
