package interceptor_test

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// getUser makes a call with an interceptor of its own.
func getUser(ctx context.Context, target string) error {
	r, err := interceptor.New(interceptor.WithRules(policy.Rule{
		Methods: []string{"/rego.test.v1.TestService/*"},
		Policy:  policy.Policy{Name: "users", Timeout: 2 * time.Second},
	}))
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(target, append(r.DialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		return err
	}
	defer conn.Close()

	var tl interceptor.Timeline // optional: what happened to this call
	client := testv1.NewTestServiceClient(conn)
	user, err := client.Get(ctx, &testv1.GetRequest{Id: "user-1"}, interceptor.WithTimeline(&tl))
	if err != nil {
		return err
	}
	fmt.Printf("%s after %d attempts: %s\n", user.GetId(), len(tl.Attempts), tl.Reason)
	return nil
}

// A server that fails a call once is asked again. The method may be repeated
// because its proto file says so: idempotency_level = NO_SIDE_EFFECTS.
func Example() {
	server, err := testsrv.New(testsrv.TCP(""))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	server.Script(testsrv.Get, testsrv.Fail(codes.Unavailable, "restarting"), testsrv.OK())

	if err := getUser(context.Background(), server.Addr()); err != nil {
		fmt.Println(err)
	}

	// Output:
	// user-1 after 2 attempts: succeeded
}
