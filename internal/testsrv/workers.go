package testsrv

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Workers is the capacity of a server: each attempt needs a worker for some
// time before its step begins. A phase in which the server does badly is
// another value, set with [Server.SetWorkers]: twice the Work, a share that
// fails. The zero value is no limit and no work.
type Workers struct {
	// N is how many attempts are worked on at a time; the others wait in line,
	// first come first served. Zero means no limit.
	N int
	// Work is how long a worker needs for one attempt. An attempt whose context
	// is done leaves its place or its worker to the next one.
	Work time.Duration
	// Queue is the longest wait in line. An attempt that would have to wait
	// longer is turned away at once, with UNAVAILABLE.
	Queue time.Duration
	// TurnAway is what turning an attempt away costs, as a share of Work: the
	// worker that would be free first is held up for that time. Zero means that
	// it costs nothing.
	TurnAway float64
	// Fail is the share of attempts that fail with UNAVAILABLE after their
	// work: 0 none, 1 all. Which ones is random, the same in every run.
	Fail float64
}

// SetWorkers changes the capacity from now on. Attempts being worked on keep
// the end they have; those in line stay in line and take the new Work.
func (s *Server) SetWorkers(w Workers) { s.workers.set(w, time.Now()) }

// TurnedAway is the number of attempts turned away so far.
func (s *Server) TurnedAway() int {
	s.workers.mu.Lock()
	defer s.workers.mu.Unlock()
	return s.workers.turnedAway
}

// workers is the line. It reckons in the times at which work should end, not in
// those at which timers wake: a late timer makes its own attempt late, never
// the line, so the capacity is exact.
type workers struct {
	mu         sync.Mutex
	cfg        Workers
	rand       *rand.Rand
	busy       []*job
	line       []*job
	free       []time.Time // scratch space of waitLocked
	turnedAway int
}

// job is an attempt that has a worker or waits for one.
type job struct {
	arrived time.Time
	started chan struct{} // closed when a worker takes it
	end     time.Time     // of its work, once started; moves when held up
}

var (
	errTurnedAway = status.Error(codes.Unavailable, "testsrv: turned away: the line is too long")
	errWorker     = status.Error(codes.Unavailable, "testsrv: worker fails")
)

// work returns when the attempt has been worked on.
func (w *workers) work(ctx context.Context) error {
	j, err := w.enter(time.Now())
	if j == nil {
		return err
	}
	select {
	case <-j.started:
	case <-ctx.Done():
		w.leave(j, time.Now())
		return contextError(ctx)
	}
	for {
		left, err := w.finish(j, time.Now())
		if left <= 0 {
			return err
		}
		if err := sleep(ctx, left); err != nil {
			w.leave(j, time.Now())
			return err
		}
	}
}

func (w *workers) set(cfg Workers, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cfg = cfg
	if w.rand == nil {
		w.rand = rand.New(rand.NewPCG(1, 2))
	}
	w.startLocked(now)
}

// enter puts an attempt in line, and to work if a worker is free. Without a job
// there is nothing to wait for.
func (w *workers) enter(now time.Time) (*job, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cfg == (Workers{}) {
		return nil, nil
	}
	if w.waitLocked(now) > max(w.cfg.Queue, 0) {
		w.turnedAway++
		first := slices.MinFunc(w.busy, func(a, b *job) int { return a.end.Compare(b.end) })
		first.end = first.end.Add(time.Duration(w.cfg.TurnAway * float64(w.cfg.Work)))
		return nil, errTurnedAway
	}
	j := &job{arrived: now, started: make(chan struct{})}
	w.line = append(w.line, j)
	w.startLocked(now)
	return j, nil
}

// finish ends a job whose work has ended, and says how long it has left
// otherwise.
func (w *workers) finish(j *job, now time.Time) (left time.Duration, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if left := j.end.Sub(now); left > 0 {
		return left, nil
	}
	w.busy = without(w.busy, j)
	w.startLocked(j.end)
	if w.rand.Float64() < w.cfg.Fail {
		return 0, errWorker
	}
	return 0, nil
}

// leave gives up a job's place in line, or its worker.
func (w *workers) leave(j *job, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.line = without(w.line, j)
	w.busy = without(w.busy, j)
	w.startLocked(now)
}

// waitLocked is how long an attempt that arrives now will be in line: it plays
// through which worker takes whom.
func (w *workers) waitLocked(now time.Time) time.Duration {
	if w.cfg.N <= 0 || len(w.busy) < w.cfg.N {
		return 0
	}
	free := w.free[:0]
	for _, j := range w.busy {
		free = append(free, j.end)
	}
	w.free = free
	slices.SortFunc(free, time.Time.Compare)
	// Of more workers than there should be, the first to end take nobody.
	free = free[len(free)-w.cfg.N:]

	for range w.line {
		end := free[0].Add(w.cfg.Work)
		i, _ := slices.BinarySearchFunc(free[1:], end, time.Time.Compare)
		copy(free, free[1:i+1])
		free[i] = end
	}
	return free[0].Sub(now)
}

// startLocked gives free workers to the line. They are free since freed.
func (w *workers) startLocked(freed time.Time) {
	for len(w.line) > 0 && (w.cfg.N <= 0 || len(w.busy) < w.cfg.N) {
		j := w.line[0]
		w.line = w.line[1:]
		start := freed
		if j.arrived.After(start) {
			start = j.arrived
		}
		j.end = start.Add(w.cfg.Work)
		w.busy = append(w.busy, j)
		close(j.started)
	}
}

func without(jobs []*job, j *job) []*job {
	if i := slices.Index(jobs, j); i >= 0 {
		return slices.Delete(jobs, i, i+1)
	}
	return jobs
}
