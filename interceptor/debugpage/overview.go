package debugpage

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/webpage"
)

// counts are what a page says of calls, since they are counted or of late.
type counts struct {
	Calls    int64 `json:"calls"`
	Failed   int64 `json:"failed"` // with another code than OK
	Attempts int64 `json:"attempts"`
	Retries  int64 `json:"retries"`
	Hedges   int64 `json:"hedges"`
	Denied   int64 `json:"denied"`
}

func (t *totals) counts() counts {
	return counts{t.calls, t.failed, t.attempts, t.retries, t.hedges, t.denied}
}

func (c *counts) add(o counts) {
	c.Calls += o.Calls
	c.Failed += o.Failed
	c.Attempts += o.Attempts
	c.Retries += o.Retries
	c.Hedges += o.Hedges
	c.Denied += o.Denied
}

func (c *counts) sub(o counts) {
	c.add(counts{-o.Calls, -o.Failed, -o.Attempts, -o.Retries, -o.Hedges, -o.Denied})
}

// Extra returns how many attempts were not the first of a call.
func (c *counts) Extra() int64 { return c.Retries + c.Hedges }

func (c *counts) trouble() int64 { return c.Extra() + c.Denied + c.Failed }

// Amplification returns how many attempts there were for each call, zero without calls.
func (c *counts) Amplification() float64 { return ratio(c.Attempts, c.Calls) }

// FailedShare returns the share of calls that failed.
func (c *counts) FailedShare() float64 { return ratio(c.Failed, c.Calls) }

func ratio(a, b int64) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

// reasonCount is how many calls ended for a reason, or how many attempts were denied for one.
type reasonCount struct {
	Reason string `json:"reason"`
	Count  int64  `json:"count"`
}

// byReason returns the reasons that there were, the most frequent first.
func byReason(of *[reasons]int64, name func(i int) string) []reasonCount {
	list := []reasonCount{}
	for i, n := range of {
		if n > 0 {
			list = append(list, reasonCount{name(i), n})
		}
	}
	slices.SortStableFunc(list, func(a, b reasonCount) int { return cmp.Compare(b.Count, a.Count) })
	return list
}

func endReason(i int) string    { return interceptor.EndReason(i).String() }
func denialReason(i int) string { return interceptor.DenialReason(i).String() }

// methodRow is a method on the overview, and the head of its own page.
type methodRow struct {
	Target     string    `json:"target"`
	Method     string    `json:"method"`
	Registered bool      `json:"registered"`
	Since      time.Time `json:"since"`
	Kept       bool      `json:"history_kept"` // if not, nothing is known of late
	Total      counts    `json:"total"`
	Recent     counts    `json:"-"`
	Known      *counts   `json:"recent"`          // Recent, nil if it is not known
	Covers     float64   `json:"history_seconds"` // of those that rates are taken over
	Note       string    `json:"note"`            // why something is not known, empty if all is
	// FailedAs is why calls that failed of late ended, and DeniedAs why attempts were denied.
	FailedAs []reasonCount `json:"failed_as"`
	DeniedAs []reasonCount `json:"denied_as"`
	Hints    []string      `json:"hints"`

	Spark *chart `json:"-"`
	name  string // as it is
}

// Service returns the method's service and a slash.
func (m *methodRow) Service() string { return m.Method[:strings.LastIndexByte(m.Method, '/')+1] }

// Short returns the method without its service.
func (m *methodRow) Short() string {
	if m.Method == "" {
		return "all others"
	}
	return m.Method[strings.LastIndexByte(m.Method, '/')+1:]
}

// head is on every page.
type head struct {
	Time time.Time `json:"time"`
	// Sampled is since when the history is kept, and Seconds over how many rates are taken.
	Sampled time.Time `json:"sampled_since"`
	Seconds float64   `json:"recent_seconds"`

	Page string `json:"-"`
}

func (h *history) headLocked(page string, now time.Time) head {
	since, _ := h.windowLocked()
	first := h.times[max(h.n-samples+1, 0)%samples]
	return head{Time: now, Sampled: first, Seconds: now.Sub(since).Seconds(), Page: page}
}

// overview is what there is to say of all methods.
type overview struct {
	head
	Total       counts      `json:"total"`
	Recent      counts      `json:"recent"`
	ReplayBytes int64       `json:"replay_bytes"`
	ReplayLimit int64       `json:"replay_limit"`
	Policies    policies    `json:"policies"`
	Methods     []methodRow `json:"methods"`
	History     []past      `json:"history"`

	Kept    bool         `json:"-"` // always
	Charts  []chart      `json:"-"`
	Order   string       `json:"-"`
	Rows    []methodRow  `json:"-"` // of Methods, those that the page shows
	Notable []*methodRow `json:"-"`
}

