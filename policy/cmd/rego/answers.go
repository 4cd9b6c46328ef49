package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// told returns an error of gRPC in words, with what to do about it. A server that has refused
// something is a failure. One that has not answered is not: whoever asked knows nothing.
func (r *remote) told(err error) error {
	s, ok := statusOf(err)
	if !ok {
		return err
	}
	text := harmless(s.Message()) // one line
	switch s.Code() {
	case codes.Unavailable:
		return fmt.Errorf("server %s does not answer: %s%s", r.addr, withoutPrefix(text), r.hint(text))
	case codes.DeadlineExceeded:
		return fmt.Errorf("server %s has not answered within %v: --timeout gives it longer", r.addr, r.timeout)
	case codes.Canceled:
		return errors.New("the request was cancelled")
	case codes.PermissionDenied:
		return failure{fmt.Errorf("not allowed: %s", text)}
	case codes.Unauthenticated:
		return failure{fmt.Errorf("the server does not know who asks: %s: --cert and --key show it a certificate", text)}
	case codes.Unimplemented:
		return failure{fmt.Errorf("server %s cannot do that: %s: it may be older than this command", r.addr, text)}
	case codes.ResourceExhausted:
		return failure{fmt.Errorf("too much for the server: %s", text)}
	case codes.NotFound:
		if text == "not found" {
			text = whose(r.service) + ": no policies were ever put"
		}
		return failure{errors.New(strings.TrimPrefix(text, "not found: "))}
	case codes.InvalidArgument, codes.Aborted, codes.FailedPrecondition:
		return failure{errors.New(strings.TrimPrefix(text, "invalid: "))}
	default:
		return failure{fmt.Errorf("server %s: %v: %s", r.addr, s.Code(), text)}
	}
}

// statusOf returns the status that an error is; false if it is none.
func statusOf(err error) (*status.Status, bool) {
	if err == nil {
		return nil, false
	}
	with, ok := errors.AsType[interface {
		error
		GRPCStatus() *status.Status
	}](err)
	switch {
	case ok:
		return with.GRPCStatus(), true
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return status.FromContextError(err), true
	}
	return nil, false
}

func codeOf(err error) codes.Code {
	s, _ := statusOf(err)
	return s.Code()
}

// withoutPrefix returns what grpc says of a connection without the words around it.
func withoutPrefix(text string) string {
	for _, prefix := range []string{"connection error: ", "last connection error: ", `desc = "`, "transport: ", "Error while dialing: "} {
		if _, rest, ok := strings.Cut(text, prefix); ok {
			text = rest
		}
	}
	return strings.TrimSuffix(text, `"`)
}

// hint says what may be wrong with the flags if no connection is made.
func (r *remote) hint(text string) string {
	switch {
	case r.secure && strings.Contains(text, "does not look like a TLS handshake"):
		return ": if it has no TLS, --plaintext asks without"
	case r.secure && strings.Contains(text, "signed by unknown authority"):
		return ": --ca says whose certificate it has"
	case r.secure && strings.Contains(text, "cannot validate certificate for"), r.secure && strings.Contains(text, "certificate is valid for"):
		return ": --server-name says which name it has"
	case r.secure && r.cert == "" && (strings.Contains(text, "certificate required") || isCut(text)):
		return ": if it asks for a certificate, --cert and --key show one"
	case !r.secure && isCut(text):
		return ": if it has TLS, --ca says whose certificate it has"
	}
	return ""
}

// isCut reports whether a server has ended a connection before it has answered. Which of these it is
// depends on who was faster.
func isCut(text string) bool {
	for _, words := range []string{"server preface", "reset by peer", "broken pipe", "EOF"} {
		if strings.Contains(text, words) {
			return true
		}
	}
	return false
}

// refusal returns why the server has refused a set; false if it has not.
func refusal(err error) (policy.Faults, bool) {
	s, ok := statusOf(err)
	if !ok {
		return nil, false
	}
	for _, d := range s.Details() {
		r, ok := d.(*regov1.Refusal)
		if !ok || len(r.GetFaults()) == 0 {
			continue
		}
		var faults policy.Faults
		for _, f := range r.GetFaults() {
			faults = append(faults, policy.Fault{Path: f.GetPath(), Text: f.GetText()})
		}
		return faults, true
	}
	return nil, false
}
