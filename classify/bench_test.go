package classify_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rego-go/rego/classify"
)

// TestClassifyAllocatesNothing: success is the path of every call, and a failed
// attempt is no time to make work either.
func TestClassifyAllocatesNothing(t *testing.T) {
	ok, unavailable := ended(codes.OK), ended(codes.Unavailable)
	listed := classify.First(classify.Codes(codes.Unavailable), classify.GRPC)
	trailer := metadata.Pairs(classify.PushbackKey, "12")
	rows := []struct {
		name string
		f    func()
	}{
		{"GRPC, OK", func() { classify.GRPC.Classify(&ok) }},
		{"GRPC, UNAVAILABLE", func() { classify.GRPC.Classify(&unavailable) }},
		{"First, Codes", func() { listed.Classify(&unavailable) }},
		{"HintOf, nothing", func() { classify.HintOf(nil, unavailable.Status) }},
		{"HintOf, pushback", func() { classify.HintOf(trailer, unavailable.Status) }},
	}
	for _, r := range rows {
		assert.Zero(t, testing.AllocsPerRun(100, r.f), r.name)
	}
}

func BenchmarkGRPC(b *testing.B) {
	for _, code := range []codes.Code{codes.OK, codes.Unavailable} {
		b.Run(code.String(), func(b *testing.B) {
			a := ended(code)
			b.ReportAllocs()
			for b.Loop() {
				classify.GRPC.Classify(&a)
			}
		})
	}
}

func BenchmarkHintOf(b *testing.B) {
	plain := ended(codes.Unavailable).Status
	detailed, err := plain.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)})
	if err != nil {
		b.Fatal(err)
	}
	trailer := metadata.Pairs(classify.PushbackKey, "12")
	b.Run("nothing", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			classify.HintOf(nil, plain)
		}
	})
	b.Run("pushback", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			classify.HintOf(trailer, plain)
		}
	})
	b.Run("RetryInfo", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			classify.HintOf(nil, detailed)
		}
	})
}
