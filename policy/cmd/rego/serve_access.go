package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/credentials/tls/certprovider"
	"google.golang.org/grpc/credentials/tls/certprovider/pemfile"

	"github.com/rego-go/rego/internal/plainfile"
	"github.com/rego-go/rego/policy/controlplane"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// access is who may connect, and do what.
type access struct {
	cert, key, clientCA string
	clients, operators  []string
	writers             []string
	insecure            bool

	identity certprovider.Provider // nil without TLS
}

// until returns until when the certificate in use is valid; zero without one.
func (a *access) until() time.Time {
	if a.identity == nil {
		return time.Time{}
	}
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	m, err := a.identity.KeyMaterial(ctx)
	if err != nil || len(m.Certs) == 0 {
		return time.Time{}
	}
	leaf, err := x509.ParseCertificate(m.Certs[0].Certificate[0])
	if err != nil {
		return time.Time{}
	}
	return leaf.NotAfter
}

// watched are credentials that tell of connections which were not made.
type watched struct {
	credentials.TransportCredentials
	failed func(peer string, err error)
}

// ServerHandshake is that of credentials.TransportCredentials.
func (w watched) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := w.TransportCredentials.ServerHandshake(conn)
	if err != nil && !errors.Is(err, io.EOF) { // who goes without a word looks whether somebody is here
		w.failed(conn.RemoteAddr().String(), err)
	}
	return c, info, err
}

// Clone is that of credentials.TransportCredentials.
func (w watched) Clone() credentials.TransportCredentials {
	return watched{w.TransportCredentials.Clone(), w.failed}
}

func (a *access) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&a.cert, "cert", "", "`FILE` with the server's certificate chain (PEM), read again when it changes")
	f.StringVar(&a.key, "key", "", "`FILE` with its key")
	f.StringVar(&a.clientCA, "client-ca", "", "`FILE` with the authorities of clients' certificates, which are then required")
	f.StringSliceVar(&a.clients, "clients", nil, "`PATTERN` of certificates that may read the policies of {service}; may be repeated")
	f.StringSliceVar(&a.operators, "operators", nil, "`PATTERN` of certificates that may list clients and read policies; may be repeated")
	f.StringSliceVar(&a.writers, "writers", nil, "`PATTERN` of certificates that may change policies; with {service}, only the policies of that service; may be repeated")
	f.BoolVar(&a.insecure, "insecure", false, "serve without TLS on an address that other machines can reach")
}

// isLoopback reports whether only this machine can reach an address.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// check returns what is wrong with the flags.
func (a *access) check(addr string) error {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return fmt.Errorf("--addr must be HOST:PORT: %w", err)
	}
	switch {
	case (a.cert == "") != (a.key == ""):
		return errors.New("--cert and --key belong together")
	case a.cert == "" && a.clientCA != "":
		return errors.New("--client-ca needs --cert and --key")
	case a.cert == "" && !a.insecure && !isLoopback(addr):
		return errors.New("an address that others can reach needs --cert and --key, or --insecure")
	case a.clientCA == "" && len(a.clients)+len(a.operators)+len(a.writers) > 0:
		return errors.New("--clients, --operators and --writers go by certificates, which --client-ca asks for")
	case a.clientCA != "" && len(a.clients) == 0:
		return errors.New("--client-ca needs --clients, which says what service a certificate is")
	}
	return nil
}

var (
	errNobody   = errors.New("nobody may list clients here: --operators says who may")
	errNoWriter = errors.New("nobody may change policies here: --writers says who may")
)

// options returns who may do what.
func (a *access) options(addr string) ([]controlplane.ServeOption, error) {
	if a.clientCA == "" && isLoopback(addr) {
		return nil, nil
	}
	list := func(context.Context) error { return errNobody }
	if len(a.operators) > 0 {
		may, err := controlplane.PeerIs(a.operators...)
		if err != nil {
			return nil, fmt.Errorf("--operators: %s", strings.TrimPrefix(err.Error(), "controlplane: "))
		}
		list = may
	}
	write, err := a.mayWrite()
	if err != nil {
		return nil, err
	}
	list = orOurselves(list)
	options := []controlplane.ServeOption{
		controlplane.AuthorizeFleet(list),
		controlplane.AuthorizeChange(func(ctx context.Context, service string, writes bool) error {
			if ctx.Value(ourselves{}) != nil && !writes {
				return nil
			}
			denied := write(ctx, service)
			if denied != nil && !writes && list(ctx) == nil {
				return nil // who sees the fleet sees its policies
			}
			return denied
		}),
	}
	if a.clientCA != "" {
		may, err := controlplane.ServiceFromCertificate(a.clients...)
		if err != nil {
			return nil, fmt.Errorf("--clients: %s", strings.TrimPrefix(err.Error(), "controlplane: "))
		}
		options = append(options, controlplane.Authorize(may))
	}
	return options, nil
}

