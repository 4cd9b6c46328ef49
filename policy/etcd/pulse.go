package etcd

import "time"

const (
	// tick is how often a watch is checked. A check costs a read of no entries that the quorum
	// confirms, and a message on the watch's stream.
	tick = time.Second
	// unanswered is how many ticks may pass without a check that succeeds.
	unanswered = 4
)

// pulse judges whether a watch keeps up with etcd. A watch that hears nothing looks the same
// whether nothing has changed, its connection has died or its member is cut off from the
// others. So it is checked: the quorum tells a revision, and the watch has to get there.
//
// Ticks are counted, rather than time, so that a consumer that takes its time is not
// taken for a storage that is silent.
type pulse struct {
	age  int   // ticks since the watch was known to keep up
	want int64 // the revision that it has to get to; 0 if none is known
	at   int64 // the revision that it is known to have got to
}

// tick reports whether the watch is still to be trusted.
func (p *pulse) tick() bool {
	p.age++
	return p.age <= unanswered
}

// current takes a revision that the quorum told, and reports whether the watch keeps up.
func (p *pulse) current(revision int64) bool {
	if p.want == 0 {
		p.want = revision
	}
	return p.settle()
}

// reached takes a revision that the watch has got to, and reports whether it keeps up.
func (p *pulse) reached(revision int64) bool {
	p.at = max(p.at, revision)
	return p.settle()
}

func (p *pulse) settle() bool {
	if p.want == 0 || p.at < p.want {
		return false
	}
	*p = pulse{at: p.at}
	return true
}
