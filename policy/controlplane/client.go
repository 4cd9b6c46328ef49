package controlplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// Node is the identity of a client, as the server lists it.
type Node struct {
	// Service that the client is a part of. A server may have a set of its own for it.
	// It must not be empty.
	Service string
	// Instance of the service. Empty means the name of the host.
	Instance string
	// Labels that operators tell clients apart by: zone, build.
	Labels map[string]string
}

// How a client deals with a server that is not there.
const (
	// answerTimeout is how long a server may take from being dialled to its first set.
	answerTimeout = 15 * time.Second
	// pingAfter and pingTimeout are the keepalive: a connection that is silent for so
	// long is probed, and closed if no answer comes. Servers must allow it, see
	// [ServerOptions].
	pingAfter   = 20 * time.Second
	pingTimeout = 10 * time.Second
	// pause is the least time between two sets that are taken. Of those that come
	// faster only the newest is.
	pause = 100 * time.Millisecond
)

// reconnect is the wait between two connections: the first is 1 to 2 s, then twice as
// long each time, up to 15 to 30 s. A set that has arrived starts it again.
var reconnect = policy.Backoff{Initial: 2 * time.Second, Multiplier: 2, Max: 30 * time.Second, Jitter: policy.JitterEqual}

// Option configures [Watch].
type Option interface{ apply(*Watcher) }

type optionFunc func(*Watcher)

func (f optionFunc) apply(w *Watcher) { f(w) }

// WithDialOptions adds options of the channel to the server. Credentials must be among
// them. Those of [Watch] itself (keepalive, the largest message, no service config) come
// first, so that they can be overridden. Leave rego's interceptors out: the channel that
// policies come over is not to depend on them. Default: none.
func WithDialOptions(opts ...grpc.DialOption) Option {
	return optionFunc(func(w *Watcher) { w.dialOptions = append(w.dialOptions, opts...) })
}

// WithLogger sets where the client reports sets that it took or refused, and that the
// server is lost or back. Default, and what nil means: slog.Default.
func WithLogger(l *slog.Logger) Option {
	return optionFunc(func(w *Watcher) { w.log = cmp.Or(l, slog.Default()) })
}

// Watcher keeps a store at what a server has.
type Watcher struct {
	node        *regov1.Node
	store       *policy.Store
	source      *policy.Source
	log         *slog.Logger
	target      string
	dialOptions []grpc.DialOption
	stop        context.CancelFunc
	done        chan struct{}

	said string // what was logged last, so that it is said once
}

// Watch keeps st at what the server at target has for node, until the Watcher is
// closed. It does not wait for the server: until that has answered, st has what it has.
// A connection that breaks, or on which nothing comes within 15 s, is made again after
// a wait of 1 to 2 s, which doubles up to 30 s. Of sets that come faster than ten a
// second only the newest is taken. The error tells what is wrong with node or with the
// dial options.
func Watch(target string, node Node, st *policy.Store, opts ...Option) (*Watcher, error) {
	w := &Watcher{
		target: target,
		store:  st,
		source: st.Source("control plane " + target),
		log:    slog.Default(),
		done:   make(chan struct{}),
		dialOptions: []grpc.DialOption{
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout}),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(policy.MaxSize)),
			grpc.WithDisableServiceConfig(),
		},
	}
	for _, o := range opts {
		if o != nil {
			o.apply(w)
		}
	}
	if node.Service == "" {
		return nil, errors.New("controlplane: node: service must not be empty")
	}
	if node.Instance == "" {
		node.Instance, _ = os.Hostname()
	}
	w.node = &regov1.Node{Service: node.Service, Instance: node.Instance, Labels: maps.Clone(node.Labels)}
	conn, err := w.dial()
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	go w.run(ctx, conn)
	return w, nil
}

// dial returns a channel that connects when it is first used. Each stream has one of its
// own, so that the waits between them are those of run, and not the channel's besides.
func (w *Watcher) dial() (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(w.target, w.dialOptions...)
	if err != nil {
		return nil, fmt.Errorf("controlplane: %w", err)
	}
	return conn, nil
}

