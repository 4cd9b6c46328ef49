package testsrv_test

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

func ExampleNew() {
	srv, err := testsrv.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()
	srv.Script(testsrv.Get,
		testsrv.Do(testsrv.Pushback("70"), testsrv.Fail(codes.Unavailable, "down")),
		testsrv.Do(testsrv.Delay(5*time.Millisecond), testsrv.OK()),
	)

	conn, err := srv.Dial()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	client := testv1.NewTestServiceClient(conn)
	for range 2 {
		res, err := client.Get(context.Background(), &testv1.GetRequest{Id: "ada"})
		fmt.Printf("%v %q\n", status.Code(err), res.GetId())
	}
	for _, a := range srv.Arrivals(testsrv.Get) {
		fmt.Println("attempt", a.Attempt, "ended with", a.Status.Code())
	}
	// Output:
	// Unavailable ""
	// OK "ada"
	// attempt 1 ended with Unavailable
	// attempt 2 ended with OK
}

// Handle decides by what arrives: here, by the id in the request.
func ExampleServer_Handle() {
	srv, err := testsrv.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()
	srv.Handle(testsrv.Pay, func(a testsrv.Arrival) testsrv.Step {
		req := a.Request().(*testv1.PayRequest)
		if req.GetAmountMinor() > 10_000 {
			return testsrv.Fail(codes.FailedPrecondition, "too much")
		}
		return testsrv.Reply(&testv1.PayResponse{Receipt: "receipt of " + req.GetId()})
	})

	conn, err := srv.Dial()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	client := testv1.NewTestServiceClient(conn)
	for _, amount := range []int64{1250, 99_999} {
		res, err := client.Pay(context.Background(), &testv1.PayRequest{Id: "order-7", AmountMinor: amount})
		fmt.Printf("%v %q\n", status.Code(err), res.GetReceipt())
	}
	// Output:
	// OK "receipt of order-7"
	// FailedPrecondition ""
}