// Left returns how many methods are not shown.
func (o *overview) Left() int64 { return int64(len(o.Methods) - len(o.Rows)) }

// The orders of methods, by what there was of late and then since they are counted.
var orders = map[string]func(c *counts) int64{
	"extra":  func(c *counts) int64 { return c.Extra() },
	"denied": func(c *counts) int64 { return c.Denied },
	"failed": func(c *counts) int64 { return c.Failed },
	"calls":  func(c *counts) int64 { return c.Calls },
	"name":   func(*counts) int64 { return 0 },
}

func (o *overview) sort() {
	of := orders[o.Order]
	slices.SortStableFunc(o.Methods, func(a, b methodRow) int {
		c := cmp.Or(cmp.Compare(of(&b.Recent), of(&a.Recent)), cmp.Compare(of(&b.Total), of(&a.Total)))
		if c != 0 || o.Order == "name" {
			return c
		}
		return cmp.Or(
			cmp.Compare(b.Recent.trouble(), a.Recent.trouble()), cmp.Compare(b.Recent.Calls, a.Recent.Calls), cmp.Compare(b.Total.Calls, a.Total.Calls))
	})
}

// shown is how many methods, or budgets, a page has unless it is asked for all.
const shown = 100

// overview returns what there is to say of all methods, sorted.
func (h *Handler) overview(order string, all bool) *overview {
	o := &overview{Order: order, Kept: true}
	h.history.look(func(s *interceptor.State) {
		o.head = h.history.headLocked("overview", s.Time)
		o.ReplayBytes, o.ReplayLimit = s.ReplayBytes, s.ReplayLimit
		o.Policies = policiesOf(s)
		o.History, o.Recent = h.history.sumLocked(s)
		n := 0
		for i := range s.Targets {
			n += len(s.Targets[i].Methods)
		}
		o.Methods = make([]methodRow, 0, n)
		for i := range s.Targets {
			t := &s.Targets[i]
			for j := range t.Methods {
				o.Methods = append(o.Methods, h.history.rowLocked(t.Name, &t.Methods[j], s.Time))
				o.Total.add(o.Methods[len(o.Methods)-1].Total)
			}
		}
		o.sort()
		if o.Rows = o.Methods; !all {
			o.Rows = o.Methods[:min(len(o.Methods), shown)]
		}
		h.history.sparkLocked(o.Rows, o.History)
	})
	o.Notable = notable(o.Methods)
	o.Charts = callCharts(o.History)
	return o
}

// notable returns those methods with hints that most is to be said of.
func notable(rows []methodRow) (list []*methodRow) {
	for i := range rows {
		if len(rows[i].Hints) > 0 {
			list = append(list, &rows[i])
		}
	}
	slices.SortStableFunc(list, func(a, b *methodRow) int { return cmp.Compare(b.Recent.trouble(), a.Recent.trouble()) })
	return list[:min(len(list), 6)]
}

func (h *history) rowLocked(target string, m *interceptor.MethodState, now time.Time) methodRow {
	k := key{target, m.Method}
	total := totalsOf(m)
	row := methodRow{Target: target, Method: spell(m.Method), name: m.Method, Registered: m.Registered, Since: m.Since, Total: total.counts()}
	var recent totals
	since, ok := h.knownLocked(h.methods[k], m)
	if row.Kept = ok; ok {
		recent = h.recentLocked(k, m)
		row.Recent, row.Covers = recent.counts(), now.Sub(since).Seconds()
		row.Known = &row.Recent
	} else {
		row.Note = noHistory
	}
	row.FailedAs, row.DeniedAs = byReason(&recent.ends, endReason), byReason(&recent.denials, denialReason)
	row.Hints = hintsOf(&row, &recent)
	return row
}

// noHistory is said of a method of which nothing is known of late.
var noHistory = "There are more methods than have a history, which is kept of " + webpage.Number(maxSeries) + ", or this one has just got a place: what it did of late is not known."

// Unknown returns how many of the rows have no history.
func (o *overview) Unknown() (n int) {
	for i := range o.Rows {
		if !o.Rows[i].Kept {
			n++
		}
	}
	return n
}
