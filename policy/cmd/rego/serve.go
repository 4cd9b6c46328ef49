package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/rego-go/rego/policy/controlplane"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// serve is the command of that name.
type serve struct {
	*streams
	file, snapshot       string
	services             map[string]string // files by service
	addr, metrics, audit string
	logs                 string
	maxClients           int
	reportEvery          time.Duration
	name                 string
	owner                owner
	access               access
	cluster              cluster
	page                 pageFlags
}

func newServeCommand(s *streams) *cobra.Command { return newServeCommandFor(&serve{streams: s}) }

func newServeCommandFor(v *serve) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve [flags]",
		Short: "Serve policies to clients",
		Long: `Serve sends the policies in a file to every client that asks (rego.v1.PolicyDiscoveryService), and
each change of the file. If the file is gone or has faults, nothing changes: what was served before
stays. Operators can ask which clients are connected, and what they have in force
(rego.v1.FleetService).

Without flags it serves a built-in set without rules at localhost:9901. On an address that other
machines can reach it needs --cert and --key. With --client-ca clients have to show a certificate, and
--clients says which service a certificate stands for: "spiffe://shop.example/ns/*/sa/{service}" or
"{service}.clients.internal". --operators says who may list clients. Without it nobody may, unless the
address is this machine's own and there is no --client-ca.

It ends within three seconds after SIGINT and SIGTERM, and opens --audit again on SIGHUP.
docs/operations.md has a systemd unit and Kubernetes manifests.

` + exitCodes,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return v.run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.StringVar(&v.file, "file", "", "`FILE` of the policies (default: a built-in set without rules)")
	f.StringToStringVar(&v.services, "service", nil, "`SERVICE=FILE` for a service with a separate file; may be repeated")
	f.StringVar(&v.addr, "addr", "localhost:9901", "`ADDRESS` to serve at")
	f.StringVar(&v.metrics, "metrics", "", "`ADDRESS` for Prometheus, at /metrics (default: none)")
	f.StringVar(&v.snapshot, "snapshot", "", "`FILE` that keeps the last good policies of --file for the next start")
	f.StringVar(&v.audit, "audit", "", "`FILE` for what was denied and changed, one JSON object per line (default: the log)")
	f.StringVar(&v.logs, "log", "text", "write the log as `text` or json")
	f.IntVar(&v.maxClients, "max-clients", 100_000, "most clients at a time")
	f.DurationVar(&v.reportEvery, "report-every", 5*time.Second, "how often clients report what their calls did; 0 for never: then rollouts cannot be judged")
	f.StringVar(&v.name, "name", hostname(), "`NAME` of this replica, as operators see it")
	completes(cmd, "log", "text", "json")
	v.owner.flags(cmd)
	v.access.flags(cmd)
	v.cluster.flags(cmd)
	v.page.flags(cmd)
	return cmd
}

// shutdown is how long calls may go on once the server ends. Streams to clients do not end by
// themselves, and clients that have one ended come back at once, to another replica.
const shutdown = 2 * time.Second

// oldest is how long a connection lasts. Then its client makes another one, without a word: so a
// replica that is new gets its share of the clients, and certificates are looked at again.
const oldest = 30 * time.Minute

//go:embed default.yaml
var builtIn []byte

