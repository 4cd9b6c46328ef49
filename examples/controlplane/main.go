// Controlplane plays an incident: a fleet of clients is told by a control plane how to
// retry and hedge, and is told something else while it is under load.
//
// The control plane is the command rego, which it builds: "rego serve" with mTLS, limits and an
// audit log. Three clients call a backend all the time. Each is a process of its own. Then
// hedging is switched off, attempts are cut, somebody with the certificate of one service says
// that it is another, a bad file and a set beyond the limits are refused, a set that only the
// clients can judge is refused by them, and the retries of a policy in code are switched off where
// its owner allows it.
//
// A service of twelve instances tries changes out on some of them, with "rego put --canary". One that
// does harm comes back by itself. Another one goes on to all, although the control plane is killed
// in the middle of it. A method that fails becomes a retry storm, which an operator finds and stops
// with "rego top" and "rego put". At last the control plane is killed, a client is restarted while it
// is down, and the control plane comes back.
//
// After each step it prints what each client uses, as an operator reads it on the client's debug
// page; which it serves until the incident is over.
//
// With -brief it leaves out the change that goes on to all and the storm, which take most of the time.
//
// With -etcd policies are kept in a cluster of three members, whose leader is killed, and two
// replicas of the control plane serve them.
//
// What surprises people: no call fails or waits because of any of it, but those that a canary is
// there for. Policies that cannot be had are those that were had last, after a restart too.
//
//	go run ./controlplane [-etcd] [-brief] [-rego PATH]
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/rego-go/rego/policy/etcd/etcdtest"
)

func main() {
	etcdtest.Main() // this program is also the members of etcd
	if err := run(os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "controlplane:", err)
		os.Exit(1)
	}
}

// run plays the incident or, if args begin with a role, is one of the programs in it.
func run(w io.Writer, args []string) error {
	role := "incident"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		role, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet(role, flag.ExitOnError)
	switch role {
	case "incident":
		rego := flags.String("rego", "", "the `PATH` of the command rego (default: it is built)")
		etcd := flags.Bool("etcd", false, "keep policies in etcd, with two replicas of the control plane")
		brief := flags.Bool("brief", false, "leave out the change that goes on to all and the storm, which take most of the time")
		_ = flags.Parse(args) // which exits
		return incident(w, *rego, *etcd, *brief)
	case "crew":
		var c crew
		flags.IntVar(&c.instances, "instances", 12, "how many instances it has")
		flags.StringVar(&c.certs, "certs", ".", "folder with certificates")
		flags.StringVar(&c.control, "control", "", "addresses of the control plane")
		flags.StringVar(&c.backend, "backend", "", "address of the server to call")
		_ = flags.Parse(args) // which exits
		return c.run(w)
	case "client":
		var c client
		flags.StringVar(&c.name, "name", "client", "name of the instance")
		flags.StringVar(&c.service, "service", "shop", "service that it says it is a part of")
		flags.StringVar(&c.certs, "certs", ".", "folder with certificates")
		flags.StringVar(&c.as, "as", "shop", "name of its certificate")
		flags.StringVar(&c.limits, "limits", "", "file with the limits of its owner")
		flags.StringVar(&c.control, "control", "", "address of the control plane")
		flags.StringVar(&c.backend, "backend", "", "address of the server to call")
		flags.StringVar(&c.snapshot, "snapshot", "", "file to keep the last good policies in")
		flags.BoolVar(&c.pays, "pays", false, "pay, by a policy in code")
		_ = flags.Parse(args) // which exits
		return c.run(w)
	default:
		return fmt.Errorf("no role %q, there are client and crew; without one the incident is played", role)
	}
}
