package main

import (
	"github.com/spf13/cobra"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/file"
)

// checkLimits is the check that finds what exceeds the owner's limits.
const checkLimits = "limits"

// owner is who sets limits, in a file.
type owner struct {
	path   string
	limits policy.Limits
}

// flags adds the flag --limits.
func (o *owner) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.path, "limits", "", "`FILE` with the owner's limits (rego.v1.Limits), which a set must not exceed")
}

// read reads the limits, if there are any. Faults are told as those of a file of policies.
func (o *owner) read(s *streams) error {
	if o.path == "" {
		return nil
	}
	l, err := file.ReadLimits(o.path)
	if faults, other := faultsOf(err); other == nil && len(faults) > 0 {
		for _, f := range faults {
			s.err.line(findingOf(o.path, checkFault, severityError, f).String())
		}
		return errFaults
	}
	o.limits = l
	return err
}

// exceeded returns what of a file exceeds the limits.
func (o *owner) exceeded(d document) (policy.Faults, error) {
	if o.path == "" {
		return nil, nil
	}
	table, err := d.set.Compile()
	if err != nil {
		return nil, err
	}
	faults, err := faultsOf(o.limits.Check(table))
	return file.Locate(d.data, d.format, faults), err
}