func (v *serve) run(ctx context.Context) error {
	log, err := v.logger()
	if err != nil {
		return err
	}
	if err := v.owner.read(v.streams); err != nil {
		return err
	}
	if err := v.check(); err != nil {
		return err
	}
	counted := newMetrics()
	audit, err := openAudit(v.audit, log)
	if err != nil {
		return err
	}
	defer audit.close()
	creds, err := v.access.credentials(ctx, v.addr)
	if err != nil {
		return err
	}
	creds = watched{creds, func(peer string, err error) {
		counted.handshakes.Inc()
		audit.handshake(peer, err)
	}}
	k, err := v.open(ctx, log)
	if err != nil {
		return err
	}
	defer k.close()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	healthy := health.NewServer()
	follow := &follower{ctx: ctx, audit: audit, kept: k, ready: func(ready bool) { healthy.SetServingStatus("", servingStatus(ready)) }}
	follow.ready(false)
	options, err := v.access.options(v.addr)
	if err != nil {
		return err
	}
	options = append(slices.Concat(options, k.options), controlplane.MaxClients(v.maxClients), controlplane.ReportEvery(v.reportEvery),
		controlplane.LogTo(log), controlplane.Guarded(v.owner.limits.Check),
		controlplane.OnDenial(func(d controlplane.Denial) {
			counted.deny(d)
			audit.denied(d)
		}),
		controlplane.OnChange(audit.made), controlplane.OnDecision(audit.decided), controlplane.OnService(follow.watch))
	s, err := controlplane.NewReplica(k.repo, v.name, options...)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // it only waits
	g := newServer(s, creds, healthy)

	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	go reopen(ctx, audit, hangups)
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", v.addr)
	if err != nil {
		return failure{err}
	}
	metricsAt, err := v.serveMetrics(ctx, counted, s)
	if err != nil {
		_ = l.Close() // it was not used
		return failure{err}
	}
	pageAt, err := v.servePage(ctx, s, log)
	if err != nil {
		_ = l.Close()
		return failure{err}
	}
	log.Info("rego: serving policies", "addr", l.Addr().String(), "metrics", metricsAt, "page", pageAt, "version", version(),
		"tls", v.access.cert != "", "client_certificates", v.access.clientCA != "")
	for service, st := range s.Services() {
		follow.watch(service, st)
	}
	if k.client != nil {
		go whenReady(ctx, s, follow.ready)
	}
	ended := make(chan error, 1)
	go func() { ended <- g.Serve(l) }()
	select {
	case err := <-ended:
		return failure{err}
	case <-ctx.Done():
	}
	log.Info("rego: ending")
	healthy.Shutdown()
	late := time.AfterFunc(shutdown, g.Stop)
	g.GracefulStop()
	late.Stop()
	return nil
}

// whenReady tells that the policies have been read.
func whenReady(ctx context.Context, s *controlplane.Replica, ready func(bool)) {
	select {
	case <-s.Ready():
		ready(true)
	case <-ctx.Done():
	}
}

// hostname returns the name of this machine; empty if it has none.
func hostname() string {
	name, _ := os.Hostname()
	return name
}

// check returns what is wrong with flags that do not go together.
func (v *serve) check() error {
	if err := v.cluster.check(); err != nil {
		return err
	}
	if err := v.page.check(); err != nil {
		return err
	}
	if v.maxClients < 1 {
		return fmt.Errorf("--max-clients must be at least 1, got %d", v.maxClients)
	}
	if v.reportEvery < 0 {
		return fmt.Errorf("--report-every must not be negative, got %v", v.reportEvery)
	}
	if len(v.cluster.endpoints) > 0 && (v.file != "" || len(v.services) > 0 || v.snapshot != "") {
		return errors.New("--etcd is where policies are kept: --file, --service and --snapshot do not go with it")
	}
	return nil
}

// newServer returns a server with all services.
func newServer(s *controlplane.Replica, creds credentials.TransportCredentials, healthy *health.Server) *grpc.Server {
	g := grpc.NewServer(append(controlplane.ServerOptions(), grpc.Creds(creds), grpc.KeepaliveParams(keepalive.ServerParameters{
		Time: 30 * time.Second, Timeout: 15 * time.Second, MaxConnectionAge: oldest, MaxConnectionAgeGrace: shutdown,
	}))...)
	regov1.RegisterPolicyDiscoveryServiceServer(g, s)
	regov1.RegisterFleetServiceServer(g, s.Fleet())
	regov1.RegisterPolicyAdminServiceServer(g, s.Admin())
	healthv1.RegisterHealthServer(g, healthy)
	reflection.Register(g)
	return g
}

// reopen opens the audit log again at each hangup, until ctx is done.
func reopen(ctx context.Context, audit *audit, hangups <-chan os.Signal) {
	for {
		select {
		case <-hangups:
			audit.again()
		case <-ctx.Done():
			return
		}
	}
}

func servingStatus(ready bool) healthv1.HealthCheckResponse_ServingStatus {
	if ready {
		return healthv1.HealthCheckResponse_SERVING
	}
	return healthv1.HealthCheckResponse_NOT_SERVING
}

func (v *serve) logger() (*slog.Logger, error) {
	switch v.logs {
	case "text":
		return slog.New(slog.NewTextHandler(v.err.w, nil)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(v.err.w, nil)), nil
	}
	return nil, fmt.Errorf("--log must be text or json, got %q", v.logs)
}
