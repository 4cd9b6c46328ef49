package testsrv

import "google.golang.org/grpc"

// TB is the part of testing.TB that [Start] needs. It is spelled out so that
// programs which use this package do not import testing.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Cleanup(func())
}

// Start is [New] for tests: the server is closed when the test ends, and an
// error ends the test. In a synctest bubble, pass the bubble's own t.
func Start(t TB, opts ...Option) *Server {
	t.Helper()
	s, err := New(opts...)
	if err != nil {
		t.Fatalf("testsrv: %v", err)
	}
	t.Cleanup(s.Close)
	return s
}

// Conn is [Server.Dial] for tests: the connection is closed when the test
// ends, before the server is.
func (s *Server) Conn(t TB, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	cc, err := s.Dial(opts...)
	if err != nil {
		t.Fatalf("testsrv: dial: %v", err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}
