package main

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"time"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// overviewPage is what there is to say of the fleet.
type overviewPage struct {
	pageHead
	Server   object    `json:"server"`   // rego.v1.GetServerStateResponse
	Summary  object    `json:"summary"`  // rego.v1.SummarizeClientsResponse
	Traffic  traffic   `json:"traffic"`  // as rego top prints it, in the order that was asked for
	Services []object  `json:"services"` // rego.v1.ServicePolicies
	Notable  []notable `json:"notable"`
	Missing  []string  `json:"missing"` // what could not be found out, and why

	fleetView

	Order    string                                                     `json:"-"`
	All      bool                                                       `json:"-"`
	Rows     []methodTraffic                                            `json:"-"` // of Traffic, those that the page shows
	Total    methodTraffic                                              `json:"-"`
	Replicas []replicaRow                                               `json:"-"`
	Stores   []storeRow                                                 `json:"-"`
	Counts   []serviceCount                                             `json:"-"`
	Fleet    serviceCount                                               `json:"-"` // of all services
	UnderWay []rolloutView                                              `json:"-"`
	Ended    []rolloutView                                              `json:"-"`
	Left     struct{ Stores, Counts, Methods, Notable, Replicas int64 } `json:"-"`
}

// fleetView is what the services of a control plane tell, as the overview is made of it.
type fleetView struct {
	now      time.Time
	server   *regov1.GetServerStateResponse
	summary  *regov1.SummarizeClientsResponse
	told     *regov1.ListTrafficResponse
	services []*regov1.ServicePolicies
	late     []*regov1.Client // some that have owed an answer for long
	missing  []string
}

// What a page shows at most of a kind, unless it is asked for all, and then.
const (
	pageShows = 100
	pageLimit = 1000
)

// someOf returns the rows that a page shows, and how many it does not.
func someOf[T any](rows []T, all bool) (some []T, left int64) {
	most := pageShows
	if all {
		most = pageLimit
	}
	some = rows[:min(len(rows), most)]
	return some, int64(len(rows) - len(some))
}

// ask asks the services. What cannot be had is told, and the rest is shown: an operator looks when
// something is out of order.
func (p *pages) ask(ctx context.Context) fleetView {
	ctx, cancel := context.WithTimeout(ctx, pageTakes)
	defer cancel()
	v := fleetView{now: time.Now(), missing: []string{}}
	miss := func(what string, err error) {
		if err != nil {
			v.missing = append(v.missing, what+": "+harmless(withoutStatus(err)))
		}
	}
	var err error
	v.server, err = p.fleet.GetServerState(ctx, new(regov1.GetServerStateRequest))
	miss("what the control plane serves", err)
	v.summary, err = p.fleet.SummarizeClients(ctx, new(regov1.SummarizeClientsRequest))
	miss("which clients there are", err)
	v.told, err = p.fleet.ListTraffic(ctx, new(regov1.ListTrafficRequest))
	miss("what calls did", err)
	services, err := p.admin.ListServices(ctx, new(regov1.ListServicesRequest))
	v.services = services.GetServices()
	miss("which rollouts there are", err)
	v.late = p.findLate(ctx, v.summary)
	return v
}

// long is for how long a client may owe an answer before somebody should look.
const long = 30 * time.Second

// findLate returns clients that have owed an answer for long, of the services that have most that
// owe one. It does not look at all clients of a large service.
func (p *pages) findLate(ctx context.Context, sum *regov1.SummarizeClientsResponse) (late []*regov1.Client) {
	counts := countsOf(sum)
	slices.SortStableFunc(counts, func(a, b serviceCount) int { return cmp.Compare(b.Pending, a.Pending) })
	const services = 3
	for _, c := range counts[:min(len(counts), services)] {
		if c.Pending == 0 {
			break
		}
		list, err := p.fleet.ListClients(ctx, &regov1.ListClientsRequest{Service: c.Service})
		if err != nil {
			break // it is only a hint
		}
		for _, l := range list.GetClients() {
			if l.GetPending().AsDuration() >= long {
				late = append(late, l)
			}
		}
	}
	return late
}

// overview makes the page.
func (p *pages) overview(ctx context.Context, query url.Values, inJSON bool) (string, any, error) {
	v := p.ask(ctx)
	o := &overviewPage{
		pageHead: pageHead{v.now, "overview"}, fleetView: v, Missing: v.missing, Order: query.Get("sort"), All: query.Has("all"),
		Traffic: traffic{v.told.GetOver().AsDuration().Seconds(), v.told.GetReporting(), v.told.GetLeftOut(), rowsOf(v.told)},
	}
	if pageOrders[o.Order] == nil {
		o.Order = "trouble"
	}
	sortRows(o.Traffic.Methods, o.Order)
	o.Notable = o.findNotable()
	if inJSON {
		o.Server, o.Summary, o.Services = objectOf(v.server), objectOf(v.summary), make([]object, len(v.services))
		for i, s := range v.services {
			o.Services[i] = objectOf(s)
		}
		return "", o, nil
	}
	o.show()
	return "overview.html", o, nil
}

