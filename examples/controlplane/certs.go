package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc/credentials"
)

// Who is who: each service has a certificate with its SPIFFE ID, and so has the operator.
const (
	serviceID  = "spiffe://shop.example/sa/"
	operatorID = "spiffe://shop.example/operators/oncall"
)

// authority signs certificates, and writes them and their keys into a folder. In production it
// is somebody else, such as SPIRE or cert-manager.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(dir string) (*authority, error) {
	a := &authority{dir: dir}
	return a, a.sign("ca", x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
}

// server writes the certificate of a server on this machine.
func (a *authority) server(name string) error {
	return a.sign(name, x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
}

// client writes the certificate of somebody with a SPIFFE ID.
func (a *authority) client(name, id string) error {
	u, err := url.Parse(id)
	if err != nil {
		return err
	}
	return a.sign(name, x509.Certificate{URIs: []*url.URL{u}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

// sign writes NAME.pem and NAME-key.pem. The first certificate is the authority's own.
func (a *authority) sign(name string, c x509.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	c.SerialNumber, c.Subject.CommonName = big.NewInt(now.UnixNano()), name
	c.NotBefore, c.NotAfter = now.Add(-time.Minute), now.Add(time.Hour)
	if a.cert == nil {
		a.cert, a.key = &c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, &c, a.cert, key.Public(), a.key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(writePEM(filepath.Join(a.dir, name+".pem"), "CERTIFICATE", der),
		writePEM(filepath.Join(a.dir, name+"-key.pem"), "PRIVATE KEY", secret))
}

func writePEM(path, kind string, data []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600)
}

// identity returns what somebody in a folder of certificates has, and whom they trust.
func identity(dir, name string) (own tls.Certificate, trusted *x509.CertPool, err error) {
	if own, err = tls.LoadX509KeyPair(filepath.Join(dir, name+".pem"), filepath.Join(dir, name+"-key.pem")); err != nil {
		return own, nil, err
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return own, nil, err
	}
	trusted = x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(ca) {
		return own, nil, errors.New("ca.pem has no certificate")
	}
	return own, trusted, nil
}

// credentialsOf returns what a client shows to the control plane, and what it asks of it.
func credentialsOf(dir, name string) (credentials.TransportCredentials, error) {
	own, trusted, err := identity(dir, name)
	if err != nil {
		return nil, err
	}
	return credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{own}, RootCAs: trusted, MinVersion: tls.VersionTLS13}), nil
}
