package slogobs_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/interceptor/slogobs"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

func Example() {
	text := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || len(groups) > 0 && a.Key != "reason" {
			return slog.Attr{} // it is another one each time
		}
		return a
	}}))
	it, err := interceptor.New(interceptor.WithRecorder(slogobs.New(text)))
	if err != nil {
		panic(err)
	}
	srv, err := testsrv.New()
	if err != nil {
		panic(err)
	}
	defer srv.Close()
	srv.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "down"), testsrv.Echo())
	conn, err := srv.Dial(it.DialOptions()...)
	if err != nil {
		panic(err)
	}
	_, err = testv1.NewTestServiceClient(conn).Get(context.Background(), &testv1.GetRequest{})
	fmt.Println(err)
	// Output:
	// level=INFO msg="rego: call retried" left_out=0 call.reason=succeeded
	// <nil>
}
