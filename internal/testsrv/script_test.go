package testsrv_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

func client(t *testing.T, s *testsrv.Server, opts ...grpc.DialOption) testv1.TestServiceClient {
	t.Helper()
	return testv1.NewTestServiceClient(s.Conn(t, opts...))
}

// equal compares messages as require.Equal cannot: by what they say.
func equal(t *testing.T, want, got proto.Message) {
	t.Helper()
	if !proto.Equal(want, got) {
		require.Failf(t, "messages differ", "want %v\ngot  %v", want, got)
	}
}

func TestUnscriptedEchoes(t *testing.T) {
	t.Parallel()
	s := testsrv.Start(t)
	c := client(t, s)

	get, err := c.Get(t.Context(), &testv1.GetRequest{Id: "a", Payload: []byte("x")})
	require.NoError(t, err)
	equal(t, &testv1.GetResponse{Id: "a", Payload: []byte("x"), Attempt: 1}, get)

	put, err := c.Put(t.Context(), &testv1.PutRequest{Id: "b", Payload: []byte("y")})
	require.NoError(t, err)
	equal(t, &testv1.PutResponse{Id: "b", Payload: []byte("y"), Attempt: 1}, put)

	pay, err := c.Pay(t.Context(), &testv1.PayRequest{Id: "c", AmountMinor: 1250})
	require.NoError(t, err)
	equal(t, &testv1.PayResponse{Id: "c", AmountMinor: 1250, Attempt: 1}, pay)

	get, err = c.Get(t.Context(), &testv1.GetRequest{})
	require.NoError(t, err)
	equal(t, &testv1.GetResponse{Attempt: 2}, get) // an empty request is answered too
}

func TestScriptStepByStep(t *testing.T) {
	t.Parallel()
	s := testsrv.Start(t)
	c := client(t, s)
	s.Script(testsrv.Get,
		testsrv.Fail(codes.Unavailable, "down"),
		testsrv.Do(), // falls off the end: OK
		testsrv.Fail(codes.Aborted, "last"),
	)
	for i, want := range []codes.Code{codes.Unavailable, codes.OK, codes.Aborted, codes.Aborted} {
		_, err := c.Get(t.Context(), &testv1.GetRequest{})
		assert.Equal(t, want, status.Code(err), "attempt %d", i+1)
	}
	_, err := c.Put(t.Context(), &testv1.PutRequest{})
	require.NoError(t, err, "the script is that of Get alone")

	s.Script(testsrv.Get, testsrv.Fail(codes.DataLoss, "anew"), nil)
	for i, want := range []codes.Code{codes.DataLoss, codes.OK, codes.OK} {
		_, err := c.Get(t.Context(), &testv1.GetRequest{})
		assert.Equal(t, want, status.Code(err), "attempt %d of the second script", i+1)
	}

	s.Script(testsrv.Get)
	res, err := c.Get(t.Context(), &testv1.GetRequest{})
	require.NoError(t, err)
	assert.Equal(t, int32(8), res.GetAttempt(), "arrivals are counted through")
}

func TestHandleChoosesByArrival(t *testing.T) {
	t.Parallel()
	s := testsrv.Start(t)
	c := client(t, s)
	s.Script(testsrv.Pay, testsrv.Fail(codes.Internal, "replaced"))
	s.Handle(testsrv.Pay, func(a testsrv.Arrival) testsrv.Step {
		req := a.Request().(*testv1.PayRequest)
		if len(a.Metadata.Get("key")) == 0 {
			return testsrv.Fail(codes.InvalidArgument, "no key")
		}
		return testsrv.Reply(&testv1.PayResponse{Receipt: req.GetId() + "-" + a.Metadata.Get("key")[0]})
	})

	_, err := c.Pay(t.Context(), &testv1.PayRequest{Id: "p"})
	assert.Equal(t, codes.InvalidArgument, status.Code(err))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "key", "k7")
	res, err := c.Pay(ctx, &testv1.PayRequest{Id: "p"})
	require.NoError(t, err)
	equal(t, &testv1.PayResponse{Receipt: "p-k7", Attempt: 2}, res)
}

