package debugpage

import (
	"time"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/policy"
)

// policies is what there is to say of a store.
type policies struct {
	State         string     `json:"state"`
	Version       string     `json:"version"`
	Epoch         uint64     `json:"epoch"`
	Revision      uint64     `json:"revision"`
	Source        string     `json:"source"`
	Accepted      *time.Time `json:"accepted"`
	Confirmed     *time.Time `json:"confirmed"`
	Age           float64    `json:"age_seconds"`
	Refusals      int64      `json:"refusals"` // since the store was made
	Refusal       *refusal   `json:"refusal"`  // the last, null if a set was taken since
	Lost          string     `json:"lost"`
	SnapshotError string     `json:"snapshot_error"`
	NoEffect      []string   `json:"no_effect"`
	Unknown       []string   `json:"unknown_selectors"`
	Hints         []string   `json:"hints"`
}

// refusal is a set that was not taken, and every fault of it.
type refusal struct {
	Source   string    `json:"source"`
	Version  string    `json:"version"`
	Revision uint64    `json:"revision"`
	Time     time.Time `json:"time"`
	Error    string    `json:"error"`
}

func policiesOf(s *interceptor.State) policies {
	st := &s.Policies
	p := policies{
		State: st.State().String(), Version: st.Version, Epoch: st.Epoch, Revision: st.Revision, Source: st.Source,
		Accepted: given(st.Accepted), Confirmed: given(st.Confirmed), Age: st.Age(s.Time).Seconds(),
		Refusals: st.Refusals, Lost: errorText(st.Lost), SnapshotError: errorText(st.SnapshotErr),
		NoEffect: []string{}, Unknown: append([]string{}, s.Rules.Unknown...),
	}
	for _, f := range s.Rules.NoEffect {
		p.NoEffect = append(p.NoEffect, f.Error())
	}
	if r := st.Refusal; r != nil {
		p.Refusal = &refusal{r.Source, r.Version, r.Revision, r.Time, errorText(r.Err)}
	}
	p.Hints = policyHints(&p)
	return p
}

// Bad says that the state deserves a look.
func (p *policies) Bad() bool {
	return p.State == policy.StateRefused.String() || p.State == policy.StateStale.String()
}

// FirstHints are as many as the overview has room for.
func (p *policies) FirstHints() []string { return p.Hints[:min(len(p.Hints), 4)] }

func given(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// policiesPage is the page of the store.
type policiesPage struct {
	head
	Policies policies `json:"policies"`
}

func (h *Handler) policies() *policiesPage {
	p := new(policiesPage)
	h.history.look(func(s *interceptor.State) {
		p.head = h.history.headLocked("policies", s.Time)
		p.Policies = policiesOf(s)
	})
	return p
}
