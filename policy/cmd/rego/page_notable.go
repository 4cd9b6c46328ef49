package main

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/rego-go/rego/internal/webpage"
)

// notable is something that is worth a look.
type notable struct {
	About string   `json:"about"`
	Hints []string `json:"hints"` // in words that may change

	Link  string `json:"-"` // to the clients that it is about, empty if it is about none
	grave int
}

// How grave it is: what deserves a look first is higher.
const (
	aside = iota
	soon
	now
	first
)

// findNotable says in words what stands out.
func (o *overviewPage) findNotable() []notable {
	list, at := []notable{}, make(map[string]int)
	add := func(grave int, about, link string, format string, args ...any) {
		hint := fmt.Sprintf(format, args...)
		i, known := at[about]
		switch {
		case known:
			n := &list[i]
			n.Hints, n.grave, n.Link = append(n.Hints, hint), max(n.grave, grave), cmp.Or(n.Link, link)
		case len(list) < pageLimit:
			at[about] = len(list)
			list = append(list, notable{about, []string{hint}, link, grave})
		}
	}
	for _, m := range o.missing {
		add(first, "the control plane", "", "It cannot be told %s.", m)
	}
	o.notableReplicas(add)
	o.notableStores(add)
	o.notableClients(add)
	o.notableRollouts(add)
	for i := range o.Traffic.Methods {
		o.notableMethod(&o.Traffic.Methods[i], add)
	}
	slices.SortStableFunc(list, func(a, b notable) int { return cmp.Compare(b.grave, a.grave) })
	return list
}

type addNotable func(grave int, about, link string, format string, args ...any)

func (o *overviewPage) notableReplicas(add addNotable) {
	for _, r := range replicaRows(o.server, o.now) {
		if r.Bad() {
			add(first, "replica "+pageText(r.Name), "", "It has not told of itself for %s: it has ended, or does not reach the storage. Its clients go on with what they have.", webpage.Ago(r.Silent.Seconds()))
		}
	}
}

func (o *overviewPage) notableStores(add addNotable) {
	for _, s := range storeRows(o.server) {
		about := "policies of " + orOthers(pageText(s.GetService()), "(all others)")
		for _, note := range s.Notes() {
			add(first, about, "", "%s. What was in force before still is.", upper(note))
		}
	}
}

func upper(text string) string {
	if text == "" || text[0] < 'a' || text[0] > 'z' {
		return text
	}
	return string(text[0]-'a'+'A') + text[1:]
}

func (o *overviewPage) notableClients(add addNotable) {
	var all uint64
	for _, c := range countsOf(o.summary) {
		about := "clients of " + orOthers(pageText(c.Service), "no service")
		link := func(state string) string { return clientsURL(c.Service, state, "") }
		if c.Refused > 0 {
			add(now, about, link("refused"), "%s refused the newest set and kept an earlier one.", have(c.Refused))
		}
		late := 0
		for _, l := range o.late {
			if l.GetNode().GetService() == c.Service {
				late++
			}
		}
		if late > 0 {
			add(soon, about, link("pending"), "At least %s not answered for %s: slow, stopped, or cut off.", have(uint64(late)), webpage.Ago(long.Seconds()))
		}
		if c.Warned > 0 {
			add(aside, about, link("warned"), "%s a warning: a part of the policies has no effect there.", have(c.Warned))
		}
		if c.Without > 0 {
			add(soon, about, link("without"), "%s no policies: the control plane has none for them.", have(c.Without))
		}
		all += c.Clients
	}
	if over := o.now.Sub(o.server.GetStarted().AsTime()); all > 0 && o.told != nil && o.told.GetReporting() == 0 && over >= long {
		add(aside, "the control plane", "", "No client tells what its calls did, so nobody judges rollouts. --report-every is 0, or the clients' code has no controlplane.WithReports.")
	}
}

// have says that so many clients have something.
func have(n uint64) string {
	if n == 1 {
		return "1 client has"
	}
	return grouped(n) + " clients have"
}

// lately is for how long a rollout that did harm is worth a look.
const lately = 3600

func (o *overviewPage) notableRollouts(add addNotable) {
	underWay, ended := rolloutViews(o.services, o.now)
	for _, r := range underWay {
		about := "rollout of " + orOthers(pageText(r.Service), "(all others)")
		if n := r.GetRefusing(); n > 0 {
			add(now, about, clientsURL(r.Service, "refused", ""), "%s refused the set that is tried out. It does not go on until they have it.", have(n))
		}
		if r.Waits() {
			add(soon, about, "", "This step should have lasted %s and goes on since %s: %s.", webpage.Ago(r.Bake()), webpage.Ago(r.Baked()), pageText(r.GetReason()))
		}
	}
	for _, r := range ended {
		if r.Rejected() && r.EndedAgo() < lately {
			add(soon, "rollout of "+orOthers(pageText(r.Service), "(all others)"), "", "Version %q was taken back %s ago: %s.", pageText(r.GetCandidate().GetVersion()), webpage.Ago(r.EndedAgo()), pageText(r.GetReason()))
		}
	}
}

func (o *overviewPage) notableMethod(r *methodTraffic, add addNotable) {
	about := pageText(orOthers(r.Service, "(others)")) + " calls " + r.Package() + r.Short()
	if r.Amplifies() {
		add(now, about, "", "%s attempts per call: %s.", webpage.TwoDecimals(r.Amplification), o.extraOf(r))
	}
	if r.Fails() {
		e := r.FailedAs()[0]
		add(soon, about, "", "%s of calls fail, most with %s as %s%s.", webpage.Percent(r.failedShare()), e.Code, pageText(e.Reason), because(webpage.EndMeans[e.Reason]))
	}
	if i := slices.IndexFunc(r.Denied, func(d denied) bool { return !ofNoUse[d.Reason] }); i >= 0 && r.IsDenied() {
		d := r.Denied[i]
		add(soon, about, "", "%s extra attempts a second are denied as %s%s.", o.Rate(d.Count), pageText(d.Reason), because(webpage.DenialMeans[d.Reason]))
	}
}

// extraOf says what the extra attempts are.
func (o *overviewPage) extraOf(r *methodTraffic) string {
	switch {
	case r.Hedges == 0:
		return o.Rate(r.Retries) + " retries a second"
	case r.Retries == 0:
		return o.Rate(r.Hedges) + " hedges a second"
	}
	return fmt.Sprintf("%s retries and %s hedges a second", o.Rate(r.Retries), o.Rate(r.Hedges))
}

// ofNoUse are reasons of denials that nobody has to do anything about.
var ofNoUse = map[string]bool{"few-samples": true, "disabled": true, "chain-stopped": true, "trigger": true}

func because(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}