func TestReply(t *testing.T) {
	t.Parallel()
	s := testsrv.Start(t)
	c := client(t, s)
	msg := &testv1.GetResponse{Id: "fixed"}
	s.Script(testsrv.Get, testsrv.Reply(msg))
	for want := range int32(2) {
		res, err := c.Get(t.Context(), &testv1.GetRequest{Id: "a"})
		require.NoError(t, err)
		equal(t, &testv1.GetResponse{Id: "fixed", Attempt: want + 1}, res)
	}
	equal(t, &testv1.GetResponse{Id: "fixed"}, msg) // the script's own message stays

	s.Script(testsrv.Get, testsrv.Reply(&testv1.GetResponse{Attempt: 40}))
	res, err := c.Get(t.Context(), &testv1.GetRequest{Id: "a"})
	require.NoError(t, err)
	equal(t, &testv1.GetResponse{Attempt: 40}, res)
}

func TestFailKeepsCodeTextAndDetails(t *testing.T) {
	t.Parallel()
	s := testsrv.Start(t)
	c := client(t, s)
	retry := &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)}
	quota := &errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{{Subject: "s"}}}
	s.Script(testsrv.Get,
		testsrv.Fail(codes.ResourceExhausted, "full", retry, quota),
		testsrv.Fail(codes.OK, "not an error"),
	)

	_, err := c.Get(t.Context(), &testv1.GetRequest{})
	st := status.Convert(err)
	assert.Equal(t, codes.ResourceExhausted, st.Code())
	assert.Equal(t, "full", st.Message())
	require.Len(t, st.Details(), 2)
	equal(t, retry, st.Details()[0].(proto.Message))
	equal(t, quota, st.Details()[1].(proto.Message))

	res, err := c.Get(t.Context(), &testv1.GetRequest{Id: "a"})
	require.NoError(t, err)
	equal(t, &testv1.GetResponse{Id: "a", Attempt: 2}, res)
}

func TestMetadata(t *testing.T) {
	t.Parallel()
	md := func(k, v string) metadata.MD { return metadata.Pairs(k, v) }
	fail := testsrv.Fail(codes.Unavailable, "down")
	for _, tt := range []struct {
		name            string
		step            testsrv.Step
		header, trailer metadata.MD // what the client must get; nil none of its keys
	}{
		{"header then ok", testsrv.Do(testsrv.Header(md("h", "1")), testsrv.Header(md("h", "2"))), metadata.Pairs("h", "1", "h", "2"), nil},
		{"header then fail", testsrv.Do(testsrv.Header(md("h", "1")), fail), md("h", "1"), nil},
		{"header sent then fail", testsrv.Do(testsrv.Header(md("h", "1")), testsrv.SendHeader(md("h", "2")), fail), metadata.Pairs("h", "1", "h", "2"), nil},
		{"trailers only", testsrv.Do(testsrv.Trailer(md("t", "1")), fail), nil, md("t", "1")},
		{"trailer after ok", testsrv.Do(testsrv.Trailer(md("t", "1")), testsrv.OK()), nil, md("t", "1")},
		{"pushback", testsrv.Do(testsrv.Pushback("70"), fail), nil, md("grpc-retry-pushback-ms", "70")},
		{"pushback twice", testsrv.Do(testsrv.Pushback("1", "x"), fail), nil, metadata.Pairs("grpc-retry-pushback-ms", "1", "grpc-retry-pushback-ms", "x")},
		{"after the end", testsrv.Do(fail, testsrv.Trailer(md("t", "1"))), nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := testsrv.Start(t)
			c := client(t, s)
			s.Script(testsrv.Get, tt.step)
			s.Script(testsrv.Chat, tt.step)

			var header, trailer metadata.MD
			_, _ = c.Get(t.Context(), &testv1.GetRequest{}, grpc.Header(&header), grpc.Trailer(&trailer))
			assert.Equal(t, tt.header, only(header, "h"), "unary header")
			assert.Equal(t, tt.trailer, only(trailer, "t", "grpc-retry-pushback-ms"), "unary trailer")

			chat, err := c.Chat(t.Context())
			require.NoError(t, err)
			_, err = chat.Recv()
			require.Error(t, err)
			header, _ = chat.Header()
			assert.Equal(t, tt.header, only(header, "h"), "stream header")
			assert.Equal(t, tt.trailer, only(chat.Trailer(), "t", "grpc-retry-pushback-ms"), "stream trailer")
		})
	}
}

