package twin

import (
	"context"
	"io"

	"google.golang.org/grpc/stats"
)

// listener notes the attempts that are made, as grpc tells of them.
type listener struct{ schedule *schedule }

type listenedKey struct{}

// listened is an attempt that grpc makes.
type listened struct {
	made    *made
	end     func(error)
	begin   *stats.Begin
	replied bool
}

// TagRPC is called once more if grpc sends the attempt again by itself.
func (l *listener) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	m, end := l.schedule.attempt(ctx, false)
	return context.WithValue(ctx, listenedKey{}, &listened{made: m, end: end})
}

func (l *listener) HandleRPC(ctx context.Context, e stats.RPCStats) {
	a, ok := ctx.Value(listenedKey{}).(*listened)
	if !ok {
		return
	}
	note := func(f func()) {
		l.schedule.mu.Lock()
		defer l.schedule.mu.Unlock()
		f()
	}
	switch e := e.(type) {
	case *stats.Begin:
		a.begin = e
	case *stats.OutHeader:
		note(func() { a.made.stream = a.begin.IsClientStream || a.begin.IsServerStream })
	case *stats.InPayload:
		note(func() { a.replied, a.made.answered = true, a.begin.IsServerStream })
	case *stats.End:
		// This is also what becomes of a stream that SendMsg finds ended, however it has.
		err := e.Error
		note(func() {
			a.made.unclear = a.made.stream && !a.made.answered && err == nil
			if err == nil && !a.made.stream && !a.replied {
				err = io.EOF // as grpc returns it
			}
		})
		a.end(err)
	}
}

func (l *listener) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (l *listener) HandleConn(context.Context, stats.ConnStats) {}
