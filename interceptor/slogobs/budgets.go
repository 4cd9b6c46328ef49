package slogobs

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rego-go/rego/budget"
)

// denier are the budgets of a target, in what they are asked for one kind of attempt.
type denier struct {
	target string
	kind   budget.Kind
}

// spell is a time in which budgets deny: from the first denial to the last one after which none
// follows for quiet. In between they may grant, as a budget does that is paid in now and then.
type spell struct {
	began   time.Time
	last    time.Time // denial
	denied  int
	granted int // since then
}

// quiet is how long nothing was denied when a spell is over: the next call to the target finds
// that out.
const quiet = 5 * time.Second

type change int

const (
	none change = iota
	begins
	stops
	again // has stopped since the last denial, and begins
)

// maxSpells bounds how many spells are kept at once. There are no lines about further ones.
const maxSpells = 1024

// budgets knows which budgets deny, by what calls tell that have ended. The zero value is ready.
type budgets struct {
	spells atomic.Pointer[map[denier]*observed] // that last, nil if there is none; replaced whole

	mu    sync.Mutex // for changes. Nothing foreign is called while it is held
	swept time.Time  // when what was idle last made place
}

type observed struct {
	since time.Time    // it was first noted
	until atomic.Int64 // when it may be over, in nanoseconds since then: the wall clock may be set back
	spell              // guarded by budgets.mu
}

// allGrant reports whether no budget denies.
func (b *budgets) allGrant() bool { return b.spells.Load() == nil }

func (b *budgets) find(d denier) *observed {
	if all := b.spells.Load(); all != nil {
		return (*all)[d]
	}
	return nil
}

// note takes in how many attempts a call was granted and denied. If that ends a spell, it
// returns what there is to say of it.
func (b *budgets) note(d denier, granted, denied int, now time.Time) (change, spell) {
	of := b.find(d)
	if denied == 0 && (of == nil || granted == 0 && int64(now.Sub(of.since)) < of.until.Load()) {
		return none, spell{}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	of = b.find(d)
	switch {
	case of == nil && denied == 0: // it is over meanwhile
		return none, spell{}
	case of == nil:
		return b.beginLocked(d, denied, now), spell{}
	case denied > 0 && now.Sub(of.last) >= quiet: // no call has shown that it was over
		was := of.spell
		of.spell = spell{began: now}
		of.deny(denied, now)
		return again, was
	case denied > 0:
		of.deny(denied, now)
		return none, spell{}
	}
	of.granted += granted
	if now.Sub(of.last) < quiet {
		return none, spell{}
	}
	b.replaceLocked(func(spells map[denier]*observed) { delete(spells, d) })
	return stops, of.spell
}

func (o *observed) deny(n int, now time.Time) {
	o.denied += n
	o.granted = 0
	if now.After(o.last) {
		o.last = now
		o.until.Store(int64(now.Sub(o.since) + quiet))
	}
}

func (b *budgets) beginLocked(d denier, denied int, now time.Time) change {
	if all := b.spells.Load(); all != nil && len(*all) >= maxSpells {
		b.sweepLocked(now)
	}
	if all := b.spells.Load(); all != nil && len(*all) >= maxSpells {
		return none
	}
	of := &observed{since: now, spell: spell{began: now}}
	of.deny(denied, now)
	b.replaceLocked(func(spells map[denier]*observed) { spells[d] = of })
	return begins
}

// sweepLocked forgets spells of targets that are no longer called.
func (b *budgets) sweepLocked(now time.Time) {
	if now.Sub(b.swept) < time.Second { // it looks at all of them
		return
	}
	b.swept = now
	b.replaceLocked(func(spells map[denier]*observed) {
		maps.DeleteFunc(spells, func(_ denier, of *observed) bool { return now.Sub(of.last) > idle })
	})
}

func (b *budgets) replaceLocked(edit func(map[denier]*observed)) {
	spells := make(map[denier]*observed)
	if all := b.spells.Load(); all != nil {
		maps.Copy(spells, *all)
	}
	edit(spells)
	if len(spells) == 0 {
		b.spells.Store(nil)
		return
	}
	b.spells.Store(&spells)
}
