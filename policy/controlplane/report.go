package controlplane

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/policy"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// Bounds of what a client reports, besides those that servers check.
const (
	// maxOpen is how many sets the counts are kept of that wait to be reported.
	maxOpen = 4
	// maxNamed is how many bytes of a report methods take that have their names. With the rest
	// of it, it stays below 64 KiB.
	maxNamed = 48 << 10
	// maxMethod is how many bytes a method takes. One that would take more has codes, and no
	// reasons.
	maxMethod = 8 << 10
)

// item is something of a method that is counted.
type item struct {
	method string
	of     uint8
	code   codes.Code // of an end
	kind   string     // of a denial
	reason string     // of an end or a denial
}

const (
	ofEnd = iota
	ofRetry
	ofHedge
	ofDenial
)

// counts are above zero.
type counts map[item]int64

// add adds what is above zero. It does not overflow, whatever the user's counts are.
func (c counts) add(k item, n int64) {
	if n > 0 {
		c[k] = min(c[k], math.MaxInt64/2) + min(n, math.MaxInt64/2)
	}
}

// countsOf returns the counts of all methods, in words that the wire takes.
func countsOf(all []policy.MethodCounts) counts {
	c := make(counts, 4*len(all))
	for _, m := range all {
		name := m.Method
		if len(name) > maxWord || !utf8.ValidString(name) {
			name = ""
		}
		for _, e := range m.Ends {
			code := e.Code
			if _, known := regov1.Code_name[int32(code)]; !known {
				code = codes.Unknown
			}
			c.add(item{method: name, of: ofEnd, code: code, reason: word(e.Reason)}, e.Calls)
		}
		c.add(item{method: name, of: ofRetry}, m.Retries)
		c.add(item{method: name, of: ofHedge}, m.Hedges)
		for _, d := range m.Denials {
			c.add(item{method: name, of: ofDenial, kind: word(d.Kind), reason: word(d.Reason)}, d.Count)
		}
	}
	return c
}

// word returns s as the wire and the server take it.
func word(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxWord)], "?") }

// account is what has been counted while a set was in force, and has not been sent.
type account struct {
	edition
	counts counts
}

// ledger keeps accounts. It is told the totals at each look: what has been added since the look
// before belongs to the set that was in force then. Of totals that have gone back, nothing has been
// added. Of more than maxOpen sets, the account of the oldest is dropped.
type ledger struct {
	last counts // nil before the first look
	edition
	open []account // the oldest first
}

// look takes the totals. edition is in force from now on. If the look was so long that nobody
// knows which set the calls belong to, lost says so: they are not reported.
func (l *ledger) look(total counts, edition edition, lost bool) {
	added := make(counts)
	if l.last != nil && !lost {
		for k, n := range total {
			added.add(k, n-l.last[k])
		}
	}
	if len(added) > 0 {
		l.keep(account{l.edition, added})
	}
	l.last, l.edition = total, edition
}

// keep adds an account, to that of the same set if there is one.
func (l *ledger) keep(a account) {
	if i := slices.IndexFunc(l.open, func(o account) bool { return o.edition == a.edition }); i >= 0 {
		for k, n := range a.counts {
			l.open[i].counts.add(k, n)
		}
		return
	}
	l.open = append(l.open, a)
	l.bound()
}

// giveBack takes an account back that next has returned and that could not be sent.
func (l *ledger) giveBack(a account) {
	if slices.ContainsFunc(l.open, func(o account) bool { return o.edition == a.edition }) {
		l.keep(a)
		return
	}
	l.open = slices.Insert(l.open, 0, a)
	l.bound()
}

func (l *ledger) bound() { l.open = slices.Delete(l.open, 0, max(len(l.open)-maxOpen, 0)) }

// next returns the oldest account, which is no longer kept, and whether there was one.
func (l *ledger) next() (account, bool) {
	if len(l.open) == 0 {
		return account{}, false
	}
	a := l.open[0]
	l.open = slices.Delete(l.open, 0, 1)
	return a, true
}

// report returns the account as the wire has it. The busiest methods have their names, as many as
// there is room for, and the rest is one without.
func (a account) report() *regov1.Report {
	r := &regov1.Report{Version: word(a.version), Epoch: a.epoch, Revision: a.revision}
	byMethod, calls := make(map[string]counts), make(map[string]int64)
	for k, n := range a.counts {
		if byMethod[k.method] == nil {
			byMethod[k.method] = make(counts)
		}
		byMethod[k.method][k] = n
		if k.of == ofEnd {
			calls[k.method] += n
		}
	}
	rest := make(counts)
	maps.Copy(rest, byMethod[""])
	delete(byMethod, "")
	busiest := slices.SortedFunc(maps.Keys(byMethod), func(a, b string) int {
		return cmp.Or(cmp.Compare(calls[b], calls[a]), strings.Compare(a, b))
	})
	size := 0
	for _, name := range busiest {
		m := byMethod[name].wire(name)
		if n := proto.Size(m) + 4; len(r.GetMethods()) < maxMethods-1 && size+n <= maxNamed {
			size += n
			r.Methods = append(r.Methods, m)
			continue
		}
		for k, n := range byMethod[name] {
			k.method = ""
			rest.add(k, n)
		}
	}
	if len(rest) > 0 {
		r.Methods = append(r.Methods, rest.wire(""))
	}
	return r
}

// wire returns the counts of one method as the wire has them: without reasons, if they would take
// too much room with them.
func (c counts) wire(method string) *regov1.MethodReport {
	m := c.whole(method)
	if len(m.GetEnds()) <= maxEnds && len(m.GetDenials()) <= maxDenials && proto.Size(m) <= maxMethod {
		return m
	}
	coarse := make(counts)
	for k, n := range c {
		k.kind, k.reason = "", ""
		coarse.add(k, n)
	}
	return coarse.whole(method)
}

func (c counts) whole(method string) *regov1.MethodReport {
	m := &regov1.MethodReport{Method: method}
	for _, k := range slices.SortedFunc(maps.Keys(c), func(a, b item) int {
		return cmp.Or(cmp.Compare(a.code, b.code), strings.Compare(a.kind, b.kind), strings.Compare(a.reason, b.reason))
	}) {
		n := uint64(min(c[k], maxCount))
		switch k.of {
		case ofEnd:
			m.Ends = append(m.Ends, &regov1.EndCount{Code: regov1.Code(k.code), Reason: k.reason, Calls: n})
		case ofRetry:
			m.Retries = n
		case ofHedge:
			m.Hedges = n
		case ofDenial:
			m.Denials = append(m.Denials, &regov1.DenialCount{Kind: k.kind, Reason: k.reason, Count: n})
		}
	}
	return m
}