// Close ends the watch and returns when it has ended. The store keeps what it has.
func (w *Watcher) Close() error {
	w.stop()
	<-w.done
	return nil
}

// run has one stream after the other, the first over conn, until ctx is done.
func (w *Watcher) run(ctx context.Context, conn *grpc.ClientConn) {
	defer close(w.done)
	for failures := 0; ; failures++ {
		answered := false
		var err error
		if conn == nil {
			conn, err = w.dial()
		}
		if err == nil {
			answered, err = w.stream(ctx, conn)
			_ = conn.Close() // its streams have ended
			conn = nil
		}
		if ctx.Err() != nil {
			return
		}
		if answered {
			failures = 0
		}
		w.source.Lost(err)
		w.say(slog.LevelWarn, "rego: the control plane is out of reach, policies stay as they are", "error", err)
		wait := time.NewTimer(reconnect.Delay(failures, nil))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return
		}
	}
}

// stream has the server send sets until it ends, and returns why it did and whether a
// set arrived.
func (w *Watcher) stream(ctx context.Context, conn *grpc.ClientConn) (answered bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(answerTimeout, func() { cancel(errNoAnswer) })
	defer silence.Stop()
	s, err := regov1.NewPolicyDiscoveryServiceClient(conn).StreamPolicies(ctx)
	if err == nil {
		have := w.store.Current().Set()
		err = s.Send(&regov1.StreamPoliciesRequest{Node: w.node, Version: have.Version, Revision: have.Revision})
	}
	if err != nil {
		return false, cmp.Or(context.Cause(ctx), err)
	}

	// The reader ends when the stream does, which is at the latest when this function
	// has returned.
	newest := make(chan *regov1.StreamPoliciesResponse, 1)
	ended := make(chan error, 1)
	go func() { ended <- read(s, newest) }()
	for err == nil {
		select {
		case r := <-newest:
			answered = true
			answer := w.take(r)
			silence.Reset(answerTimeout) // the server may not read
			if s.Send(answer) != nil {
				err = <-ended
			}
			silence.Stop()
			rest := time.NewTimer(pause)
			select {
			case <-rest.C:
			case err = <-ended:
				rest.Stop()
			}
		case err = <-ended:
		}
	}
	select {
	case r := <-newest: // the last word counts
		answered = true
		w.take(r)
	default:
	}
	return answered, cmp.Or(context.Cause(ctx), err)
}

// errNoAnswer is why a stream was given up on which nothing came.
var errNoAnswer = fmt.Errorf("no answer within %v", answerTimeout)

// read keeps the newest response at hand, and returns how the stream ended.
func read(s regov1.PolicyDiscoveryService_StreamPoliciesClient, newest chan *regov1.StreamPoliciesResponse) error {
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		select {
		case <-newest: // it was not taken in time
		default:
		}
		newest <- r // there is room: nobody else puts something in
	}
}

// take offers the store what the server has sent, and returns the answer.
func (w *Watcher) take(r *regov1.StreamPoliciesResponse) *regov1.StreamPoliciesRequest {
	version, revision := r.GetSet().GetVersion(), r.GetSet().GetRevision()
	set, err := policy.FromProto(r.GetSet())
	switch {
	case r.GetSet() == nil:
		err = errors.New("the response has no set")
		w.source.Refuse("", err)
	case err != nil:
		w.source.Refuse(version, err)
	default:
		err = w.source.Update(set)
	}
	answer := &regov1.StreamPoliciesRequest{Nonce: r.GetNonce(), Faults: faultsOf(err)}
	have := w.store.Current().Set()
	answer.Version, answer.Revision = have.Version, have.Revision
	if err != nil {
		w.say(slog.LevelError, "rego: policies of the control plane are refused", "version", version, "revision", revision, "in_force", have.Version, "error", err)
	} else {
		w.say(slog.LevelInfo, "rego: policies of the control plane are in force", "version", version, "revision", revision)
	}
	return answer
}

// say logs what has not been said just before.
func (w *Watcher) say(level slog.Level, text string, args ...any) {
	if line := fmt.Sprint(append([]any{text}, args...)...); line != w.said {
		w.said = line
		w.log.Log(context.Background(), level, text, args...)
	}
}
