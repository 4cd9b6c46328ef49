package slogobs

import (
	"log/slog"
	"time"
)

// Option configures [New].
type Option func(*Recorder)

// Levels are those of lines.
type Levels struct {
	// Failed is for calls that failed although attempts were made for them, or might have
	// been.
	Failed slog.Level
	// Answered is for calls that failed with what no retry helps against, or that their caller
	// cancelled: mostly what an application knows best itself.
	Answered slog.Level
	// Rescued is for calls that succeeded with retries or hedges.
	Rescued slog.Level
	// Denied is for calls that succeeded although a retry or a hedge was denied them.
	Denied slog.Level
	// Budget is for a budget that begins to deny retries, or no longer does.
	Budget slog.Level
}

var defaultLevels = Levels{
	Failed: slog.LevelWarn, Answered: slog.LevelDebug, Rescued: slog.LevelInfo, Denied: slog.LevelDebug, Budget: slog.LevelWarn,
}

// WithLevels sets the levels of lines, all of them: a zero one is Info. Default: Warn for Failed and
// Budget, Info for Rescued, Debug for Answered and Denied.
func WithLevels(l Levels) Option { return func(r *Recorder) { r.levels = l } }

// WithInterval sets how much time lies between two lines of one method, target and cause at
// least. Default: a second. Zero logs every call that is worth it.
func WithInterval(d time.Duration) Option { return func(r *Recorder) { r.every = d } }
