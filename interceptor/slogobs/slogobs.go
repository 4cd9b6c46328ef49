// Package slogobs logs the calls of an interceptor that are worth a line: calls that failed,
// were retried or hedged, or were denied a retry or a hedge. It also logs when a budget
// begins to deny, and when it stops. Calls that succeed at once are not logged, and allocate
// nothing.
//
// What surprises people: the rate of lines is limited. There is at most one line in a second
// for one target, method and reason, and the next line says how many were left out. For
// exact counts use [interceptor.Interceptor.State].
//
// Start with [New], and give the result to [interceptor.WithRecorder]. Lines hold no request
// content, metadata or error texts.
package slogobs

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
)

// Recorder logs the calls that are worth a line, with their timelines. It is safe for concurrent
// use, and may serve several interceptors.
//
// Two lines are about the same if they have the same target, method, message, end reason and
// reason of the first denial. All methods that are not the program's own count as one. If
// there are more than 4,096 such combinations, the others share one line.
//
// The log handler gets the context of the call. It runs on the goroutine that ends the call:
// a slow handler makes the call slower. If it panics, the interceptor stops using the
// Recorder, as any recorder. Nothing is logged here from then on.
type Recorder struct {
	config
	log *slog.Logger // nil for slog.Default

	rations rations
	budgets budgets
}

var _ interceptor.Recorder = (*Recorder)(nil)

// New returns a Recorder that logs to l. Nil means what slog.Default is when a line is
// written.
func New(l *slog.Logger, opts ...Option) *Recorder {
	return &Recorder{config: newConfig(opts), log: l}
}

// Record implements interceptor.Recorder.
func (r *Recorder) Record(ctx context.Context, s interceptor.Summary) {
	plain := s.Code == codes.OK && s.Retries == 0 && s.Hedges == 0 && len(s.Denials) == 0
	if plain && r.budgets.allGrant() {
		return
	}
	now := s.Start.Add(s.Elapsed) // without another look at the clock
	r.logBudget(ctx, &s, budget.Retry, now)
	r.logBudget(ctx, &s, budget.Hedge, now)
	if !plain {
		r.logCall(ctx, &s, now)
	}
}

func (r *Recorder) logger() *slog.Logger {
	if r.log == nil {
		return slog.Default()
	}
	return r.log
}

func (r *Recorder) logCall(ctx context.Context, s *interceptor.Summary, now time.Time) {
	log := r.logger()
	message, leveler := r.subject(s)
	level := leveler.Level()
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
	leftOut, ok := r.rations.take(c, r.every, now)
	if !ok {
		return
	}
	log.LogAttrs(ctx, level, message, slog.Int("left_out", leftOut), slog.Any("call", s.Timeline()))
}

// subject returns what there is to say of a call that is not plain.
func (r *Recorder) subject(s *interceptor.Summary) (message string, l slog.Leveler) {
	switch {
	case s.Code != codes.OK && s.Retries+s.Hedges == 0 && (s.Reason == interceptor.EndNonRetryable || s.Reason == interceptor.EndCallerCancelled):
		return "rego: call failed", r.levels.Answered
	case s.Code != codes.OK:
		return "rego: call failed", r.levels.Failed
	case s.Retries > 0:
		return "rego: call retried", r.levels.Rescued
	case s.Hedges > 0:
		return "rego: call hedged", r.levels.Rescued
	}
	return "rego: call denied another attempt", r.levels.Denied
}

// logBudget logs if the call shows that the budgets of its target begin to deny attempts of a
// kind, or have stopped.
func (r *Recorder) logBudget(ctx context.Context, s *interceptor.Summary, k budget.Kind, now time.Time) {
	granted, attempts, level := s.Retries, "retries", r.levels.Budget
	if k == budget.Hedge {
		granted, attempts, level = s.Hedges, "hedges", r.levels.HedgeBudget
	}
	denied := 0
	for _, d := range s.Denials {
		if d.Kind == k && d.Reason == interceptor.DeniedByBudget {
			denied++
		}
	}
	target := slog.String("target", s.Target)
	change, was := r.budgets.note(denier{s.Target, k}, granted, denied, now)
	if change == stops || change == again {
		r.logger().LogAttrs(ctx, level.Level(), "rego: a budget no longer denies "+attempts, target,
			slog.Int("denied", was.denied), slog.Int("granted", was.granted), slog.Float64("elapsed", was.last.Sub(was.began).Seconds()))
	}
	if change == begins || change == again {
		r.logger().LogAttrs(ctx, level.Level(), "rego: a budget begins to deny "+attempts, target)
	}
}
