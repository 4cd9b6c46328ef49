package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// remote is the server that a command asks, and the service whose policies it is about.
type remote struct {
	*streams
	addr, ca, cert, key, name string
	plaintext                 bool
	timeout                   time.Duration

	service string

	conn   *grpc.ClientConn
	admin  regov1.PolicyAdminServiceClient
	fleet  regov1.FleetServiceClient
	secure bool // it is asked with TLS
}

// fromEnvironment are the flags whose default is a variable of the environment.
var fromEnvironment = map[string]string{"server": "REGO_SERVER", "ca": "REGO_CA", "cert": "REGO_CERT", "key": "REGO_KEY"}

// flags adds the flags that all commands have which ask a server.
func (r *remote) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.addr, "server", "localhost:9901", "`HOST:PORT` of rego serve; or else $REGO_SERVER")
	f.StringVar(&r.ca, "ca", "", "`FILE` with the authorities of the server's certificate (PEM); or else $REGO_CA (default: those of the system)")
	f.StringVar(&r.cert, "cert", "", "`FILE` with a certificate to show to the server; or else $REGO_CERT")
	f.StringVar(&r.key, "key", "", "`FILE` with its key; or else $REGO_KEY")
	f.StringVar(&r.name, "server-name", "", "`NAME` that the server's certificate must have (default: HOST)")
	f.BoolVar(&r.plaintext, "plaintext", false, "ask without TLS (default: only on this machine's own addresses, if no flag is about TLS)")
	f.DurationVar(&r.timeout, "timeout", 10*time.Second, "`TIME` that each request may take")
}

// serviceFlag adds the flag --service.
func (r *remote) serviceFlag(cmd *cobra.Command, usage string) {
	cmd.Flags().StringVar(&r.service, "service", "", usage)
}

// ofService is the flag --service of commands that are about the policies of one.
const ofService = "`SERVICE` whose policies they are (default: those of all that have none of their own)"

// connect makes the connection, which close ends. Nothing is sent before the first request.
func (r *remote) connect(cmd *cobra.Command) error {
	for flag, variable := range fromEnvironment {
		value := os.Getenv(variable)
		if value == "" || cmd.Flags().Changed(flag) || r.plaintext && flag != "server" {
			continue
		}
		if err := cmd.Flags().Set(flag, value); err != nil {
			return err
		}
	}
	if r.timeout <= 0 {
		return fmt.Errorf("--timeout must be above 0, got %v", r.timeout)
	}
	creds, err := r.credentials()
	if err != nil {
		return err
	}
	r.conn, err = grpc.NewClient("dns:///"+r.addr, grpc.WithTransportCredentials(creds), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(mostReceived)))
	if err != nil {
		return err
	}
	r.admin, r.fleet = regov1.NewPolicyAdminServiceClient(r.conn), regov1.NewFleetServiceClient(r.conn)
	return nil
}

// mostReceived is what a response may have: two sets, and what there is to say of them.
const mostReceived = 2*policy.MaxSize + 1<<20

func (r *remote) close() {
	_ = r.conn.Close() // nothing is under way
}

func (r *remote) credentials() (credentials.TransportCredentials, error) {
	host, _, err := net.SplitHostPort(r.addr)
	if err != nil {
		return nil, fmt.Errorf("--server must be HOST:PORT: %w", err)
	}
	aboutTLS := cmp.Or(r.ca, r.cert, r.key, r.name) != ""
	switch {
	case r.plaintext && aboutTLS:
		return nil, errors.New("--plaintext and the flags about TLS exclude each other")
	case (r.cert == "") != (r.key == ""):
		return nil, errors.New("--cert and --key belong together")
	case r.plaintext || !aboutTLS && isLoopback(r.addr):
		return insecure.NewCredentials(), nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cmp.Or(r.name, host)}
	for _, path := range []string{r.ca, r.cert, r.key} {
		if err := readable(path); err != nil {
			return nil, err
		}
	}
	if r.ca != "" {
		pem, err := os.ReadFile(r.ca)
		config.RootCAs = x509.NewCertPool()
		if err != nil || !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate (PEM)", r.ca)
		}
	}
	if r.cert != "" {
		own, err := tls.LoadX509KeyPair(r.cert, r.key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{own}
	}
	r.secure = true
	return credentials.NewTLS(config), nil
}

// asked makes one request, in the time that it may take.
func asked[Q, A any](ctx context.Context, r *remote, request Q, call func(context.Context, Q, ...grpc.CallOption) (A, error)) (A, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	return call(ctx, request)
}

// runs returns what cobra runs for a command that asks a server.
func (r *remote) runs(run func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := r.connect(cmd); err != nil {
			return err
		}
		defer r.close()
		return r.told(run(cmd.Context(), args))
	}
}

// whose says whose policies a service has.
func whose(service string) string {
	if service == "" {
		return "all services that have no policies of their own"
	}
	return fmt.Sprintf("service %q", service)
}
