package main

import (
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/file"
)

// convert is the command of that name.
type convert struct {
	*streams
	input
	to    string
	lossy bool
}

func newConvertCommand(s *streams) *cobra.Command {
	c := &convert{streams: s, input: input{streams: s}}
	cmd := &cobra.Command{
		Use:   "convert [flags] FILE",
		Short: "Write a file in another format",
		Long: `Convert writes a file in another format to the standard output.

If a service config cannot express everything, or if the import of one leaves something out, convert
says what. Then it writes nothing, and the exit code is 1: the new file would not mean the same as the
old one. --lossy writes it anyway.

` + exitCodes,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error { return c.run(args[0]) },
	}
	c.flags(cmd)
	cmd.Flags().StringVar(&c.to, "to", file.YAML.String(), "`FORMAT` to write: yaml, json, binary, serviceconfig")
	completes(cmd, "to", formatWords()...)
	cmd.Flags().BoolVar(&c.lossy, "lossy", false, "write the file even if something is lost; convert says what")
	return cmd
}

func (c *convert) run(path string) error {
	to := file.Format(0)
	if c.to != serviceConfig {
		var err error
		if to, err = formatOf(c.to, ""); err != nil {
			return err
		}
	}
	d, err := c.read(path)
	if err != nil {
		return c.tell(path, err)
	}
	data, left, err := write(d.set, to)
	if err != nil {
		return c.tell(path, err)
	}
	c.list(path, "not taken over", d.left)
	c.list(path, "cannot be said", file.Locate(d.data, d.format, left))
	if n := len(d.left) + len(left); n > 0 && !c.lossy {
		c.err.line("rego: nothing is written, since the above would be lost: --lossy writes it all the same")
		return errFaults
	}
	if to == file.Binary && isTerminal(c.out.w) {
		return errors.New("binary is nothing for a terminal: write it to a file")
	}
	_, err = c.out.w.Write(data)
	return err
}

// isTerminal reports whether w may be one: a device that is not the null device.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	null, errNull := os.Stat(os.DevNull)
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && (errNull != nil || !os.SameFile(info, null))
}

// write returns a set in a format, and what that cannot say of it.
func write(s policy.Set, to file.Format) (data []byte, left []policy.Fault, err error) {
	if to == 0 {
		data, left, err = s.ServiceConfig()
	} else {
		data, err = file.Marshal(s, to)
	}
	if to != file.Binary {
		data = harmlessData(data, to != file.YAML)
	}
	return data, left, err
}
