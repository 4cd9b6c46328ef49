package debugpage

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/webpage"
	"github.com/rego-go/rego/policy"
)

// methodPage is what there is to say of one method.
type methodPage struct {
	head
	methodRow
	Calls       []callRow    `json:"calls"`
	Attempts    []attemptRow `json:"attempts"`
	Denials     []denialRow  `json:"denials"`
	Reconnects  int64        `json:"reconnects"`
	Unreachable float64      `json:"unreachable_seconds"`
	Wasted      float64      `json:"wasted_seconds"`
	ReplayBytes int64        `json:"replay_bytes"`
	Policy      policyView   `json:"policy"`
	Hedging     *hedgingView `json:"hedging"`
	// Samples are null, and SamplesHidden is true, for those who may not see them.
	Samples       []sampleView `json:"samples"`
	SamplesHidden bool         `json:"samples_hidden"`
	History       []past       `json:"history"`

	Charts []chart `json:"-"`
}

type callRow struct {
	Code   string `json:"code"`
	Reason string `json:"reason"`
	Count  int64  `json:"count"`
}

// Means says what it means that a call ended so.
func (c callRow) Means() string { return webpage.EndMeans[c.Reason] }

type attemptRow struct {
	Kind     string `json:"kind"`
	WaitedOn string `json:"waited_on"`
	Result   string `json:"result"`
	Delivery string `json:"delivery"`
	Code     string `json:"code"`
	Count    int64  `json:"count"`
}

type denialRow struct {
	Kind   string `json:"kind"`
	Reason string `json:"reason"`
	Count  int64  `json:"count"`
}

// Means says what it means that an attempt was denied so.
func (d denialRow) Means() string { return webpage.DenialMeans[d.Reason] }

// policyView is the policy in force, where it is from, and what it leads to.
type policyView struct {
	Name     string       `json:"name"`
	Version  string       `json:"version"`
	Sources  []sourceView `json:"sources"` // in the order in which they are asked
	Fields   []fieldView  `json:"fields"`
	Attempts int          `json:"max_attempts"`
	Hedges   string       `json:"hedges_begin"`
	Schedule []stepView   `json:"schedule"`
	// Overloaded is the schedule if the server answers RESOURCE_EXHAUSTED, where that is another one.
	Overloaded []stepView `json:"overloaded,omitempty"`
	Waits      string     `json:"waits"`
	Time       string     `json:"worst_time"`
	Load       string     `json:"worst_load"`
}

type sourceView struct {
	Source   string `json:"source"`
	Rule     int    `json:"rule"` // -1 if none
	Selector string `json:"selector"`
	Has      bool   `json:"has"`
	Used     bool   `json:"used"`
}

type fieldView struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	From  string `json:"from"`
}

// IsDefault says that no source has the field.
func (f fieldView) IsDefault() bool { return f.From == interceptor.FromDefault.String() }

type stepView struct {
	Attempt int    `json:"attempt"`
	Begins  string `json:"begins"`
}

type hedgingView struct {
	State        string         `json:"state"`
	Delay        float64        `json:"delay_seconds"`
	Samples      int64          `json:"samples"`
	Quantiles    []quantileView `json:"quantiles"`
	MaxExtraLoad float64        `json:"max_extra_load"`
	ExtraLoad    float64        `json:"extra_load"`
	Waiting      int64          `json:"waiting"`
}

type quantileView struct {
	Q    float64 `json:"q"`
	Time float64 `json:"seconds"`
}

// Percentile returns Q as people write it.
func (q quantileView) Percentile() string { return strconv.FormatFloat(100*q.Q, 'f', -1, 64) }

type sampleView struct {
	Kinds    []string              `json:"kinds"`
	Timeline *interceptor.Timeline `json:"timeline"`

	Waterfall *waterfall `json:"-"`
}

// method returns what there is to say of a method, nil if nothing is known of it.
func (h *Handler) method(target, name string, timelines bool) *methodPage {
	h.history.mu.Lock()
	defer h.history.mu.Unlock()
	m, ok := h.it.MethodState(target, name)
	if !ok && strings.HasSuffix(name, ")") { // else it is not spelt otherwise than it is
		if name, ok = h.named(target, name); ok {
			m, ok = h.it.MethodState(target, name)
		}
	}
	if !ok {
		return nil
	}
	now := time.Now()
	p := &methodPage{head: h.history.headLocked("method", now)}
	p.methodRow = h.history.rowLocked(target, &m, now)
	if p.Kept {
		p.Seconds = p.Covers
	}
	p.History = h.history.pastLocked(key{target, name}, &m, now)
	p.Charts = callCharts(p.History)
	p.count(&m)
	p.Policy, p.Hedging = policyOf(&m.Policy), hedgingOf(m.Hedging)
	p.Hints = append(p.Hints, hedgingHints(m.Hedging, &p.methodRow)...)
	if p.SamplesHidden = !timelines; timelines {
		p.Samples = samplesOf(m.Samples)
	}
	return p
}