// show makes what the page shows.
func (o *overviewPage) show() {
	for i := range o.Traffic.Methods {
		m := &o.Traffic.Methods[i]
		o.Total.Calls += m.Calls
		o.Total.Failed += m.Failed
		o.Total.Retries += m.Retries
		o.Total.Hedges += m.Hedges
		o.Total.Denials += m.Denials
	}
	o.Total.Amplification = amplification(&o.Total)
	o.Rows, o.Left.Methods = someOf(o.Traffic.Methods, o.All)
	o.Left.Methods += int64(o.Traffic.LeftOut)
	o.Replicas, o.Left.Replicas = someOf(replicaRows(o.server, o.now), o.All)
	o.Stores, o.Left.Stores = someOf(storeRows(o.server), o.All)
	counts := countsOf(o.summary)
	for _, c := range counts {
		o.Fleet.add(c)
	}
	o.Fleet.Clients = o.summary.GetClients()
	o.Counts, o.Left.Counts = someOf(counts, o.All)
	o.UnderWay, o.Ended = rolloutViews(o.services, o.now)
	const hints = 12
	all := o.Notable
	o.Notable = all[:min(len(all), hints)]
	o.Left.Notable = int64(len(all) - len(o.Notable))
}

// replicaRow is a replica of the control plane.
type replicaRow struct {
	Name    string
	Since   time.Time
	Silent  time.Duration // since it has last told of itself
	Clients uint64
}

// silence is for how long a replica may not tell of itself: a lease that is not renewed ends then.
const silence = 10 * time.Second

// Bad says that it deserves a look.
func (r *replicaRow) Bad() bool { return r.Silent >= silence }

// SilentSeconds is since when it has not told of itself.
func (r *replicaRow) SilentSeconds() float64 { return r.Silent.Seconds() }

// replicaRows returns the replicas; the one alone that there is if nothing else is told.
func replicaRows(s *regov1.GetServerStateResponse, now time.Time) (rows []replicaRow) {
	for _, r := range s.GetReplicas() {
		rows = append(rows, replicaRow{r.GetName(), r.GetStarted().AsTime(), max(0, now.Sub(r.GetTold().AsTime())), r.GetClients()})
	}
	if len(rows) == 0 && s != nil {
		rows = append(rows, replicaRow{"this one", s.GetStarted().AsTime(), 0, s.GetClients()})
	}
	return rows
}

// storeRow is a set that is served.
type storeRow struct{ *regov1.StoreState }

// Word is the standing of it.
func (s storeRow) Word() string { return wordOf(s.GetStanding(), "STANDING_") }

// Seconds is its age.
func (s storeRow) Seconds() float64 { return s.GetAge().AsDuration().Seconds() }

// Bad says that it deserves a look.
func (s storeRow) Bad() bool {
	return s.GetStanding() == regov1.Standing_STANDING_REFUSED || s.GetStanding() == regov1.Standing_STANDING_STALE
}

// Notes say what is not as it should be.
func (s storeRow) Notes() (notes []string) {
	if s.GetLost() != "" {
		notes = append(notes, "out of reach: "+pageText(s.GetLost()))
	}
	if r := s.GetRefusal(); r != nil {
		text := "refused what came then"
		if r.GetVersion() != "" {
			text = fmt.Sprintf("refused version %q", pageText(r.GetVersion()))
		}
		notes = append(notes, text+": "+pageText(someFaults(r.GetFaults())))
	}
	if s.GetSnapshotError() != "" {
		notes = append(notes, "snapshot: "+pageText(s.GetSnapshotError()))
	}
	return notes
}

// storeRows returns those that deserve a look first.
func storeRows(s *regov1.GetServerStateResponse) []storeRow {
	rows := make([]storeRow, len(s.GetStores()))
	for i, st := range s.GetStores() {
		rows[i] = storeRow{st}
	}
	slices.SortStableFunc(rows, func(a, b storeRow) int { return cmp.Compare(len(b.Notes()), len(a.Notes())) })
	return rows
}

// serviceCount is how many clients a service has.
type serviceCount struct {
	Service                                             string
	Clients, Current, Pending, Refused, Without, Warned uint64
}

func (s *serviceCount) add(o serviceCount) {
	s.Clients += o.Clients
	s.Current += o.Current
	s.Pending += o.Pending
	s.Refused += o.Refused
	s.Without += o.Without
	s.Warned += o.Warned
}

// countsOf returns the clients of each service; those with clients that deserve a look first.
func countsOf(sum *regov1.SummarizeClientsResponse) (all []serviceCount) {
	for _, c := range sum.GetCounts() { // they are by service
		if n := len(all); n == 0 || all[n-1].Service != c.GetService() {
			all = append(all, serviceCount{Service: c.GetService()})
		}
		n := serviceCount{Clients: c.GetClients(), Warned: c.GetWarned()}
		switch c.GetState() {
		case regov1.ClientState_CLIENT_STATE_CURRENT:
			n.Current = n.Clients
		case regov1.ClientState_CLIENT_STATE_PENDING:
			n.Pending = n.Clients
		case regov1.ClientState_CLIENT_STATE_REFUSED:
			n.Refused = n.Clients
		case regov1.ClientState_CLIENT_STATE_UNSPECIFIED, regov1.ClientState_CLIENT_STATE_DISCONNECTED:
			n.Without = n.Clients
		}
		all[len(all)-1].add(n)
	}
	slices.SortStableFunc(all, func(a, b serviceCount) int {
		return cmp.Or(cmp.Compare(b.Refused, a.Refused), cmp.Compare(b.Pending, a.Pending), cmp.Compare(b.Clients, a.Clients))
	})
	return all
}
