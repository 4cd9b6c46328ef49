package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/rego-go/rego/policy"
)

// The severities of findings.
const (
	severityError   = "error"
	severityWarning = "warning"
)

// finding is something that the command has to say of a file. Its JSON is part of the
// promise: fields may be added, and those that are here stay.
type finding struct {
	Path     string `json:"path"`             // of the file, - for the standard input
	Line     int    `json:"line,omitempty"`   // from 1; absent where the file has none
	Column   int    `json:"column,omitempty"` // in characters, from 1
	Severity string `json:"severity"`         // error or warning
	Check    string `json:"check"`            // what has found it: fault, or the name of a warning
	Field    string `json:"field,omitempty"`  // rules[0].policy.timeout
	Policy   string `json:"policy,omitempty"` // the name of the policy that the field is in
	Message  string `json:"message"`
}

func findingOf(path, check, severity string, f policy.Fault) finding {
	return finding{path, f.Line, f.Column, severity, check, f.Path, f.Policy, f.Text}
}

// String returns a line such as
//
//	policies.yaml:5:14: warning: rules[0]: policy "users": budget: is not defined (unknown-budget)
//
// An error has neither its severity nor a check.
func (f finding) String() string {
	text := f.Path
	if f.Line > 0 {
		text = fmt.Sprintf("%s:%d:%d", f.Path, f.Line, f.Column)
	}
	text += ": "
	if f.Severity != severityError && f.Severity != "" {
		text += f.Severity + ": "
	}
	text += policy.Fault{Path: f.Field, Policy: f.Policy, Text: f.Message}.Error()
	if f.Check != "" && f.Check != checkFault {
		text += " (" + f.Check + ")"
	}
	return text
}

// checkFault is the check that finds what makes a file be refused.
const checkFault = "fault"

// report is what lint prints as JSON.
type report struct {
	Findings []finding `json:"findings"`
	Errors   int       `json:"errors"`
	Warnings int       `json:"warnings"`
}

func newReport(findings []finding) report {
	r := report{Findings: append([]finding{}, findings...)} // a list, also if it is empty
	for _, f := range findings {
		if f.Severity == severityError {
			r.Errors++
		} else {
			r.Warnings++
		}
	}
	return r
}

// format is how a command prints its result.
type format string

const (
	formatText format = "text"
	formatJSON format = "json"
)

// flags adds the flag --output.
func (f *format) flags(cmd *cobra.Command) {
	*f = formatText
	cmd.Flags().Var(f, "output", "print `text` or json")
	completes(cmd, "output", string(formatText), string(formatJSON))
}

func (f *format) String() string { return string(*f) }

// Set is that of pflag.Value.
func (f *format) Set(s string) error {
	if s != string(formatText) && s != string(formatJSON) {
		return fmt.Errorf("must be %s or %s", formatText, formatJSON)
	}
	*f = format(s)
	return nil
}

// Type is that of pflag.Value.
func (f *format) Type() string { return "format" }

// json prints a value as JSON.
func (p printer) json(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = io.WriteString(p.w, string(harmlessData(b, true))+"\n")
	return err
}
