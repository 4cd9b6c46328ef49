// Package slogobs logs the calls of an interceptor that are worth a line: those that failed, were
// retried or hedged, or were denied a retry or a hedge. Calls that go well at the first attempt
// are not logged, and cost next to nothing.
//
// What surprises people: lines are rationed. Of one method, target and cause there is one line
// in a second, and the next one says how many were left out. Counts are in
// [interceptor.Interceptor.State].
//
// Start with [New], and give it to interceptor.WithRecorder. Lines hold no request content,
// metadata or error texts.
package slogobs

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/interceptor"
)

// Recorder logs calls that are worth it. It is safe for concurrent use, and may serve several
// interceptors.
type Recorder struct {
	config
	log *slog.Logger

	rations rations

	mu      sync.Mutex        // nothing foreign is called while it is held
	denying map[string]*spell // by target: budgets that deny
	spells  atomic.Int32      // how many there are
}

var _ interceptor.Recorder = (*Recorder)(nil)

// spell is a time in which a budget denies.
type spell struct {
	began, last time.Time
	denied      int
}

// quiet is how long a budget has denied nothing when it no longer denies.
const quiet = 5 * time.Second

// New returns a Recorder. Nil means slog.Default, as it is when a line is written.
func New(l *slog.Logger, opts ...Option) *Recorder {
	return &Recorder{
		config: newConfig(opts), log: l, denying: make(map[string]*spell),
	}
}

// Record implements interceptor.Recorder.
func (r *Recorder) Record(ctx context.Context, s interceptor.Summary) {
	if r.spells.Load() > 0 || s.Reason == interceptor.EndBudgetDenied {
		r.watchBudget(ctx, &s)
	}
	message, leveler := r.worth(&s)
	if message == "" {
		return
	}
	log, level := r.logger(), leveler.Level()
	if !log.Enabled(ctx, level) {
		return
	}
	c := cause{target: s.Target, message: message, reason: s.Reason}
	if s.Registered {
		c.method = s.Method
	}
	if len(s.Denials) > 0 {
		c.denial = s.Denials[0].Reason
	}
	leftOut, ok := r.rations.take(c, r.every, time.Now())
	if !ok {
		return
	}
	log.LogAttrs(ctx, level, message, slog.Int("left_out", leftOut), slog.Any("call", s.Timeline()))
}

// worth returns what is to be said of a call, nothing if it is not worth a line.
func (r *Recorder) worth(s *interceptor.Summary) (message string, l slog.Leveler) {
	switch {
	case s.Code == codes.OK && s.Retries > 0:
		return "rego: call retried", r.levels.Rescued
	case s.Code == codes.OK && s.Hedges > 0:
		return "rego: call hedged", r.levels.Rescued
	case s.Code == codes.OK && len(s.Denials) > 0:
		return "rego: call denied another attempt", r.levels.Denied
	case s.Code == codes.OK:
		return "", nil
	case s.Reason == interceptor.EndNonRetryable, s.Reason == interceptor.EndCallerCancelled:
		return "rego: call failed", r.levels.Answered
	}
	return "rego: call failed", r.levels.Failed
}

// watchBudget notes whether the budgets of a target deny retries, and logs when that begins
// and when it is over.
func (r *Recorder) watchBudget(ctx context.Context, s *interceptor.Summary) {
	now := s.Start.Add(s.Elapsed)
	denied := s.Reason == interceptor.EndBudgetDenied
	r.mu.Lock()
	of := r.denying[s.Target]
	begins := of == nil && denied
	if begins {
		of = &spell{began: now}
		r.denying[s.Target] = of
		r.spells.Add(1)
	}
	if denied {
		of.last = now
		of.denied++
	}
	ends := of != nil && !denied && now.Sub(of.last) >= quiet
	if ends {
		delete(r.denying, s.Target)
		r.spells.Add(-1)
	}
	r.mu.Unlock()
	switch {
	case begins:
		r.logger().LogAttrs(ctx, r.levels.Budget.Level(), "rego: a budget begins to deny retries", slog.String("target", s.Target))
	case ends:
		r.logger().LogAttrs(ctx, r.levels.Budget.Level(), "rego: a budget no longer denies retries", slog.String("target", s.Target),
			slog.Int("denied", of.denied), slog.Float64("elapsed", of.last.Sub(of.began).Seconds()))
	}
}

func (r *Recorder) logger() *slog.Logger {
	if r.log == nil {
		return slog.Default()
	}
	return r.log
}