func (p *methodPage) count(m *interceptor.MethodState) {
	p.Calls, p.Attempts, p.Denials = []callRow{}, []attemptRow{}, []denialRow{}
	for _, c := range m.Calls {
		p.Calls = append(p.Calls, callRow{codeName(c.Code), c.Reason.String(), c.Count})
	}
	for _, a := range m.Attempts {
		p.Attempts = append(p.Attempts, attemptRow{a.Kind.String(), a.WaitedOn.String(), a.Result.String(), a.Delivery.String(), codeName(a.Code), a.Count})
	}
	for _, d := range m.Denials {
		p.Denials = append(p.Denials, denialRow{d.Kind.String(), d.Reason.String(), d.Count})
	}
	p.Reconnects, p.Unreachable = m.Reconnects, m.Unreachable.Seconds()
	p.Wasted, p.ReplayBytes = m.Wasted.Seconds(), m.ReplayBytes
}

func policyOf(s *interceptor.PolicyState) policyView {
	e := s.Effective.Explain(s.Budget)
	v := policyView{
		Name: s.Name, Version: s.Version, Fields: []fieldView{},
		Attempts: e.Attempts, Hedges: e.Hedging, Waits: e.Waits, Time: e.Time, Load: e.Load,
	}
	for _, of := range s.Sources {
		v.Sources = append(v.Sources, sourceView{of.Source.String(), of.Rule, of.Selector, of.Has, of.Used})
	}
	for _, f := range s.Fields {
		v.Fields = append(v.Fields, fieldView(f))
	}
	for _, step := range e.Steps {
		v.Schedule = append(v.Schedule, stepOf(step))
	}
	for _, step := range e.Overloaded {
		v.Overloaded = append(v.Overloaded, stepOf(step))
	}
	return v
}

func stepOf(s policy.Step) stepView { return stepView{s.Number, s.Begins} }

func hedgingOf(s *interceptor.HedgingState) *hedgingView {
	if s == nil {
		return nil
	}
	v := &hedgingView{
		State: s.State, Delay: s.Delay.Seconds(), Samples: s.Samples, Quantiles: []quantileView{},
		MaxExtraLoad: s.MaxExtraLoad, ExtraLoad: s.ExtraLoad, Waiting: s.Waiting,
	}
	if s.Samples > 0 {
		for _, q := range s.Quantiles {
			v.Quantiles = append(v.Quantiles, quantileView{q.Q, q.Time.Seconds()})
		}
	}
	return v
}

// samplesOf returns each call once: the newest of each kind, and then the others.
func samplesOf(list []interceptor.Sample) []sampleView {
	views := []sampleView{}
	at := make(map[*interceptor.Timeline]int)
	newest := make(map[*interceptor.Timeline]bool)
	for n, s := range list {
		if n == 0 || list[n-1].Kind != s.Kind {
			newest[s.Timeline] = true
		}
		i, ok := at[s.Timeline]
		if !ok {
			i = len(views)
			at[s.Timeline] = i
			views = append(views, sampleView{Timeline: s.Timeline, Waterfall: waterfallOf(s.Timeline)})
		}
		views[i].Kinds = append(views[i].Kinds, s.Kind.String())
	}
	slices.SortStableFunc(views, func(a, b sampleView) int {
		return cmp.Or(cmp.Compare(b2i(newest[b.Timeline]), b2i(newest[a.Timeline])), b.Timeline.End.Compare(a.Timeline.End))
	})
	return views
}

// featured is how many samples the page shows at once, one of each kind.
const featured = 5

// Featured returns the samples that the page shows at once.
func (p *methodPage) Featured() []sampleView { return p.Samples[:min(len(p.Samples), featured)] }

// Folded returns the samples that the page shows when asked.
func (p *methodPage) Folded() []sampleView { return p.Samples[min(len(p.Samples), featured):] }
