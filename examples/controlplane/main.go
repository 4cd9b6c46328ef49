// Controlplane plays an incident: a fleet of clients is told by a control plane how to
// retry and hedge, and is told something else while it is under load.
//
// It starts a control plane that serves a YAML file, and three clients that call a
// backend all the time, each as a process of its own. Then hedging is switched off,
// attempts are cut, a bad file is refused, a set that only the clients can judge is
// refused by them, the control plane is killed, a client is restarted while it is down,
// and the control plane comes back. After each step it prints what each client uses, as an
// operator reads it on the client's debug page; which it serves until the incident is over.
//
// What surprises people: no call fails or waits because of any of it. Policies that
// cannot be had are those that were had last, after a restart too.
//
//	go run ./controlplane
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	if err := run(os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "controlplane:", err)
		os.Exit(1)
	}
}

// run plays the incident or, if args begin with a role, is one of the programs in it.
func run(w io.Writer, args []string) error {
	if len(args) == 0 {
		return incident(w)
	}
	flags := flag.NewFlagSet(args[0], flag.ExitOnError)
	switch role, rest := args[0], args[1:]; role {
	case "server":
		listen := flags.String("listen", "127.0.0.1:0", "address to listen on")
		file := flags.String("file", "policies.yaml", "policies to serve")
		_ = flags.Parse(rest) // which exits
		return serve(w, *listen, *file)
	case "client":
		var c client
		flags.StringVar(&c.name, "name", "client", "name of the instance")
		flags.StringVar(&c.control, "control", "", "address of the control plane")
		flags.StringVar(&c.backend, "backend", "", "address of the server to call")
		flags.StringVar(&c.snapshot, "snapshot", "", "file to keep the last good policies in")
		_ = flags.Parse(rest)
		return c.run(w)
	default:
		return fmt.Errorf("no role %q, there are server and client; without one the incident is played", role)
	}
}
