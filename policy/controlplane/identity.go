package controlplane

import (
	"context"

	"crypto/x509"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// Identities returns who the peer is by its certificate: the SPIFFE ID and other URIs, then
// the DNS names. Of a certificate that was not verified it returns none, nor of a peer
// without TLS.
func Identities(ctx context.Context) []string {
	var ids []string
	cert := certificate(ctx)
	if cert == nil {
		return nil
	}
	for _, u := range cert.URIs {
		ids = append(ids, u.String())
	}
	return append(ids, cert.DNSNames...)
}

// certificate returns the peer's own certificate if the server has verified it, and else nil.
func certificate(ctx context.Context) *x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 || len(info.State.VerifiedChains[0]) == 0 {
		return nil
	}
	return info.State.VerifiedChains[0][0]
}
