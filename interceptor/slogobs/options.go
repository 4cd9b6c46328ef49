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

// Levels are the levels of lines. Nil is the default. A [slog.LevelVar] changes a level
// while calls run.
type Levels struct {
	// Failed is for calls that failed although a retry or a hedge was made, or could have
	// helped. Default: Warn. It is not Error, because the caller has the error and knows how
	// bad it is.
	Failed slog.Leveler
	// Answered is for calls whose first attempt failed with a status that is not retried, or
	// was cancelled by the caller. Default: Debug, because the target did its work.
	Answered slog.Leveler
	// Rescued is for calls that succeeded with retries or hedges. Default: Info.
	Rescued slog.Leveler
	// Denied is for calls that succeeded although a retry or a hedge was denied. Default:
	// Debug.
	Denied slog.Leveler
	// Budget is for budgets that begin to deny retries, or stop. Default: Warn, because
	// calls now fail that a retry might have saved.
	Budget slog.Leveler
	// HedgeBudget is the same for hedges. Default: Debug, because a budget that bounds the
	// extra load of hedging denies some hedges in normal operation, too.
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

// WithLevels sets the levels of lines. Default: those in [Levels].
func WithLevels(l Levels) Option { return optionFunc(func(c *config) { c.levels = l }) }

// WithInterval sets the least time between two lines about the same: see [Recorder]. It does
// not hold for lines about budgets. Default: a second. Zero or less logs every call that is
// worth a line.
func WithInterval(d time.Duration) Option { return optionFunc(func(c *config) { c.every = d }) }