// only picks the scripted keys from what grpc adds to.
func only(md metadata.MD, keys ...string) metadata.MD {
	var picked metadata.MD
	for _, k := range keys {
		if v := md.Get(k); len(v) > 0 {
			picked = metadata.Join(picked, metadata.MD{k: v})
		}
	}
	return picked
}

func TestDelayIsExact(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testsrv.Start(t)
		c := client(t, s)
		s.Script(testsrv.Get, testsrv.Do(testsrv.Delay(5*time.Millisecond), testsrv.Delay(2*time.Hour)))
		start := time.Now()
		_, err := c.Get(t.Context(), &testv1.GetRequest{})
		require.NoError(t, err)
		assert.Equal(t, 2*time.Hour+5*time.Millisecond, time.Since(start))
	})
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]testsrv.Step{
		"delay":      testsrv.Do(testsrv.Delay(time.Hour), testsrv.Fail(codes.Internal, "too far")),
		"hang":       testsrv.Hang(),
		"wait":       testsrv.Do(testsrv.Wait(nil), testsrv.Fail(codes.Internal, "too far")),
		"do in do":   testsrv.Do(testsrv.Do(testsrv.Hang()), testsrv.Fail(codes.Internal, "too far")),
		"no workers": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := testsrv.Start(t)
				c := client(t, s)
				s.Script(testsrv.Get, step)
				if step == nil {
					s.SetWorkers(testsrv.Workers{Work: time.Hour})
				}

				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := c.Get(ctx, &testv1.GetRequest{})
				assert.Equal(t, codes.DeadlineExceeded, status.Code(err))
				assert.Equal(t, time.Second, time.Since(start))

				ctx, cancel = context.WithCancel(t.Context())
				time.AfterFunc(time.Minute, cancel)
				_, err = c.Get(ctx, &testv1.GetRequest{})
				assert.Equal(t, codes.Canceled, status.Code(err))

				synctest.Wait()
				arrivals := s.Arrivals(testsrv.Get)
				require.Len(t, arrivals, 2)
				for i, want := range []codes.Code{codes.DeadlineExceeded, codes.Canceled} {
					assert.True(t, arrivals[i].Cancelled, "attempt %d", i+1)
					assert.Equal(t, want, arrivals[i].Status.Code(), "attempt %d", i+1)
				}
				assert.Equal(t, time.Second, arrivals[0].Ended.Sub(start))
				assert.Equal(t, start.Add(time.Second), arrivals[0].Deadline)
				assert.Equal(t, time.Minute, arrivals[1].Ended.Sub(arrivals[1].Time))
				assert.Zero(t, arrivals[1].Deadline)
			})
		})
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testsrv.Start(t)
		c := client(t, s)
		gate := make(chan struct{})
		s.Script(testsrv.Get, testsrv.Wait(gate))
		time.AfterFunc(time.Minute, func() { close(gate) })
		start := time.Now()
		_, err := c.Get(t.Context(), &testv1.GetRequest{})
		require.NoError(t, err)
		assert.Equal(t, time.Minute, time.Since(start))
	})
}

func TestMisuseIsInternal(t *testing.T) {
	t.Parallel()
	s := testsrv.Start(t)
	c := client(t, s)
	for name, step := range map[string]testsrv.Step{
		"send on unary":     testsrv.Send(1),
		"send msg on unary": testsrv.SendMsg(&testv1.GetResponse{}),
		"recv on unary":     testsrv.Recv(1),
		"recv all on unary": testsrv.RecvAll(),
		"foreign reply":     testsrv.Reply(&testv1.PutResponse{}),
		"no reply":          testsrv.Reply(nil),
	} {
		s.Script(testsrv.Get, step)
		_, err := c.Get(t.Context(), &testv1.GetRequest{})
		assert.Equal(t, codes.Internal, status.Code(err), name)
		assert.ErrorContains(t, err, "testsrv: "+testsrv.Get, name)
	}
}
