package controlplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// Node is the identity of a client, as the server lists it.
type Node struct {
	// Service that the client is a part of. A server may have a separate set for it. It must
	// not be empty.
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
	// settled is how long a stream must have lasted to be made again at once when it ends,
	// within rejoin. What is behind that is mostly a server that is restarted, or a proxy or
	// a server that bounds the age of connections.
	settled = 10 * time.Second
	rejoin  = 300 * time.Millisecond
	// brief is how many times the wait doubles for a server that answers, and ends streams
	// before they have settled: 4 to 8 s is the longest.
	brief = 2
	// patience is how long the end of such a stream is no loss, until there is a new one.
	patience = 5 * time.Second
	// beats is how many heartbeats a server may leave out.
	beats = 3
)

// reconnect is the wait between two connections: the first is 1 to 2 s, then twice as
// long each time, up to 15 to 30 s, or to 4 to 8 s if the server answers. A stream that has
// settled starts it again.
var reconnect = policy.Backoff{Initial: 2 * time.Second, Multiplier: 2, Max: 30 * time.Second, Jitter: policy.JitterEqual}

// Option configures [Watch].
type Option interface{ apply(*Watcher) }

type optionFunc func(*Watcher)

func (f optionFunc) apply(w *Watcher) { f(w) }

// WithDialOptions adds options for the channel to the server. They must contain credentials.
// The options of Watch itself (keepalive, the largest message, no service config) come
// first, so yours can override them. Do not give rego's interceptors: the channel would
// depend on the policies that it brings. Default: none.
func WithDialOptions(opts ...grpc.DialOption) Option {
	return optionFunc(func(w *Watcher) { w.dialOptions = append(w.dialOptions, opts...) })
}

// WithLogger sets where the client reports sets that it took or refused, and that the server
// is lost or back. Default, and what nil means: slog.Default.
func WithLogger(l *slog.Logger) Option {
	return optionFunc(func(w *Watcher) { w.log = cmp.Or(l, slog.Default()) })
}

// WithReports makes the client report what its calls did, if the server asks for it (see
// [ReportEvery]): for each method how many calls ended and how, and the retries, hedges and
// denials. count returns the totals since the program began, such as
// Interceptor.MethodCounts of package interceptor. A report has what was added since the
// last one, by the set that was in force. Calls that end just after another set has come
// into force count for the set before.
//
// Nothing is reported twice. What cannot be sent because there is no stream is sent on the
// next one, for up to four sets. With more sets, the counts of the oldest are dropped. Some
// counts are not reported: those from before the server first asked, those on their way when
// a stream broke, and those after the last report when the program ends.
//
// count is called by one goroutine at a time, for each report and for each set. Its panics
// are not recovered. If it is slow, it holds up reports and [Watcher.Close], but neither
// sets nor heartbeats. If it takes longer than 250 ms when another set comes into force,
// what was counted since the last call is not reported. Default, and what nil means: the
// client reports nothing.
func WithReports(count func() []policy.MethodCounts) Option {
	return optionFunc(func(w *Watcher) {
		if w.reporter = nil; count != nil {
			w.reporter = newReporter(count, w.store)
		}
	})
}

// Watcher keeps a store up to date with a server.
type Watcher struct {
	node        *regov1.Node
	store       *policy.Store
	source      *policy.Source
	log         *slog.Logger
	target      string
	dialOptions []grpc.DialOption
	reporter    *reporter // nil if the client reports nothing
	stop        context.CancelFunc
	done        chan struct{}

	mu   sync.Mutex
	said string // what was logged last, so that it is said once
}

// Watch keeps st up to date with what the server at target has for node, until the Watcher
// is closed. It does not wait for the server: until that has answered, st keeps what it has.
//
// A connection is made again if it breaks, if nothing comes on it within 15 s, or if its
// heartbeats stop for a minute. The wait before that is 1 to 2 s, and doubles up to 30 s. If
// the connection had served for 10 s or more, it is made again at once, and the store stays
// StateCurrent for up to 5 s. If sets come faster than ten a second, only the newest is
// taken. The error says what is wrong with node or with the dial options.
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
	if w.reporter != nil {
		go w.reporter.run(ctx) // until Close
	}
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
	if w.reporter != nil {
		<-w.reporter.done
	}
	return nil
}

// run has one stream after the other, the first over conn, until ctx is done.
func (w *Watcher) run(ctx context.Context, conn *grpc.ClientConn) {
	defer close(w.done)
	var unsaid error // why the last stream ended, while that is no loss
	for failures := 0; ; {
		began := time.Now()
		end, heard := error(nil), false
		if conn == nil {
			conn, end = w.dial()
		}
		if end == nil {
			heard, end = w.session(ctx, conn, unsaid)
			_ = conn.Close() // its streams have ended
			conn = nil
		}
		if ctx.Err() != nil {
			return
		}
		var wait time.Duration
		if heard && time.Since(began) >= settled {
			failures, unsaid = 0, end
			wait = rand.N(rejoin)
		} else {
			if heard {
				failures = min(failures, brief)
			}
			unsaid = nil
			w.lost(end)
			wait = reconnect.Delay(failures, nil)
			failures++
		}
		again := time.NewTimer(wait)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return
		}
	}
}

// lost reports that the server is out of reach.
func (w *Watcher) lost(err error) {
	w.source.Lost(err)
	w.sayLost(err)
}

func (w *Watcher) sayLost(err error) {
	w.say(slog.LevelWarn, "rego: the control plane is out of reach, policies stay as they are", "error", err)
}

// take offers the store what the server has sent, and returns the answer.
func (w *Watcher) take(r *received) *regov1.StreamPoliciesRequest {
	version, revision := r.GetSet().GetVersion(), r.GetSet().GetRevision()
	err := r.refused
	var set policy.Set
	if err == nil {
		set, err = policy.FromProto(r.GetSet())
	}
	switch {
	case r.GetSet() == nil:
		err = errors.New("the response has no set")
		w.source.Refuse("", err)
	case err != nil:
		w.source.Refuse(version, err)
	default:
		err = w.source.Update(set)
	}
	answer := w.answer(r.GetNonce())
	answer.Faults = faultsOf(err)
	if err != nil {
		w.say(slog.LevelError, "rego: policies of the control plane are refused", "version", version, "revision", revision, "in_force", answer.GetVersion(), "error", err)
	} else {
		w.sayInForce(version, revision)
	}
	return answer
}

// sayInForce logs that a set was taken, and what of it has no effect here.
func (w *Watcher) sayInForce(version string, revision uint64) {
	const text = "rego: policies of the control plane are in force"
	if found := w.store.Status().Warnings; len(found) > 0 {
		w.say(slog.LevelWarn, text+", but for what has no effect here", "version", version, "revision", revision, "warnings", found.Error())
		return
	}
	w.say(slog.LevelInfo, text, "version", version, "revision", revision)
}

// answer returns what answers a response, with what is in force now.
func (w *Watcher) answer(nonce string) *regov1.StreamPoliciesRequest {
	have := w.store.Status()
	answer := &regov1.StreamPoliciesRequest{Nonce: nonce, Version: have.Version, Epoch: have.Epoch, Revision: have.Revision}
	if len(have.Warnings) > 0 {
		answer.Warnings = faultsOf(have.Warnings)
	}
	return answer
}

// say logs what has not been said just before.
func (w *Watcher) say(level slog.Level, text string, args ...any) {
	line := fmt.Sprint(append([]any{text}, args...)...)
	w.mu.Lock()
	known := line == w.said
	w.said = line
	w.mu.Unlock()
	if !known {
		w.log.Log(context.Background(), level, text, args...)
	}
}
