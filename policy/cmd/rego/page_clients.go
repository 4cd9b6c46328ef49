package main

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"time"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// clientsPage is a page of the list of clients.
type clientsPage struct {
	pageHead
	Service string   `json:"service"` // empty for all
	State   string   `json:"state"`   // empty for all that are connected
	Summary object   `json:"summary"` // rego.v1.SummarizeClientsResponse
	Clients []object `json:"clients"` // rego.v1.Client
	Next    string   `json:"next"`    // what to ask the next page with, as after=…; empty if there is none
	Looked  int      `json:"looked"`  // at how many clients for this page

	After string         `json:"-"`
	Count serviceCount   `json:"-"`
	Rows  []clientRow    `json:"-"`
	Names []serviceCount `json:"-"` // of services
	Left  int64          `json:"-"` // services
}

// What a page of clients takes at most.
const (
	clientRows  = 200 // without a state
	clientLooks = 10  // pages of the service, of a thousand clients each
	enoughRows  = 100 // of a state, after which it does not look further
)

// clientStates are what clients can be listed by.
var clientStates = map[string]func(*regov1.Client) bool{
	"current":      stateIs(regov1.ClientState_CLIENT_STATE_CURRENT),
	"pending":      stateIs(regov1.ClientState_CLIENT_STATE_PENDING),
	"refused":      stateIs(regov1.ClientState_CLIENT_STATE_REFUSED),
	"without":      stateIs(regov1.ClientState_CLIENT_STATE_UNSPECIFIED),
	"disconnected": stateIs(regov1.ClientState_CLIENT_STATE_DISCONNECTED),
	"warned":       func(c *regov1.Client) bool { return len(c.GetWarnings()) > 0 },
	"canary":       func(c *regov1.Client) bool { return c.GetCanary() },
}

func stateIs(s regov1.ClientState) func(*regov1.Client) bool {
	return func(c *regov1.Client) bool { return c.GetState() == s }
}

// maxLinked is the longest name of a service that links have. A client's words are shorter.
const maxLinked = 1 << 10

// clientsURL is where clients of a service and in a state are listed, after a place.
func clientsURL(service, state, after string) string {
	if len(service) > maxLinked {
		service = ""
	}
	q := make(url.Values)
	for name, value := range map[string]string{"service": service, "state": state, "after": after} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if len(q) == 0 {
		return "clients"
	}
	return "clients?" + q.Encode()
}

// clients makes the page.
func (p *pages) clients(ctx context.Context, query url.Values, inJSON bool) (string, any, error) {
	c := &clientsPage{
		pageHead: pageHead{time.Now(), "clients"},
		Service:  query.Get("service"), State: query.Get("state"), After: query.Get("after"),
	}
	if clientStates[c.State] == nil {
		c.State = ""
	}
	list, err := p.look(ctx, c)
	if err != nil {
		return "", nil, err
	}
	sum, err := p.fleet.SummarizeClients(ctx, &regov1.SummarizeClientsRequest{Service: c.Service})
	if err != nil {
		return "", nil, err
	}
	if inJSON {
		c.Summary, c.Clients = objectOf(sum), make([]object, len(list))
		for i, l := range list {
			c.Clients[i] = objectOf(l)
		}
		return "", c, nil
	}
	for _, n := range countsOf(sum) {
		c.Count.add(n)
	}
	c.Count.Clients = sum.GetClients()
	if c.Service != "" {
		if sum, err = p.fleet.SummarizeClients(ctx, new(regov1.SummarizeClientsRequest)); err != nil {
			return "", nil, err
		}
	}
	names := countsOf(sum)
	slices.SortStableFunc(names, func(a, b serviceCount) int { return strings.Compare(a.Service, b.Service) })
	c.Names, c.Left = someOf(names, false)
	for _, l := range list {
		c.Rows = append(c.Rows, clientRow{l, c.Time})
	}
	return "clients.html", c, nil
}

// look returns the clients of the page, and notes where the next one begins. Of a state there can be
// few among many clients, so it does not look at all of them at once.
func (p *pages) look(ctx context.Context, c *clientsPage) (list []*regov1.Client, err error) {
	is := clientStates[c.State]
	c.Next = c.After
	for range clientLooks {
		size := int32(clientRows)
		if is != nil {
			size = int32(pageLimit - len(list))
		}
		m, err := p.fleet.ListClients(ctx, &regov1.ListClientsRequest{
			Service: c.Service, Disconnected: c.State == "disconnected", PageSize: size, PageToken: c.Next,
		})
		if err != nil {
			return nil, err
		}
		c.Looked += len(m.GetClients())
		for _, l := range m.GetClients() {
			if is == nil || is(l) {
				list = append(list, l)
			}
		}
		c.Next = m.GetNextPageToken()
		if is == nil || c.Next == "" || len(list) >= enoughRows {
			break
		}
	}
	return list, nil
}

// clientRow is a client as the page shows it.
type clientRow struct {
	*regov1.Client
	now time.Time
}

// Word is the state of it.
func (c clientRow) Word() string { return clientWord(c.GetState()) }

// Class says how its state is shown.
func (c clientRow) Class() string {
	switch c.GetState() {
	case regov1.ClientState_CLIENT_STATE_CURRENT:
		return "good"
	case regov1.ClientState_CLIENT_STATE_REFUSED:
		return "bad"
	default:
		return ""
	}
}

// Seconds is since when it is connected.
func (c clientRow) Seconds() float64 { return c.now.Sub(c.GetConnected().AsTime()).Seconds() }

// Labels are its labels, by name.
func (c clientRow) Labels() (labels []string) {
	of := c.GetNode().GetLabels()
	names := make([]string, 0, len(of))
	for name := range of {
		names = append(names, name)
	}
	slices.Sort(names)
	const most = 4
	for _, name := range names[:min(len(names), most)] {
		labels = append(labels, pageText(name+"="+of[name]))
	}
	return labels
}

// Owes is for how long it has owed an answer, in seconds; 0 if it owes none.
func (c clientRow) Owes() float64 { return c.GetPending().AsDuration().Seconds() }

// Gone is since when it is, in seconds; 0 if it is connected.
func (c clientRow) Gone() float64 {
	if c.GetLastSeen() == nil {
		return 0
	}
	return max(1, c.now.Sub(c.GetLastSeen().AsTime()).Seconds())
}

// Faults are the reasons of its refusal, as many as a page has room for.
func (c clientRow) Faults() []string { return textsOf(c.GetRefusal().GetFaults()) }

// Warns are its warnings, likewise.
func (c clientRow) Warns() []string { return textsOf(c.GetWarnings()) }

func textsOf(faults []*regov1.Fault) (texts []string) {
	const most = 20
	for _, f := range faults[:min(len(faults), most)] {
		texts = append(texts, pageText(someFaults([]*regov1.Fault{f})))
	}
	if n := len(faults) - most; n > 0 {
		texts = append(texts, "and "+grouped(uint64(n))+" more")
	}
	return texts
}