// mayWrite returns the rule for who may change the policies of a service. A pattern with {service}
// is for the policies of that service alone, one without it for all.
func (a *access) mayWrite() (func(ctx context.Context, service string) error, error) {
	if len(a.writers) == 0 {
		return func(context.Context, string) error { return errNoWriter }, nil
	}
	fail := func(err error) (func(context.Context, string) error, error) {
		return nil, fmt.Errorf("--writers: %s", strings.TrimPrefix(err.Error(), "controlplane: "))
	}
	var own, all []string
	for _, p := range a.writers {
		if strings.Contains(p, "{service}") {
			own = append(own, p)
		} else {
			all = append(all, p)
		}
	}
	everywhere, err := controlplane.PeerIs(all...)
	if err != nil {
		return fail(err)
	}
	if len(own) == 0 {
		return func(ctx context.Context, _ string) error { return everywhere(ctx) }, nil
	}
	its, err := controlplane.ServiceFromCertificate(own...)
	if err != nil {
		return fail(err)
	}
	return func(ctx context.Context, service string) error {
		if everywhere(ctx) == nil {
			return nil
		}
		return its(ctx, &regov1.Node{Service: service})
	}, nil
}

// ourselves marks the context of what this program asks itself. Nobody else can make one.
type ourselves struct{}

// orOurselves is a rule by which also this program may.
func orOurselves(may func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if ctx.Value(ourselves{}) != nil {
			return nil
		}
		return may(ctx)
	}
}

// reread is how often the files with certificates are looked at.
const reread = time.Minute

// credentials returns what connections are made with. Files that cannot be read later leave what
// was read before.
func (a *access) credentials(ctx context.Context, addr string) (credentials.TransportCredentials, error) {
	if err := a.check(addr); err != nil {
		return nil, err
	}
	if a.cert == "" {
		return insecure.NewCredentials(), nil
	}
	for _, path := range []string{a.cert, a.key, a.clientCA} {
		if err := readable(path); err != nil {
			return nil, err
		}
	}
	if _, err := tls.LoadX509KeyPair(a.cert, a.key); err != nil {
		return nil, err
	}
	identity, err := pemfile.NewProvider(pemfile.Options{CertFile: a.cert, KeyFile: a.key, RefreshDuration: reread})
	if err != nil {
		return nil, err
	}
	a.identity = identity
	var roots certprovider.Provider
	if a.clientCA != "" {
		if pem, err := os.ReadFile(a.clientCA); err != nil || !x509.NewCertPool().AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate (PEM)", a.clientCA)
		}
		if roots, err = pemfile.NewProvider(pemfile.Options{RootFile: a.clientCA, RefreshDuration: reread}); err != nil {
			return nil, err
		}
		if _, err := rootsOf(ctx, roots); err != nil {
			return nil, fmt.Errorf("%s: %w", a.clientCA, err)
		}
	}
	return credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			return configOf(hello.Context(), identity, roots)
		},
	}), nil
}

// readable returns an error for what is there and is no file, which nobody should wait for.
func readable(path string) error {
	if path == "" {
		return nil
	}
	f, _, err := plainfile.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

// readTimeout is how long the first reading of a file may take.
const readTimeout = 5 * time.Second

func rootsOf(ctx context.Context, p certprovider.Provider) (*x509.CertPool, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	m, err := p.KeyMaterial(ctx)
	if err != nil {
		return nil, err
	}
	return m.Roots, nil
}

// configOf returns how one connection is made.
func configOf(ctx context.Context, identity, roots certprovider.Provider) (*tls.Config, error) {
	m, err := identity.KeyMaterial(ctx)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: m.Certs, NextProtos: []string{"h2"}}
	if roots != nil {
		c.ClientAuth = tls.RequireAndVerifyClientCert
		if c.ClientCAs, err = rootsOf(ctx, roots); err != nil {
			return nil, err
		}
	}
	return c, nil
}
