package testsrv_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/internal/testsrv"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// TestStreams has a script for the server and one for the client. The client's
// operations are "send x", "close", "recv WANT" with id/payload/attempt/index,
// and "end CODE", which reads the end of the call.
func TestStreams(t *testing.T) {
	t.Parallel()
	unavailable := testsrv.Fail(codes.Unavailable, "down")
	for _, tt := range []struct {
		name   string
		method string
		server testsrv.Step
		client string
	}{
		{"watch", testsrv.Watch, nil, "recv a/a/1/0, end OK"},
		{"watch nothing", testsrv.Watch, testsrv.OK(), "end OK"},
		{"watch three", testsrv.Watch, testsrv.Send(3), "recv a/a/1/0, recv a/a/1/1, recv a/a/1/2, end OK"},
		{"watch broken off", testsrv.Watch, testsrv.Do(testsrv.Send(1), unavailable), "recv a/a/1/0, end Unavailable"},
		{"watch a message", testsrv.Watch, testsrv.Do(testsrv.SendMsg(&testv1.WatchResponse{Id: "m", Attempt: 7}), testsrv.Send(1)),
			"recv m//7/0, recv a/a/1/1, end OK"},
		{"watch a last message", testsrv.Watch, testsrv.Do(testsrv.Reply(&testv1.WatchResponse{Id: "m"}), unavailable), "recv m//1/0, end OK"},
		{"watch has none to read", testsrv.Watch, testsrv.Recv(1), "end Internal"},

		{"upload", testsrv.Upload, nil, "send a, send b, send c, close, recv a/abc/1/0"},
		{"upload nothing", testsrv.Upload, nil, "close, recv //1/0"},
		{"upload one", testsrv.Upload, nil, "send a, close, recv a/a/1/0"},
		{"upload cut short", testsrv.Upload, testsrv.Do(testsrv.Recv(2), testsrv.OK()), "send a, send b, recv a/ab/1/0"},
		{"upload read in parts", testsrv.Upload, testsrv.Do(testsrv.Recv(1), testsrv.RecvAll(), testsrv.OK()), "send a, send b, close, recv a/ab/1/0"},
		{"upload refused", testsrv.Upload, unavailable, "end Unavailable"},
		{"upload failed after one", testsrv.Upload, testsrv.Do(testsrv.Recv(1), unavailable), "send a, end Unavailable"},
		{"upload with a reply", testsrv.Upload, testsrv.Do(testsrv.RecvAll(), testsrv.Reply(&testv1.UploadResponse{Id: "r"})), "send a, close, recv r//1/0"},
		{"upload too short", testsrv.Upload, testsrv.Recv(3), "send a, close, end InvalidArgument"},
		{"upload has none to send", testsrv.Upload, testsrv.Send(1), "end Internal"},

		{"chat", testsrv.Chat, nil, "send a, recv a/a/1/0, send b, recv b/b/1/1, close, end OK"},
		{"chat unheard", testsrv.Chat, testsrv.OK(), "end OK"},
		{"chat ended by the server", testsrv.Chat, testsrv.Do(testsrv.Recv(1), testsrv.Send(2)), "send a, recv a/a/1/0, recv a/a/1/1, end OK"},
		{"chat broken off", testsrv.Chat, testsrv.Do(testsrv.Recv(1), testsrv.Send(1), testsrv.Recv(1), unavailable),
			"send a, recv a/a/1/0, send b, end Unavailable"},
		{"chat from the server", testsrv.Chat, testsrv.Do(testsrv.SendMsg(&testv1.ChatResponse{Id: "hi"}), testsrv.Echo()),
			"recv hi//1/0, send a, recv a/a/1/1, close, end OK"},
		{"chat to the end", testsrv.Chat, testsrv.Do(testsrv.RecvAll(), testsrv.Send(1), testsrv.RecvAll()), "send a, send b, close, recv b/b/1/0, end OK"},
		{"chat with a foreign message", testsrv.Chat, testsrv.SendMsg(&testv1.WatchResponse{}), "end Internal"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := testsrv.Start(t)
			s.Script(tt.method, tt.server)
			call := open(t, client(t, s), tt.method)
			for op := range strings.SplitSeq(tt.client, ", ") {
				verb, arg, _ := strings.Cut(op, " ")
				switch verb {
				case "send":
					require.NoError(t, call.send(arg), op)
				case "close":
					require.NoError(t, call.close(), op)
				case "recv":
					got, err := call.recv()
					require.NoError(t, err, op)
					require.Equal(t, arg, got, op)
				case "end":
					_, err := call.recv()
					if errors.Is(err, io.EOF) {
						err = nil
					}
					require.Equal(t, arg, status.Code(err).String(), "%s: %v", op, err)
				default:
					require.Fail(t, "unknown operation", op)
				}
			}
		})
	}
}

