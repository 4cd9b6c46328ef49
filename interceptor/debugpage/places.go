package debugpage

import (
	"cmp"
	"hash/maphash"
	"slices"
)

// Not all methods, or budgets, have a place in the history. Places go to those that need them most.

// claim is what one has to say for a place.
type claim[K comparable] struct {
	key   K
	class int // comes before need
	need  int64
}

// The classes of claims. What somebody may have made up never takes the place of the program's own,
// but of what has been idle for as long as a history is.
const (
	idle = iota - 1
	madeUp
	own
	shared // budgets of targets and of policies
)

// muchMore is how much more somebody must need a place to take it from another: those that need it
// alike do not take turns.
const muchMore = 2

// beats reports whether a claim without a place takes that of another.
func (c *claim[K]) beats(holder *claim[K]) bool {
	return c.need > 0 && (c.class > holder.class || c.class == holder.class && c.need > muchMore*holder.need)
}

func compareClaims[K comparable](a, b claim[K]) int {
	return cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(a.need, b.need))
}

// contest returns who loses a place, and who gets one: of so many that are free, or that of one who
// needs it less.
func contest[K comparable](holders, others []claim[K], free int) (out, in []K) {
	slices.SortStableFunc(holders, compareClaims)
	slices.SortStableFunc(others, func(a, b claim[K]) int { return compareClaims(b, a) })
	for i := range others {
		c := &others[i]
		switch {
		case free > 0:
			free--
		case len(holders) > 0 && c.beats(&holders[0]):
			out = append(out, holders[0].key)
			holders = holders[1:]
		default:
			continue
		}
		in = append(in, c.key)
	}
	return out, in
}

// crowd counts what those do that have no place, without a name for each: some share a cell, and
// pass for equals. So one may get a place for what another has done, and loses it again.
type crowd[K comparable] struct{ cells []crowdCell }

type crowdCell struct{ sum, members uint32 }

const crowdCells = 1 << 13

var crowdSeed = maphash.MakeSeed()

// cell returns where a key is counted, of a crowd that is made when it is first needed.
func (c *crowd[K]) cell(k K) *crowdCell {
	if c.cells == nil {
		c.cells = make([]crowdCell, crowdCells)
	}
	return &c.cells[maphash.Comparable(crowdSeed, k)%crowdCells]
}

// add counts what one has done since the beginning.
func (c *crowd[K]) add(k K, n int64) {
	of := c.cell(k)
	of.sum += uint32(n) // a difference is right although a sum wraps around
	of.members++
}

// since returns what a member of a cell has done since an earlier count of the same crowd.
func (c *crowd[K]) since(before *crowd[K], k K) int64 {
	of := *c.cell(k)
	if before.cells != nil {
		of.sum -= before.cell(k).sum
	}
	all := int64(max(int32(of.sum), 0)) // less than nothing if somebody has gone
	return (all + int64(of.members) - 1) / int64(max(of.members, 1))
}
