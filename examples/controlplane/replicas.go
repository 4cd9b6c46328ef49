package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rego-go/rego/policy/etcd/etcdtest"
)

// The control plane: one replica that serves files, or two that serve what is in etcd.

// serveFlags are those of rego serve, but for the address. Its files are in the stage's folder.
var serveFlags = [][]string{
	{"--limits", "limits.yaml"},
	{"--cert", "server.pem", "--key", "server-key.pem", "--client-ca", "ca.pem"},
	{"--clients", serviceID + "{service}", "--operators", operatorID, "--writers", operatorID},
	{"--report-every", "1s"},
	{"--log", "json"},
}

// fileFlags say where policies are without etcd.
var fileFlags = [][]string{
	{"--file", "policies.yaml"},
	{"--service", "payments=payments.yaml", "--service", "refunds=payments.yaml", "--service", "search=search.yaml"},
}

// replica is a process of the control plane, or was.
type replica struct {
	*process
	name, addr string
}

// flags are those of a replica, but for its address.
func (s *stage) flags(name string) [][]string {
	where := fileFlags
	if s.etcd != nil {
		where = [][]string{{"--etcd", strings.Join(s.etcd.Endpoints(), ",")}}
	}
	return slices.Concat(where, serveFlags, [][]string{{"--name", name, "--audit", name + ".jsonl"}})
}

// commandLine is what a shell would be told, for people to read.
func commandLine(flags [][]string) string {
	var b strings.Builder
	b.WriteString("  rego serve --addr 127.0.0.1:0")
	for _, words := range flags {
		b.WriteString(" \\\n   ")
		for _, word := range words {
			b.WriteString(" " + quoted(word))
		}
	}
	return b.String()
}

func quoted(word string) string {
	if strings.ContainsAny(word, "{* ") {
		return "'" + word + "'"
	}
	return word
}

// openReplicas starts the control plane, and etcd before it.
func (s *stage) openReplicas(withEtcd bool) (err error) {
	n := 1
	if withEtcd {
		n = 2
		fmt.Fprintln(s.out, "a cluster of three members of etcd starts")
		dir := filepath.Join(s.dir, "etcd")
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if s.etcd, err = etcdtest.Start(dir, 3); err != nil {
			return err
		}
	}
	for i := range n {
		r := &replica{name: fmt.Sprint("rego-", i+1)}
		if r.addr, err = freeAddr(); err != nil {
			return err
		}
		s.replicas = append(s.replicas, r)
	}
	fmt.Fprintf(s.out, "the control plane, in %s:\n%s\n", s.dir, commandLine(s.flags(s.replicas[0].name)))
	return s.startReplicas()
}

// freeAddr returns an address of this machine that a replica can have, again after it was killed.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// startReplicas starts all that do not run, and waits until they say that they serve.
func (s *stage) startReplicas() error {
	for _, r := range s.replicas {
		if r.process == nil {
			if err := s.start(r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *stage) start(r *replica) (err error) {
	args := []string{"serve", "--addr", r.addr}
	for _, flags := range s.flags(r.name) {
		args = append(args, flags...)
	}
	cmd := exec.Command(s.rego, args...)
	cmd.Dir = s.dir
	if r.process, err = start("rego serve", cmd, cmd.StderrPipe); err != nil {
		return err
	}
	return r.until("says that it serves", func() bool { return r.find(`"rego: serving policies"`) != "" })
}

// killReplica kills one without a word.
func (r *replica) killReplica() {
	if r.process != nil {
		r.kill()
		r.process = nil
	}
}

// control is where clients find the control plane.
func (s *stage) control() string {
	if s.via != "" {
		return s.via
	}
	addrs := make([]string, len(s.replicas))
	for i, r := range s.replicas {
		addrs[i] = r.addr
	}
	return strings.Join(addrs, ",")
}

// asked is the replica that the operator talks to: the first that runs.
func (s *stage) asked() *replica {
	for _, r := range s.replicas {
		if r.process != nil {
			return r
		}
	}
	return s.replicas[0]
}

// operate runs the command rego as the operator does, prints the command line and, if show says
// so, what it printed. The code is that of the process.
func (s *stage) operate(show bool, args ...string) (out string, code int, err error) {
	var line strings.Builder
	line.WriteString("  $ rego")
	for _, a := range args {
		line.WriteString(" " + quoted(a))
	}
	if show {
		fmt.Fprintln(s.out, line.String())
	}
	args = append(args, "--server", s.asked().addr, "--ca", "ca.pem", "--cert", "operator.pem", "--key", "operator-key.pem")
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.rego, args...)
	cmd.Dir = s.dir
	b, err := cmd.CombinedOutput()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		code, err = failed.ExitCode(), nil
	}
	if show {
		for l := range strings.Lines(string(b)) {
			fmt.Fprintf(s.out, "    %s\n", strings.TrimRight(l, "\n"))
		}
	}
	return string(b), code, err
}

// put has the operator put a file, and fails if that is refused.
func (s *stage) put(args ...string) error {
	out, code, err := s.operate(true, append([]string{"put"}, args...)...)
	if err == nil && code != 0 {
		err = fmt.Errorf("rego put: exit code %d: %s", code, out)
	}
	return err
}

// traffic is what rego top says of a method.
type traffic struct {
	Method        string
	Amplification float64
}

// top returns what rego top says of the methods of the service search, in its order.
func (s *stage) top() ([]traffic, error) {
	out, code, err := s.operate(false, "top", "--once", "--recent", "--service", "search", "--output", "json")
	if err != nil {
		return nil, err
	}
	if code != 0 {
		return nil, fmt.Errorf("rego top: exit code %d: %s", code, out)
	}
	var list struct{ Methods []traffic }
	err = json.Unmarshal([]byte(out), &list)
	return list.Methods, err
}
