package twin

import (
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
)

// Kinds are what calls a random program makes.
type Kinds uint8

// The kinds of random programs.
const (
	OfAll Kinds = iota
	OfUnary
	OfStreams
)

// Random makes a program from a seed.
func Random(seed uint64, kinds Kinds) Program {
	g := &generator{rand.New(rand.NewPCG(seed, 1))}
	return g.program(kinds)
}

type generator struct{ *rand.Rand }

// chance is true in one of n times.
func (g *generator) chance(n int) bool { return g.IntN(n) == 0 }

// time is a duration that no other one equals, so that no two timers fire at once.
func (g *generator) time(low, high time.Duration) time.Duration {
	return low + time.Duration(g.Int64N(int64(high-low)))
}

func pick[T any](g *generator, from ...T) T { return from[g.IntN(len(from))] }

const ms = time.Millisecond

func (g *generator) program(kinds Kinds) Program {
	p := g.calls(kinds)
	p.Direct = p.Below == nil && !g.chance(4)
	if p.Rules[0].Reconnect || p.Rules[1].Reconnect {
		p.Direct = false // grpc does not tell apart what it sends again and what rego does
		for i, o := range p.Outages {
			p.Outages[i].To = min(o.To, o.From+200*ms) // before rego has grpc dial, which a bare client does not
		}
	}
	return p
}

func (g *generator) calls(kinds Kinds) Program {
	p := Program{
		Rules:   [2]Rules{g.rules(), g.rules()},
		Watched: g.chance(3),
		Above:   g.meddlers(6),
		Below:   g.meddlers(4),
	}
	if g.chance(8) {
		from := g.time(0, 300*ms)
		p.Outages = []Outage{{from, from + g.time(ms, 300*ms)}}
	}
	if g.chance(12) {
		p.ServiceTimeout = g.time(20*ms, 600*ms)
	}
	if kinds == OfStreams || kinds == OfAll && g.chance(2) {
		p.Lanes = [][]Call{{g.streamCall()}}
		if g.chance(3) {
			p.Lanes[0] = append(p.Lanes[0], g.streamCall())
		}
		if p.anyCall(Call.isRefused) || p.anyStep(Kill) || p.anyStep(GoAway) {
			// grpc waits for a connection with its mutex held when it sends such a stream
			// again, and virtual time stands still for who waits for a mutex.
			p.Outages = nil
		}
		return p
	}
	for range 1 + g.IntN(2) {
		var lane []Call
		for range 1 + g.IntN(4) {
			lane = append(lane, g.unaryCall())
		}
		p.Lanes = append(p.Lanes, lane)
	}
	return p
}

func (g *generator) rules() Rules {
	r := Rules{
		MaxAttempts:  pick(g, 1, 1, 2, 3, 4),
		Idempotent:   !g.chance(3),
		ListsCodes:   g.chance(5),
		None:         g.chance(20),
		RetryOff:     g.chance(12),
		WaitForReady: g.chance(8),
	}
	if g.chance(6) {
		r.Timeout = g.time(30*ms, 900*ms)
	}
	if g.chance(5) {
		r.AttemptTimeout = g.time(20*ms, 200*ms)
	}
	if g.chance(4) {
		r.HedgeAfter = g.time(5*ms, 100*ms)
	}
	r.Reconnect = g.chance(3)
	return r
}

func (g *generator) meddlers(rarely int) []Meddler {
	if !g.chance(rarely) {
		return nil
	}
	var ms []Meddler
	for range 1 + g.IntN(2) {
		ms = append(ms, Meddler{
			Do:    Meddling(g.IntN(int(FailRecv) + 1)),
			Nth:   g.IntN(3),
			After: g.time(time.Millisecond, 100*time.Millisecond),
		})
	}
	return ms
}

