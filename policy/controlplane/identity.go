package controlplane

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// Identities returns who the peer is by its certificate: its SPIFFE ID and other URIs, then
// its DNS names. It returns none for a certificate that the server has not verified, and
// none for a peer without TLS.
func Identities(ctx context.Context) []string {
	c := certificate(ctx)
	if c == nil {
		return nil
	}
	var ids []string
	for _, u := range c.URIs {
		ids = append(ids, u.String())
	}
	return append(ids, c.DNSNames...)
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

// ServiceFromCertificate returns a rule for [Authorize]: a client may only be the service in
// its certificate. A pattern is a SPIFFE ID or a DNS name with {service} for one whole
// segment, and * for any other segment that may be anything:
//
//	spiffe://shop.example/ns/*/sa/{service}
//	{service}.clients.internal
//
// node.service must be what {service} stands for, in a pattern that fits a name of the
// certificate. All else must be equal: paths of SPIFFE IDs exactly, and DNS names, which are
// in lower case here, segment by segment. A certificate with more than one URI has no SPIFFE
// ID. The certificate must be verified, so set tls.RequireAndVerifyClientCert: otherwise
// every client is denied. The error says what is wrong with a pattern.
func ServiceFromCertificate(patterns ...string) (func(context.Context, *regov1.Node) error, error) {
	var ps []pattern
	for _, text := range patterns {
		p, err := parsePattern(text)
		if err == nil && p.service < 0 {
			err = errors.New("must have {service} for one segment")
		}
		if err != nil {
			return nil, fmt.Errorf("controlplane: pattern %q: %w", text, err)
		}
		ps = append(ps, p)
	}
	if len(ps) == 0 {
		return nil, errors.New("controlplane: there must be a pattern")
	}
	return func(ctx context.Context, node *regov1.Node) error {
		c := certificate(ctx)
		if c == nil {
			return errNoCertificate
		}
		for _, n := range namesOf(c) {
			for _, p := range ps {
				if p.fits(n) && n.segments[p.service] == node.GetService() {
					return nil
				}
			}
		}
		return status.Errorf(codes.PermissionDenied, "the certificate of %s is not that of service %q", strings.Join(Identities(ctx), ", "), node.GetService())
	}, nil
}

var errNoCertificate = status.Error(codes.Unauthenticated, "there is no certificate that says who this is")

// PeerIs returns a rule for [AuthorizeFleet]: only these identities may. Each is a SPIFFE ID
// or a DNS name that the peer's verified certificate must have, as in
// [ServiceFromCertificate], with * for segments that may be anything. The error says what is
// wrong with an identity.
func PeerIs(identities ...string) (func(context.Context) error, error) {
	var ps []pattern
	for _, text := range identities {
		p, err := parsePattern(text)
		if err == nil && p.service >= 0 {
			err = errors.New("must not have {service}")
		}
		if err != nil {
			return nil, fmt.Errorf("controlplane: identity %q: %w", text, err)
		}
		ps = append(ps, p)
	}
	return func(ctx context.Context) error {
		c := certificate(ctx)
		if c == nil {
			return errNoCertificate
		}
		for _, n := range namesOf(c) {
			if slices.ContainsFunc(ps, func(p pattern) bool { return p.fits(n) }) {
				return nil
			}
		}
		return status.Errorf(codes.PermissionDenied, "%s may not do this", strings.Join(Identities(ctx), ", "))
	}, nil
}

// spiffe is how SPIFFE IDs begin.
const spiffe = "spiffe://"

// segmented is a name, cut where its kind is. The first segment of a SPIFFE ID is the trust
// domain.
type segmented struct {
	spiffe   bool
	segments []string
}

// pattern is a name in which "*" stands for any segment. service is the index of the segment
// that names the service; -1 if none does.
type pattern struct {
	segmented
	service int
}

// Placeholders of patterns.
const (
	anySegment     = "*"
	serviceSegment = "{service}"
)

func (p pattern) fits(n segmented) bool {
	if p.spiffe != n.spiffe || len(p.segments) != len(n.segments) {
		return false
	}
	for i, s := range p.segments {
		if s != n.segments[i] && s != anySegment && i != p.service {
			return false
		}
	}
	return true
}

func parsePattern(text string) (pattern, error) {
	p := pattern{service: -1}
	var rest string
	if rest, p.spiffe = strings.CutPrefix(text, spiffe); p.spiffe {
		p.segments = strings.Split(rest, "/")
	} else {
		p.segments = strings.Split(strings.ToLower(rest), ".")
	}
	for i, s := range p.segments {
		switch {
		case s == serviceSegment && p.service >= 0:
			return p, errors.New("must have {service} once")
		case s == serviceSegment:
			p.service = i
		case s == anySegment:
		case strings.ContainsAny(s, "*{}"):
			return p, fmt.Errorf("* and {service} stand for a whole segment, got %q", s)
		case !p.valid(i, s):
			return p, fmt.Errorf("%q is no segment of a SPIFFE ID (spiffe://domain/path) or of a DNS name", s)
		}
	}
	if d := p.segments[0]; p.spiffe && (d == anySegment || d == serviceSegment) {
		return p, errors.New("the trust domain must be named")
	}
	if p.spiffe && len(p.segments) == 1 {
		return p, errors.New("a SPIFFE ID must have a path")
	}
	return p, nil
}

// valid reports whether s can be the segment at i. No segment is empty, or leads elsewhere in
// a path, or has a character that something else could read in another way.
func (n segmented) valid(i int, s string) bool {
	lower := !n.spiffe || i == 0
	ok := func(c byte) bool {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
			return true
		case 'A' <= c && c <= 'Z':
			return !lower
		}
		return c == '.' && n.spiffe
	}
	for j := range len(s) {
		if !ok(s[j]) {
			return false
		}
	}
	return s != "" && s != "." && s != ".." && len(s) <= maxWord
}

// namesOf returns the names of a certificate that a pattern can fit.
func namesOf(c *x509.Certificate) []segmented {
	var names []segmented
	add := func(n segmented) {
		for i, s := range n.segments {
			if !n.valid(i, s) {
				return
			}
		}
		names = append(names, n)
	}
	if len(c.URIs) == 1 {
		if rest, ok := strings.CutPrefix(spelled(c.URIs[0]), spiffe); ok {
			add(segmented{true, strings.Split(rest, "/")})
		}
	}
	for _, d := range c.DNSNames {
		add(segmented{false, strings.Split(strings.ToLower(d), ".")})
	}
	return names
}

// spelled returns a URI that has nothing but scheme, host and path, and else "".
func spelled(u *url.URL) string {
	if u.Scheme != "spiffe" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "" {
		return ""
	}
	return spiffe + u.Host + u.EscapedPath()
}
