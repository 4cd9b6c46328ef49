package classify_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/rego-go/rego/classify"
	_ "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1" // whose descriptors are looked up
)

func TestFromDescriptor(t *testing.T) {
	t.Parallel()
	rows := []struct {
		method string
		want   classify.Idempotency
		found  bool
	}{
		{"/rego.test.v1.TestService/Get", classify.NoSideEffects, true},
		{"/rego.test.v1.TestService/Put", classify.Idempotent, true},
		{"/rego.test.v1.TestService/Pay", classify.IdempotencyUnknown, true},
		{"/rego.test.v1.TestService/Watch", classify.IdempotencyUnknown, true},
		{"/rego.test.v1.TestService/NoSuch", classify.IdempotencyUnknown, false},
		{"/rego.test.v1.TestService/get", classify.IdempotencyUnknown, false}, // names are case-sensitive
		{"/no.such.Service/Get", classify.IdempotencyUnknown, false},
		{"/rego.test.v1.TestService/", classify.IdempotencyUnknown, false},
		{"/rego.test.v1.TestService", classify.IdempotencyUnknown, false},   // a service
		{"/rego.test.v1.GetRequest", classify.IdempotencyUnknown, false},    // a message
		{"/rego.test.v1.GetRequest/id", classify.IdempotencyUnknown, false}, // a field
		{"/rego.test.v1/TestService/Get", classify.IdempotencyUnknown, false},
		{"//rego.test.v1.TestService/Get", classify.IdempotencyUnknown, false},
		{"", classify.IdempotencyUnknown, false},
		{"/", classify.IdempotencyUnknown, false},
		{"//", classify.IdempotencyUnknown, false},
		{".", classify.IdempotencyUnknown, false},
		{"/./.", classify.IdempotencyUnknown, false},
		{"\x00/\xff", classify.IdempotencyUnknown, false},
		{"/" + strings.Repeat("a.", 1000) + "B/C", classify.IdempotencyUnknown, false},
	}
	for _, r := range rows {
		got, found := classify.DeclaredIdempotency(r.method)
		assert.Equal(t, r.want, got, "%q", r.method)
		assert.Equal(t, r.found, found, "%q", r.method)
	}
}

func TestIdempotency(t *testing.T) {
	t.Parallel()
	rows := []struct {
		i              classify.Idempotency
		retry, isKnown bool
	}{
		{classify.IdempotencyUnknown, false, true},
		{classify.NotIdempotent, false, true},
		{classify.Idempotent, true, true},
		{classify.NoSideEffects, true, true},
		{classify.NoSideEffects + 1, false, false},
		{255, false, false},
	}
	for _, r := range rows {
		assert.Equal(t, r.retry, r.i.AllowsRetry(), "%d", uint8(r.i))
		assert.Equal(t, r.isKnown, r.i.Valid(), "%d", uint8(r.i))
	}
}
