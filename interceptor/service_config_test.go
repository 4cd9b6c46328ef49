package interceptor_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
)

// What a channel has by itself: its service config.

// TestServiceConfigTimeout bounds the call, as it does bare, and not each attempt.
func TestServiceConfigTimeout(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*policy.Policy){
		"retries":         func(*policy.Policy) {},
		"hedged":          func(p *policy.Policy) { p.Hedge.Delay = 300 * ms },
		"attempt timeout": func(p *policy.Policy) { p.AttemptTimeout = 450 * ms },
	} {
		for _, calls := range []int{1, 3} {
			bubble(t, func(t *testing.T, srv *testsrv.Server) {
				it := newInterceptor(t, interceptor.WithPolicy(exact(idempotent, change, func(p *policy.Policy) { p.Retry.MaxAttempts = 5 })))
				conn := srv.Conn(t, append(it.DialOptions(), grpc.WithDefaultServiceConfig(`{"methodConfig":[{"name":[{}],"timeout":"0.5s"}]}`))...)
				srv.Script(testsrv.Put, testsrv.OK())
				for range calls - 1 {
					require.NoError(t, conn.Invoke(t.Context(), testsrv.Put, &testv1.PutRequest{}, new(testv1.PutResponse)))
				}
				if calls > 1 { // another connection, without a service config
					other := srv.Conn(t, it.DialOptions()...)
					require.NoError(t, other.Invoke(t.Context(), testsrv.Put, &testv1.PutRequest{}, new(testv1.PutResponse)))
				}
				srv.Script(testsrv.Put, after(400*ms, down))
				began := time.Now()
				err := conn.Invoke(t.Context(), testsrv.Put, &testv1.PutRequest{}, new(testv1.PutResponse))
				assert.Equal(t, codes.DeadlineExceeded, status.Code(err), name)
				assert.Equal(t, 500*ms, time.Since(began), name)
				var e *interceptor.Error
				require.ErrorAs(t, err, &e)
				assert.Equal(t, interceptor.EndDeadline, e.Reason, name)
			})
		}
	}
}

// TestPolicyOfTheChannel: a retryPolicy that the channel has is obeyed, where no rule says
// anything else. With DialOptions grpc itself does not.
func TestPolicyOfTheChannel(t *testing.T) {
	t.Parallel()
	const config = `{"methodConfig":[{"name":[{"service":"rego.test.v1.TestService"}],
		"retryPolicy":{"maxAttempts":4,"initialBackoff":"0.1s","maxBackoff":"1s","backoffMultiplier":2,"retryableStatusCodes":["UNAVAILABLE","ABORTED"]}}]}`
	aborted := testsrv.Fail(codes.Aborted, "")
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		st := new(policy.Store)
		it := newInterceptor(t, interceptor.WithPolicies(st))
		conn := srv.Conn(t, append(it.DialOptions(), grpc.WithDefaultServiceConfig(config))...)
		pay := func() (*interceptor.Timeline, error) {
			tl := new(interceptor.Timeline)
			return tl, conn.Invoke(t.Context(), testsrv.Pay, &testv1.PayRequest{}, new(testv1.PayResponse), interceptor.WithTimeline(tl))
		}
		srv.Script(testsrv.Pay, down, aborted, down, testsrv.OK())
		tl, err := pay()
		require.NoError(t, err, "%v", tl)
		assert.Len(t, tl.Attempts, 4, "of a method that is not known to be idempotent")
		assert.Equal(t, interceptor.ChannelPolicy, tl.Policy)
		assert.InDelta(t, 100*ms, tl.Attempts[1].Wait, float64(20*ms))
		assert.InDelta(t, 400*ms, tl.Attempts[3].Wait, float64(80*ms))

		srv.Script(testsrv.Pay, testsrv.Do(testsrv.SendHeader(nil), down))
		tl, err = pay()
		require.Error(t, err)
		assert.Equal(t, interceptor.EndCommitted, tl.Reason, "as in grpc: %v", tl)

		require.NoError(t, st.Update(policy.Set{Rules: []policy.Rule{{Methods: []string{"*"}, Policy: exact(func(p *policy.Policy) { p.Name = "of the store" })}}}))
		srv.Script(testsrv.Pay, down)
		tl, err = pay()
		require.Error(t, err)
		assert.Len(t, tl.Attempts, 1, "the store is stronger")
		assert.Equal(t, "of the store", tl.Policy)

		require.NoError(t, st.Update(policy.Set{RetriesOff: true}))
		tl, err = pay()
		require.Error(t, err)
		assert.Len(t, tl.Attempts, 1)
		assert.Equal(t, interceptor.EndDisabled, tl.Reason, "and so are its switches")

		require.NoError(t, st.Update(policy.Set{}))
		srv.Script(testsrv.Upload, down, testsrv.OK())
		upload, err := testv1.NewTestServiceClient(conn).Upload(t.Context())
		require.NoError(t, err)
		require.NoError(t, upload.Send(&testv1.UploadRequest{Id: "1"}))
		_, err = upload.CloseAndRecv()
		require.NoError(t, err)
	})
	bubble(t, func(t *testing.T, srv *testsrv.Server) { // grpc obeys it by itself
		it := newInterceptor(t)
		conn := srv.Conn(t, grpc.WithChainUnaryInterceptor(it.Unary()), grpc.WithDefaultServiceConfig(config))
		srv.Script(testsrv.Pay, aborted)
		require.Error(t, conn.Invoke(t.Context(), testsrv.Pay, &testv1.PayRequest{}, new(testv1.PayResponse)))
		assert.Equal(t, 4, srv.Count(testsrv.Pay))
	})
	bubble(t, func(t *testing.T, srv *testsrv.Server) { // stronger than the proto file
		conn := srv.Conn(t, append(newInterceptor(t).DialOptions(), grpc.WithDefaultServiceConfig(
			strings.ReplaceAll(config, "rego.test.v1.TestService", "rego.test.v1.AnnotatedService")))...)
		var tl interceptor.Timeline
		err := conn.Invoke(t.Context(), testv1.AnnotatedService_Own_FullMethodName, &testv1.OwnRequest{}, new(testv1.OwnResponse), interceptor.WithTimeline(&tl))
		require.Equal(t, codes.Unimplemented, status.Code(err))
		assert.Len(t, tl.Attempts, 1, "%v", &tl)
		assert.Equal(t, interceptor.ChannelPolicy, tl.Policy)
	})
}

