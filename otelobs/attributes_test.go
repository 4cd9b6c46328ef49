package otelobs

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestServer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		target string
		host   string
		port   int
	}{
		{"users.internal:443", "users.internal", 443},
		{"users.internal", "users.internal", 0},
		{"10.0.0.1:443", "10.0.0.1", 443},
		{"[::1]:443", "::1", 443},
		{"::1", "::1", 0},
		{":50051", "", 50051},
		{"dns:users.internal:443", "users.internal", 443},
		{"dns:///users.internal:443", "users.internal", 443},
		{"dns:///users.internal", "users.internal", 0},
		{"dns://8.8.8.8/users.internal:443", "users.internal", 443}, // not the DNS server
		{"dns:///[::1]:443", "::1", 443},
		{"passthrough:///bufnet", "bufnet", 0},
		{"unix:run/users.sock", "run/users.sock", 0},
		{"unix:///run/users.sock", "/run/users.sock", 0},
		{"unix-abstract:users", "users", 0},
		{"xds:///users", "users", 0},
		{"users.internal:https", "users.internal:https", 0}, // a named port is not a number
		{"users.internal:99999", "users.internal:99999", 0},
		{"ipv4:10.0.0.1:443,10.0.0.2:443", "ipv4:10.0.0.1:443,10.0.0.2:443", 0}, // no one server
		{"", "", 0},
	} {
		host, port := server(c.target)
		assert.Equal(t, c.host, host, c.target)
		assert.Equal(t, c.port, port, c.target)
	}
}