// call is a streaming call of any kind, with messages written as text.
type call struct {
	send  func(text string) error
	close func() error
	recv  func() (string, error)
}

type answer interface {
	GetId() string
	GetPayload() []byte
	GetAttempt() int32
}

func text(a answer, err error) (string, error) {
	if err != nil {
		return "", err
	}
	var index int32
	if i, ok := a.(interface{ GetIndex() int32 }); ok {
		index = i.GetIndex()
	}
	return fmt.Sprintf("%s/%s/%d/%d", a.GetId(), a.GetPayload(), a.GetAttempt(), index), nil
}

func open(t *testing.T, c testv1.TestServiceClient, method string) call {
	t.Helper()
	switch method {
	case testsrv.Watch:
		watch, err := c.Watch(t.Context(), &testv1.WatchRequest{Id: "a", Payload: []byte("a")})
		require.NoError(t, err)
		return call{recv: func() (string, error) { return text(watch.Recv()) }}
	case testsrv.Upload:
		upload, err := c.Upload(t.Context())
		require.NoError(t, err)
		return call{
			send: func(x string) error {
				return upload.Send(&testv1.UploadRequest{Id: x, Payload: []byte(x)})
			},
			close: upload.CloseSend,
			recv: func() (string, error) {
				res := &testv1.UploadResponse{}
				return text(res, upload.RecvMsg(res))
			},
		}
	default:
		chat, err := c.Chat(t.Context())
		require.NoError(t, err)
		return call{
			send: func(x string) error {
				return chat.Send(&testv1.ChatRequest{Id: x, Payload: []byte(x)})
			},
			close: chat.CloseSend,
			recv:  func() (string, error) { return text(chat.Recv()) },
		}
	}
}

func TestStreamsRecordWhatTheyReceive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testsrv.Start(t)
		s.Script(testsrv.Chat, testsrv.Do(testsrv.Recv(1), testsrv.Fail(codes.Unavailable, "down")), testsrv.Echo())
		c := client(t, s)
		for range 2 {
			chat := open(t, c, testsrv.Chat)
			require.NoError(t, chat.send("a"))
			_, err := chat.recv()
			if err != nil {
				continue // the first attempt
			}
			require.NoError(t, chat.send("b"))
			require.NoError(t, chat.close())
			_, err = chat.recv()
			require.NoError(t, err)
			_, err = chat.recv()
			require.ErrorIs(t, err, io.EOF)
		}
		_, err := open(t, c, testsrv.Watch).recv()
		require.NoError(t, err)

		synctest.Wait()
		arrivals := s.Arrivals(testsrv.Chat)
		require.Len(t, arrivals, 2)
		require.Len(t, arrivals[0].Received, 1)
		assert.False(t, arrivals[0].HalfClosed)
		assert.Equal(t, codes.Unavailable, arrivals[0].Status.Code())
		require.Len(t, arrivals[1].Received, 2)
		equal(t, &testv1.ChatRequest{Id: "a", Payload: []byte("a")}, arrivals[1].Request())
		equal(t, &testv1.ChatRequest{Id: "b", Payload: []byte("b")}, arrivals[1].Received[1])
		assert.True(t, arrivals[1].HalfClosed)

		watch := s.Arrivals(testsrv.Watch)
		require.Len(t, watch, 1)
		equal(t, &testv1.WatchRequest{Id: "a", Payload: []byte("a")}, watch[0].Request())
	})
}
