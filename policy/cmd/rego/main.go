// Rego is for people who write policies: it tells what is wrong with a file, what the
// file means for a method, writes it in another format, and serves it to clients.
//
//	rego lint FILE...
//	rego explain FILE /pkg.Service/Method
//	rego convert [--to FORMAT] FILE
//	rego serve --file FILE
//
// It is also for operators, who change the policies of a server and see what becomes of them:
//
//	rego get > FILE
//	rego diff FILE
//	rego put [--canary SHARE] FILE
//	rego rollout
//	rego promote
//	rego rollback
//	rego log
//	rego services
//	rego clients
//	rego top
//
// Formats are yaml, json, binary (a message rego.v1.Set) and serviceconfig (gRPC's).
// The extension of a file says which; --from says it for others and for service configs,
// whose files end with .json, too. FILE may be - for the standard input.
//
// It exits with 0, with 1 if there are faults or a server refuses something, and with 2 if it was
// called wrongly, which includes a file that cannot be read and a server that does not answer. It is a module of its own, so that who uses the library
// does not get the command's dependencies.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rego-go/rego/internal/nearest"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// The exit codes.
const (
	exitOK = iota
	exitFaults
	exitUsage
)

// exitCodes is part of the help of each command.
const exitCodes = `Exit codes:
  0  all is well, warnings or not
  1  there are faults, or warnings with --strict; something would be lost; the server refuses;
     or a rollout does not end with the new policies for all clients
  2  the command cannot run: a wrong flag or argument, a file that cannot be read, a server that
     does not answer`

// errFaults ends a command whose faults have been told. Its exit code is 1. Any other error
// is told by run, and its exit code is 2 unless it is a failure.
var errFaults = errors.New("there are faults")

// failure is an error of a command that was called rightly. Its exit code is 1.
type failure struct{ error }

// streams are what a command reads and prints. All text goes through the printers, which
// make it harmless.
type streams struct {
	in  io.Reader
	out printer
	err printer
}

// run runs the command and returns its exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return runIn(context.Background(), args, stdin, stdout, stderr)
}

// runIn is run with a context, which ends commands that would go on.
func runIn(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	s := &streams{stdin, printer{stdout}, printer{stderr}}
	root := newRootCommand(s)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errFaults):
		return exitFaults
	}
	for line := range strings.SplitSeq(strings.TrimSpace(err.Error()), "\n") {
		s.err.line("rego: " + line)
	}
	if _, failed := errors.AsType[failure](err); failed {
		return exitFaults
	}
	return exitUsage
}

// newRootCommand returns the command with its subcommands, each of which has a file.
func newRootCommand(s *streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "rego",
		Short: "Check, explain, convert, serve and change policies",
		Long: `Rego is for people who write policies of github.com/rego-go/rego. It says what is wrong with
a file and what the file means for a method, writes the file in another format, and serves it
to clients. It is also for operators. It changes the policies of a server, for all clients or
for some first. And it shows which clients there are, what they have, and what their calls do.

Formats are yaml, json, binary (a message rego.v1.Set) and serviceconfig (gRPC's). The
extension of a file says its format: .yaml, .yml, .json, .binpb, .pb. For other files, and for
service configs, which end with .json, use --from. FILE may be - for the standard input, which
is yaml unless --from says otherwise.

` + exitCodes,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(cmd.ErrOrStderr())
			if err := cmd.Help(); err != nil {
				return err
			}
			return errors.New("a command is missing")
		},
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(newHelpCommand(root))
	root.AddCommand(newLintCommand(s), newExplainCommand(s), newConvertCommand(s), newServeCommand(s),
		newPutCommand(s), newGetCommand(s), newLogCommand(s), newRollbackCommand(s), newPromoteCommand(s), newRolloutCommand(s),
		newDiffCommand(s), newServicesCommand(s), newClientsCommand(s), newTopCommand(s))
	return root
}

// newHelpCommand is cobra's, but for what it does about a topic that there is not.
func newHelpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about a command",
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return commandNames(root), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return unknownCommand(root, strings.Join(args, " "))
			}
			cmd.InitDefaultHelpFlag()
			cmd.InitDefaultVersionFlag()
			return cmd.Help()
		},
	}
}

func commandNames(root *cobra.Command) []cobra.Completion {
	var names []cobra.Completion
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}

func unknownCommand(root *cobra.Command, name string) error {
	names := commandNames(root)
	if meant := nearest.To(name, slices.Values(names)); meant != "" {
		return fmt.Errorf("unknown command %q: did you mean %s?", name, meant)
	}
	return fmt.Errorf("unknown command %q: must be one of %s", name, strings.Join(names, ", "))
}

// flagError adds what may have been meant, also by a name with one dash.
func flagError(cmd *cobra.Command, err error) error {
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok {
		return err
	}
	word := cmp.Or(unknown.GetSpecifiedShortnames(), unknown.GetSpecifiedName())
	meant := nearest.To(word, func(yield func(string) bool) {
		more := true
		cmd.Flags().VisitAll(func(f *pflag.Flag) { more = more && yield(f.Name) })
	})
	if cmd.Flags().Lookup(word) != nil {
		meant = word
	}
	if meant != "" {
		return fmt.Errorf("%w: did you mean --%s?", err, meant)
	}
	return fmt.Errorf("%w: %s --help lists the flags", err, cmd.CommandPath())
}

// arguments is one of cobra's checks, with the usage beside what it finds.
func arguments(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return fmt.Errorf("%w\nusage: %s", err, cmd.UseLine())
		}
		return nil
	}
}