// TestImportedHeaderCommits: what fails after a response header has been executed, and is
// not sent again under gRPC's rules.
func TestImportedHeaderCommits(t *testing.T) {
	t.Parallel()
	set, _, err := policy.FromServiceConfig([]byte(`{"methodConfig":[{"name":[{}],"retryPolicy":
		{"maxAttempts":4,"initialBackoff":"0.01s","maxBackoff":"0.01s","backoffMultiplier":1,"retryableStatusCodes":["UNAVAILABLE"]}}]}`))
	require.NoError(t, err)
	late := testsrv.Do(testsrv.SendHeader(nil), testsrv.Delay(10*ms), down)
	bubble(t, func(t *testing.T, srv *testsrv.Server) {
		st, err := policy.NewStore(set)
		require.NoError(t, err)
		client := testv1.NewTestServiceClient(srv.Conn(t, newInterceptor(t, interceptor.WithPolicies(st)).DialOptions()...))
		for _, r := range []struct {
			method string
			step   testsrv.Step
			call   func(opts ...grpc.CallOption) error
		}{
			{testsrv.Pay, late, func(opts ...grpc.CallOption) error {
				_, err := client.Pay(t.Context(), &testv1.PayRequest{}, opts...)
				return err
			}},
			{testsrv.Watch, late, func(opts ...grpc.CallOption) error {
				s, err := client.Watch(t.Context(), &testv1.WatchRequest{}, opts...)
				require.NoError(t, err)
				_, err = s.Recv()
				return err
			}},
			{testsrv.Upload, testsrv.Do(testsrv.RecvAll(), late), func(opts ...grpc.CallOption) error {
				s, err := client.Upload(t.Context(), opts...)
				require.NoError(t, err)
				require.NoError(t, s.Send(&testv1.UploadRequest{Id: "1"}))
				_, err = s.CloseAndRecv()
				return err
			}},
			{testsrv.Chat, testsrv.Do(testsrv.Recv(1), late), func(opts ...grpc.CallOption) error {
				s, err := client.Chat(t.Context(), opts...)
				require.NoError(t, err)
				require.NoError(t, s.Send(&testv1.ChatRequest{Id: "1"}))
				_, err = s.Recv()
				return err
			}},
		} {
			srv.Script(r.method, r.step)
			var tl interceptor.Timeline
			assert.Equal(t, codes.Unavailable, status.Code(r.call(interceptor.WithTimeline(&tl))), r.method)
			assert.Equal(t, 1, srv.Count(r.method), "%v", &tl)
			assert.Equal(t, interceptor.EndCommitted, tl.Reason, "%v", &tl)

			srv.Script(r.method, down, testsrv.OK())
			if r.method == testsrv.Watch || r.method == testsrv.Chat {
				srv.Script(r.method, down, testsrv.Do(testsrv.Send(1)))
			}
			assert.NoError(t, r.call(), "without a header it is retried: %s", r.method)
		}
	})
}
