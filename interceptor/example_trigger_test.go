package interceptor_test

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/rego-go/rego/hedge"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// queueTrigger hedges only while the queue of a server is long, which the server reports in
// the trailer of each answer. A short queue is no reason for an attempt to be slow, so then
// another one would be as slow.
type queueTrigger struct {
	after time.Duration // that an attempt runs before there is a hedge
	long  int64

	length atomic.Int64 // as it was last reported
}

func (t *queueTrigger) Next(c hedge.Call) (time.Duration, hedge.State) {
	if t.length.Load() < t.long {
		return 0, hedge.Declined
	}
	return t.after - c.SinceLast, hedge.Ready
}

func (t *queueTrigger) Ended(a hedge.EndedAttempt) {
	for _, report := range a.Trailer.Get("queue-length") { // none if the attempt was cancelled
		if n, err := strconv.ParseInt(report, 10, 64); err == nil {
			t.length.Store(n)
		}
	}
}

// MaxExtraLoad beside a trigger bounds what that may cause. It is left out here, since the
// budget of a client that has made three calls has nothing yet.
func ExampleWithTrigger() {
	server, err := testsrv.New(testsrv.TCP(""))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	queue := func(length string) testsrv.Step {
		return testsrv.Do(testsrv.Trailer(metadata.Pairs("queue-length", length)), testsrv.OK())
	}
	server.Script(testsrv.Get, queue("2"), queue("40"), testsrv.Hang(), queue("3"), queue("2"))

	rego, err := interceptor.New(
		interceptor.WithTrigger("queue length", &queueTrigger{after: 5 * time.Millisecond, long: 10}),
		interceptor.WithPolicy(policy.Policy{Retry: policy.Retry{MaxAttempts: 2}, Hedge: policy.Hedge{Trigger: "queue length"}}),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, err := grpc.NewClient(server.Addr(), append(rego.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	client := testv1.NewTestServiceClient(conn)
	for range 4 {
		var tl interceptor.Timeline
		if _, err := client.Get(context.Background(), &testv1.GetRequest{}, interceptor.WithTimeline(&tl)); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Print("attempts: ", len(tl.Attempts))
		for _, d := range tl.Denials {
			fmt.Print(", no hedge: ", d.Reason)
		}
		fmt.Println()
	}

	// Output:
	// attempts: 1, no hedge: trigger
	// attempts: 1, no hedge: trigger
	// attempts: 2
	// attempts: 1, no hedge: trigger
}
