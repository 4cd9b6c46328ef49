package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"

	"google.golang.org/grpc"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	"github.com/rego-go/rego/policy/file"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// serve is a control plane: a file, a store that it is watched into, and a server of
// that store. In production it has credentials, and more than one replica.
func serve(w io.Writer, listen, path string) error {
	log := slog.New(slog.NewTextHandler(w, nil))
	store := new(policy.Store)
	watcher, err := file.Watch(path, store, file.WithLogger(log))
	if err != nil {
		return err
	}
	defer watcher.Close()
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "listening on", l.Addr())
	g := grpc.NewServer(controlplane.ServerOptions()...)
	srv := controlplane.NewServer(store, nil)
	regov1.RegisterPolicyDiscoveryServiceServer(g, srv)
	regov1.RegisterFleetServiceServer(g, srv.Fleet())
	return g.Serve(l)
}
