package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// The control plane, which is the command rego as a process, and how an operator sees it.

// build builds the command, whose module is beside the library's, and returns its path.
func build(dir string) (string, error) {
	root, err := output("go", "list", "-m", "-f", "{{.Dir}}", "github.com/rego-go/rego")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "rego")
	_, err = output("go", "build", "-C", filepath.Join(root, "policy", "cmd", "rego"), "-o", path, ".")
	return path, err
}

// output returns what a command prints, in one line.
func output(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).Output()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(append([]string{name}, args...), " "), err, failed.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}

// audited is a line of the audit log.
type audited struct {
	Event, Service    string
	Source            string
	Version           string   // of what was refused
	Faults            []string // why it was
	Identities        []string // of who was denied
	Peer, Instance    string
	Method, Code, Why string
}

// audit returns the newest line of the audit logs that is looked for.
func (s *stage) audit(is func(audited) bool) (found audited, ok bool) {
	var text []byte
	for _, r := range s.replicas {
		b, _ := os.ReadFile(filepath.Join(s.dir, r.name+".jsonl")) // a replica may have denied nothing yet
		text = append(text, b...)
	}
	for line := range bytes.Lines(text) {
		var a audited
		if json.Unmarshal(line, &a) == nil && is(a) { // the last line may be half written
			found, ok = a, true
		}
	}
	return found, ok
}

// awaitAudit waits for a line of the audit log.
func (s *stage) awaitAudit(what string, is func(audited) bool) (found audited, err error) {
	_, err = await("the audit log tells of "+what, func() (ok bool) {
		found, ok = s.audit(is)
		return ok
	})
	return found, err
}

// ask calls the fleet service with the certificate of the operator.
func (s *stage) ask(call func(context.Context, regov1.FleetServiceClient) error) error {
	creds, err := credentialsOf(s.dir, "operator")
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(s.asked().addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return call(ctx, regov1.NewFleetServiceClient(conn))
}

// listed returns the clients of a service.
func (s *stage) listed(service string) (list []*regov1.Client, err error) {
	err = s.ask(func(ctx context.Context, fleet regov1.FleetServiceClient) error {
		r, err := fleet.ListClients(ctx, &regov1.ListClientsRequest{Service: service})
		list = r.GetClients()
		return err
	})
	return list, err
}

// awaitListed waits until all clients of a service are as looked for, and returns them.
func (s *stage) awaitListed(what, service string, n int, is func(*regov1.Client) bool) (list []*regov1.Client, err error) {
	var last error
	_, err = await(what, func() bool {
		if list, last = s.listed(service); last != nil {
			return false
		}
		fit := 0
		for _, c := range list {
			if is(c) {
				fit++
			}
		}
		return fit == n
	})
	if err != nil {
		err = errors.Join(err, last)
	}
	return list, err
}