func (g *generator) call(k Kind) Call {
	c := Call{Kind: k, Method: g.IntN(2), Think: g.time(0, 50*ms)}
	if g.chance(2) {
		c.Deadline = g.time(ms, 1500*ms)
	}
	if g.chance(6) {
		c.Cancel = g.time(0, 300*ms)
	}
	for o := WantHeader; o <= ReuseReply; o++ {
		likely := 4
		switch o {
		case FinishPanics, SmallSend, SmallRecv, NoSuchCompressor:
			likely = 40
		case JSON, Credentials, WaitForReady, FailFast:
			likely = 10
		default:
		}
		if g.chance(likely) {
			c.Options = append(c.Options, o)
		}
	}
	for range 1 + g.IntN(3) {
		c.Attempts = append(c.Attempts, g.attempt(k))
	}
	return c
}

func (g *generator) unaryCall() Call { return g.call(Unary) }

func (g *generator) streamCall() Call {
	c := g.call(pick(g, Watch, Upload, Chat))
	sends := 1
	if c.Kind != Watch {
		sends = g.IntN(6)
	}
	for range sends {
		c.Ops = append(c.Ops, Op{Do: Send, Think: g.time(0, 20*ms), Big: c.Kind != Watch && g.chance(6)})
	}
	if !g.chance(6) {
		c.Ops = append(c.Ops, Op{Do: CloseSend, Think: g.time(0, 20*ms)})
	}
	receives := &c.Ops
	if c.Kind == Chat && g.chance(2) || g.chance(8) {
		receives = &c.Beside
	}
	for range g.IntN(3) {
		*receives = append(*receives, Op{Do: pick(g, Recv, Recv, Header, Context, Trailer), Think: g.time(0, 30*ms)})
	}
	if !g.chance(6) {
		*receives = append(*receives, Op{Do: Drain, Think: g.time(0, 30*ms)})
	}
	for range g.IntN(3) {
		*receives = append(*receives, Op{Do: pick(g, Recv, Header, Trailer, Trailer, Context, Cancel), Think: g.time(0, 30*ms)})
	}
	if len(c.Beside) > 0 && g.chance(4) {
		c.Ops = append(c.Ops, Op{Do: pick(g, Header, Context, Cancel), Think: g.time(0, 50*ms)})
	}
	if g.chance(6) { // in no order that makes sense
		g.Shuffle(len(c.Ops), func(i, j int) { c.Ops[i], c.Ops[j] = c.Ops[j], c.Ops[i] })
	}
	return c
}

func (g *generator) attempt(k Kind) Attempt {
	var a Attempt
	if g.chance(12) {
		a.Refuse = 1 + g.IntN(2)
	}
	step := func(do Action) *Step {
		a.Steps = append(a.Steps, Step{Do: do})
		s := &a.Steps[len(a.Steps)-1]
		if g.chance(2) {
			s.Wait = g.time(0, 150*ms)
		}
		return s
	}
	if k == Upload || k == Chat {
		if g.chance(2) {
			step(ReadAll)
		} else {
			step(ReadN).N = g.IntN(5)
		}
	}
	if g.chance(3) {
		step(SendHeader)
	}
	if g.chance(16) {
		step(pick(g, GoAway, GoAwayBelow))
	}
	messages := 0
	switch {
	case k == Watch || k == Chat:
		messages = g.IntN(5)
	case !g.chance(3):
		messages = 1
	}
	for range messages {
		step(SendMessage)
		if k == Chat && g.chance(3) {
			step(ReadN).N = g.IntN(6)
		}
	}
	switch g.IntN(10) {
	case 0:
		step(Kill)
	case 1:
		step(pick(g, Reset, Refused))
	case 2:
		step(Hang)
	case 3, 4, 5, 6:
		s := step(Status)
		s.Code = pick(g, codes.Unavailable, codes.Unavailable, codes.Unavailable, codes.Internal, codes.ResourceExhausted, codes.NotFound, codes.InvalidArgument, codes.DeadlineExceeded, codes.Canceled, codes.Aborted)
		s.MD = pick(g, Plain, Plain, WithTrailer, WithTrailer, Pushback0, PushbackNo, QuotaInfo)
	default:
		step(Status).MD = pick(g, Plain, WithTrailer)
	}
	return a
}
