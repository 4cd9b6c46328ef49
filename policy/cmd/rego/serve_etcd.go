package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/credentials/tls/certprovider/pemfile"

	"github.com/rego-go/rego/policy/etcd"
)

// cluster is the etcd that policies are kept in.
type cluster struct {
	endpoints          []string
	prefix             string
	ca, cert, key      string
	user, passwordFile string
}

func (c *cluster) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVar(&c.endpoints, "etcd", nil, "`ENDPOINT` of the etcd that keeps the policies, such as https://etcd-1:2379; may be repeated")
	f.StringVar(&c.prefix, "etcd-prefix", defaultPrefix, "`PREFIX` of all keys in etcd")
	f.StringVar(&c.ca, "etcd-ca", "", "`FILE` with the authorities of etcd's certificates (default: those of the system)")
	f.StringVar(&c.cert, "etcd-cert", "", "`FILE` with the certificate to show to etcd, which is read again when it changes")
	f.StringVar(&c.key, "etcd-key", "", "`FILE` with its key")
	f.StringVar(&c.user, "etcd-user", "", "`NAME` of the user at etcd")
	f.StringVar(&c.passwordFile, "etcd-password-file", "", "`FILE` with the password of --etcd-user")
}

const defaultPrefix = "/rego/"

func (c *cluster) check() error {
	switch {
	case len(c.endpoints) == 0 && (c.prefix != defaultPrefix || c.ca != "" || c.cert != "" || c.key != "" || c.user != "" || c.passwordFile != ""):
		return errors.New("flags that begin with --etcd- need --etcd")
	case (c.cert == "") != (c.key == ""):
		return errors.New("--etcd-cert and --etcd-key belong together")
	case (c.user == "") != (c.passwordFile == ""):
		return errors.New("--etcd-user and --etcd-password-file belong together")
	}
	secure := 0
	for _, e := range c.endpoints {
		if _, _, err := net.SplitHostPort(strings.TrimPrefix(strings.TrimPrefix(e, "http://"), "https://")); err != nil {
			return fmt.Errorf("--etcd must be HOST:PORT, or that after http:// or https://: %w", err)
		}
		if strings.HasPrefix(e, "https://") {
			secure++
		}
	}
	switch {
	case secure > 0 && secure < len(c.endpoints):
		return errors.New("--etcd: all endpoints must be https://, or none")
	case secure == 0 && (c.ca != "" || c.cert != ""):
		return errors.New("--etcd-ca and --etcd-cert need endpoints that begin with https://")
	}
	return nil
}

// open returns a client of the cluster, which connects when it is used.
func (c *cluster) open(ctx context.Context) (*clientv3.Client, error) {
	config := etcd.Config(c.endpoints...)
	config.Context = ctx
	if strings.HasPrefix(c.endpoints[0], "https://") {
		tls, err := c.tls()
		if err != nil {
			return nil, err
		}
		config.TLS = tls
	}
	if c.user != "" {
		password, err := os.ReadFile(c.passwordFile)
		if err != nil {
			return nil, err
		}
		config.Username, config.Password = c.user, strings.TrimSpace(string(password))
	}
	client, err := clientv3.New(config)
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	return client, nil
}

// tls returns how connections to etcd are made.
func (c *cluster) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.ca != "" {
		pem, err := os.ReadFile(c.ca)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate (PEM)", c.ca)
		}
	}
	if c.cert == "" {
		return config, nil
	}
	if _, err := tls.LoadX509KeyPair(c.cert, c.key); err != nil {
		return nil, err
	}
	identity, err := pemfile.NewProvider(pemfile.Options{CertFile: c.cert, KeyFile: c.key, RefreshDuration: reread})
	if err != nil {
		return nil, err
	}
	config.GetClientCertificate = func(asked *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		m, err := identity.KeyMaterial(asked.Context())
		if err != nil {
			return nil, err
		}
		return &m.Certs[0], nil
	}
	return config, nil
}
