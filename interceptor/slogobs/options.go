package slogobs

import (
	"cmp"
	"log/slog"
	"time"
)

// Option configures [New].
type Option interface{ apply(*config) }

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

type config struct {
	levels Levels
	every  time.Duration
}

func newConfig(opts []Option) config {
	c := config{every: time.Second}
	for _, o := range opts {
		if o != nil {
			o.apply(&c)
		}
	}
	c.levels = c.levels.orDefault()
	return c
}

// Levels are those of lines. Nil is the default. A [slog.LevelVar] changes a level while calls
// run.
type Levels struct {
	// Failed is for calls that failed although attempts were made for them, or might have
	// been. Default: Warn, and not Error, since the caller has the error, and knows whether it
	// can do without the reply.
	Failed slog.Leveler
	// Answered is for calls that failed at the first attempt with a status that no retry helps
	// against, or that their caller cancelled then. Default: Debug, since the target did its work.
	Answered slog.Leveler
	// Rescued is for calls that succeeded with retries or hedges. Default: Info.
	Rescued slog.Leveler
	// Denied is for calls that succeeded although a retry or a hedge was denied. Default:
	// Debug.
	Denied slog.Leveler
	// Budget is for budgets that begin to deny retries, or stop. Default: Warn, since calls
	// fail now that a retry might have saved.
	Budget slog.Leveler
	// HedgeBudget is the same for hedges. Default: Debug, since a budget that bounds the extra
	// load of hedging denies some of them at any time.
	HedgeBudget slog.Leveler
}

func (l Levels) orDefault() Levels {
	l.Failed = cmp.Or[slog.Leveler](l.Failed, slog.LevelWarn)
	l.Answered = cmp.Or[slog.Leveler](l.Answered, slog.LevelDebug)
	l.Rescued = cmp.Or[slog.Leveler](l.Rescued, slog.LevelInfo)
	l.Denied = cmp.Or[slog.Leveler](l.Denied, slog.LevelDebug)
	l.Budget = cmp.Or[slog.Leveler](l.Budget, slog.LevelWarn)
	l.HedgeBudget = cmp.Or[slog.Leveler](l.HedgeBudget, slog.LevelDebug)
	return l
}

// WithLevels sets the levels of lines. Default: those that [Levels] says.
func WithLevels(l Levels) Option { return optionFunc(func(c *config) { c.levels = l }) }

// WithInterval sets how much time lies between two lines about the same, at least: see
// [Recorder]. It does not hold for lines about budgets. Default: a second. Zero or less logs
// every call that is worth a line.
func WithInterval(d time.Duration) Option { return optionFunc(func(c *config) { c.every = d }) }
