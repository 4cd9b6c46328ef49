package main

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// pageStub is a stub that also tells of itself, and wants to be asked by this program.
type pageStub struct {
	*stub
	t     *testing.T
	state *regov1.GetServerStateResponse
	err   error // of ListServices
}

func (s pageStub) GetServerState(ctx context.Context, _ *regov1.GetServerStateRequest) (*regov1.GetServerStateResponse, error) {
	assert.NotNil(s.t, ctx.Value(ourselves{}))
	return s.state, nil
}

func (s pageStub) ListServices(ctx context.Context, _ *regov1.ListServicesRequest) (*regov1.ListServicesResponse, error) {
	assert.NotNil(s.t, ctx.Value(ourselves{}))
	return s.services, s.err
}

// stubFleet is a fleet in which everything has one name and something is wrong with all of it.
func stubFleet(t *testing.T, name string) pageStub {
	t.Helper()
	ago := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(time.Now().Add(-d)) }
	refusal := &regov1.Refusal{Version: name, Revision: 8, Time: ago(time.Minute), Faults: []*regov1.Fault{{Path: name, Text: name}, {Path: name, Text: name}}}
	state := func(s regov1.ClientState) *regov1.Client {
		return &regov1.Client{
			Node: &regov1.Node{Service: name, Instance: name, Labels: map[string]string{name: name}}, Peer: name, Version: name, Revision: 7,
			Connected: ago(time.Hour), State: s, Replica: name,
		}
	}
	refused, late, gone := state(regov1.ClientState_CLIENT_STATE_REFUSED), state(regov1.ClientState_CLIENT_STATE_PENDING), state(regov1.ClientState_CLIENT_STATE_DISCONNECTED)
	refused.Refusal, refused.Warnings, refused.Canary = refusal, refusal.GetFaults(), true
	late.Pending, gone.LastSeen = durationpb.New(time.Minute), ago(time.Minute)
	ended := trying(name, regov1.RolloutState_ROLLOUT_STATE_REJECTED)
	ended.Ended = ago(time.Minute)
	return pageStub{
		t: t,
		stub: &stub{
			clients: func(*regov1.ListClientsRequest) *regov1.ListClientsResponse {
				return &regov1.ListClientsResponse{Clients: []*regov1.Client{refused, late, gone}, NextPageToken: name}
			},
			summary: &regov1.SummarizeClientsResponse{Clients: 3, Counts: []*regov1.ClientCount{
				{Service: name, State: regov1.ClientState_CLIENT_STATE_PENDING, Clients: 1},
				{Service: name, State: regov1.ClientState_CLIENT_STATE_CURRENT, Clients: 0},
				{Service: name, State: regov1.ClientState_CLIENT_STATE_REFUSED, Clients: 2, Warned: 1},
			}},
			traffic: func(int) (*regov1.ListTrafficResponse, error) {
				return &regov1.ListTrafficResponse{Over: durationpb.New(50 * time.Second), Traffic: []*regov1.Traffic{{
					Service: name, Method: name, Retries: 1000, Hedges: 500, Ends: []*regov1.EndCount{
						{Code: regov1.Code_OK, Reason: "succeeded", Calls: 800}, {Code: regov1.Code_UNAVAILABLE, Reason: name, Calls: 200},
					},
					Denials: []*regov1.DenialCount{{Kind: name, Reason: name, Count: 100}},
				}}}, nil
			},
			services: &regov1.ListServicesResponse{Services: []*regov1.ServicePolicies{
				{Service: name, InForce: inForce(name), Rollout: trying(name, regov1.RolloutState_ROLLOUT_STATE_BAKING)},
				{Service: name + "2", InForce: inForce(name), Rollout: ended},
			}},
		},
		state: &regov1.GetServerStateResponse{
			Started: ago(time.Hour), Clients: 3,
			Stores: []*regov1.StoreState{{
				Service: name, Version: name, Revision: 7, Standing: regov1.Standing_STANDING_REFUSED, Source: name, Lost: name, Refusal: refusal,
				Refusals: 3, SnapshotError: name, Age: durationpb.New(time.Minute), Clients: 3,
			}},
			Replicas: []*regov1.ReplicaState{{Name: name, Started: ago(time.Hour), Told: ago(time.Minute), Clients: 3}},
		},
	}
}

// lookAt makes a request as one from this machine would be.
func lookAt(h http.Handler, method, at string, change ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://localhost:9903"+at, nil)
	r.RemoteAddr = "127.0.0.1:4711"
	for _, f := range change {
		f(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func seen(t *testing.T, h http.Handler, at string) string {
	t.Helper()
	w := lookAt(h, http.MethodGet, at)
	require.Equal(t, http.StatusOK, w.Code, "%s: %s", at, w.Body)
	return w.Body.String()
}

func seenJSON(t *testing.T, h http.Handler, at string) (v map[string]any) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(seen(t, h, at)), &v), at)
	return v
}

// wordsOf returns a page without its markup.
func wordsOf(page string) string {
	_, body, _ := strings.Cut(page, "<main>")
	text := html.UnescapeString(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(body, " "))
	return strings.Join(strings.Fields(text), " ")
}

// TestPageIsEscaped: names and texts are what clients and authors say.
func TestPageIsEscaped(t *testing.T) {
	t.Parallel()
	const evil = "<script>alert(1)</script>\"'&/<img src=x onerror=alert(1)>\u202e\x00{{.}}javascript:"
	s := stubFleet(t, evil)
	p := newPages(s, s, nil)
	for _, at := range []string{"/", "/?all&sort=name", "/clients", "/clients?state=refused", "/clients?state=disconnected&service=%3Ci%3E&after=%3Cb%3E"} {
		_, body, _ := strings.Cut(seen(t, p, at), "<main>")
		assert.NotRegexp(t, `(?i)<script|<img|<i>|<b>"|style="|\son[a-z]+="|href="javascript|<[^>]*src=`, body, at)
		assert.NotContains(t, body, "\u202e", at)
		assert.NotContains(t, body, "\x00", at)
		assert.Contains(t, body, "&lt;script&gt;", at)
	}
	list := seenJSON(t, p, "/clients?format=json")["clients"].([]any)
	assert.Equal(t, evil, list[0].(map[string]any)["peer"], "JSON has names as they are")
}

// TestPageTells what is worth a look, in words.
func TestPageTells(t *testing.T) {
	t.Parallel()
	s := stubFleet(t, "shop")
	s.err = status.Error(codes.Unavailable, "etcd is away")
	with := wordsOf(seen(t, newPages(s, s, nil), "/"))
	assert.Contains(t, with, "It cannot be told which rollouts there are: etcd is away.", "the rest is shown")
	s.err = nil
	with = wordsOf(seen(t, newPages(s, s, nil), "/"))
	for _, want := range []string{
		"replica shop It has not told of itself for 60 s",
		"policies of shop Out of reach: shop. What was in force before still is. Refused version \"shop\": shop: shop (and 1 more). What was in force before still is. Snapshot: shop.",
		"clients of shop 2 clients have refused the newest set and kept an earlier one.",
		"At least 1 client has not answered for 30 s: slow, stopped, or cut off.",
		"1 client has a warning: a part of the policies has no effect there.",
		"No client tells what its calls did, so nobody judges rollouts.",
		"rollout of shop 1 client has refused the set that is tried out.",
		"This step should have lasted 10 min and goes on since",
		"rollout of shop2 Version \"shop\" was taken back 60 s ago: shop.",
		"shop calls shop 2.50 attempts per call: 20 retries and 10 hedges a second. 20 % of calls fail, most with UNAVAILABLE as shop. 2 extra attempts a second are denied as shop.",
		"step 1 of 2", "5 % of the clients: 2 of 40, 1 refuse it", "Evidence of harm 1:3.71", "Taken back at 1:100",
		"canary 1,203 5.1 % 0.05 rest 24,000 0.2 % 0.01",
		"shop shop 20 20 % 2.50 20 10 2 UNAVAILABLE shop 200 denied: shop shop 100",
	} {
		assert.Contains(t, with, want)
	}
	clients := wordsOf(seen(t, newPages(s, s, nil), "/clients"))
	for _, want := range []string{
		"connected 3", "pending 1", "refused 2", "warned 1", "refused canary shop revision 7", "has owed an answer for 60 s", "gone for 60 s",
		"refused version shop, revision 8, 60 s ago: shop: shop all reasons shop: shop shop: shop without effect here: shop: shop", "next page",
	} {
		assert.Contains(t, clients, want)
	}
}

// TestPageOfNothing: a control plane that has just begun, or of which nothing can be found out.
func TestPageOfNothing(t *testing.T) {
	t.Parallel()
	s := pageStub{t: t, stub: new(stub)}
	page := wordsOf(seen(t, newPages(s, s, nil), "/"))
	assert.Contains(t, page, "It cannot be told what calls did: the stub has none.")
	assert.Contains(t, page, "No client is connected.")
	assert.Equal(t, http.StatusBadRequest, lookAt(newPages(s, s, nil), "GET", "/clients").Code)
}

// TestWhoSeesThePage: this machine and, under a name that the operator gives, whom a proxy lets in.
func TestWhoSeesThePage(t *testing.T) {
	t.Parallel()
	s := stubFleet(t, "shop")
	p := newPages(s, s, []string{"Fleet.Internal", "10.1.2.3"})
	for _, r := range []struct {
		method, at, from, host, header string
		want                           int
	}{
		{"GET", "/", "127.0.0.1:1", "localhost:9903", "", 200},
		{"HEAD", "/", "127.0.0.1:1", "localhost:9903", "", 200},
		{"GET", "/", "[::1]:1", "[::1]:9903", "", 200},
		{"GET", "/", "127.0.0.1:1", "fleet.internal", "", 200},
		{"GET", "/", "127.0.0.1:1", "fleet.internal:443", "X-Forwarded-For", 200}, // a proxy that asked for a login
		{"GET", "/", "127.0.0.1:1", "localhost:9903", "X-Forwarded-For", 403},     // one that nobody spoke of
		{"GET", "/", "127.0.0.1:1", "localhost:9903", "Via", 403},
		{"GET", "/", "10.1.2.3:1", "10.1.2.3", "", 403},      // another machine
		{"GET", "/", "10.1.2.3:1", "10.1.2.3", "Via", 403},   // the same
		{"GET", "/", "127.0.0.1:1", "evil.example", "", 421}, // DNS rebinding
		{"GET", "/", "127.0.0.1:1", "evil.example", "Via", 421},
		{"GET", "/", "127.0.0.1:1", "", "", 421},
		{"POST", "/", "127.0.0.1:1", "localhost", "", 405},
		{"DELETE", "/clients", "127.0.0.1:1", "localhost", "", 405},
		{"OPTIONS", "/", "127.0.0.1:1", "localhost", "Origin", 405},
		{"GET", "/", "127.0.0.1:1", "localhost", "Origin", 200}, // which the browser does not show to it
		{"GET", "/nothing", "127.0.0.1:1", "localhost", "", 404},
		{"GET", "/?format=xml", "127.0.0.1:1", "localhost", "", 400},
		{"GET", "/clients?service=" + strings.Repeat("x", 17<<10), "127.0.0.1:1", "localhost", "", 414},
	} {
		w := lookAt(p, r.method, r.at, func(req *http.Request) {
			req.RemoteAddr, req.Host = r.from, r.host
			if r.header != "" {
				req.Header.Set(r.header, "https://evil.example")
			}
		})
		assert.Equal(t, r.want, w.Code, "%+v", r)
		assert.Empty(t, w.Header().Get("Access-Control-Allow-Origin"))
		assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		assert.Equal(t, "DENY", w.Header().Get("X-Frame-Options"))
		assert.Equal(t, "same-origin", w.Header().Get("Cross-Origin-Resource-Policy"))
		assert.Regexp(t, `^default-src 'none'; style-src 'sha256-[^']+'; .*frame-ancestors 'none'$`, w.Header().Get("Content-Security-Policy"))
		if r.want != http.StatusOK {
			assert.NotContains(t, w.Body.String(), "shop")
		}
	}
}

// TestPageFlags: only addresses of this machine are taken.
func TestPageFlags(t *testing.T) {
	t.Parallel()
	for _, r := range []struct{ addr, host, want string }{
		{"", "", ""},
		{"localhost:9903", "", ""},
		{"127.0.0.1:0", "", ""},
		{"[::1]:9903", "fleet.internal", ""},
		{":9903", "", "only this machine can reach"},
		{"0.0.0.0:9903", "", "only this machine can reach"},
		{"[::]:9903", "", "only this machine can reach"},
		{"10.1.2.3:9903", "", "only this machine can reach"},
		{"fleet.internal:9903", "", "only this machine can reach"},
		{"localhost", "", "HOST:PORT"},
		{"", "fleet.internal", "goes with --page"},
		{"localhost:9903", "[no", "must be a name"},
		{"localhost:9903", "*", "must be a name"},
	} {
		f := pageFlags{addr: r.addr}
		if r.host != "" {
			f.hosts = []string{r.host}
		}
		if r.want == "" {
			assert.NoError(t, f.check(), "%+v", r)
		} else {
			assert.ErrorContains(t, f.check(), r.want, "%+v", r)
		}
	}
}

// TestPageIsBounded: however large a fleet is, and however long its names.
func TestPageIsBounded(t *testing.T) {
	t.Parallel()
	s := stubFleet(t, "shop")
	long := strings.Repeat("€", 83) // a word of a client has at most 256 bytes
	var counts []*regov1.ClientCount
	var rows []*regov1.Traffic
	var services []*regov1.ServicePolicies
	one, err := s.traffic(0)
	require.NoError(t, err)
	for i := range 1500 {
		c := proto.CloneOf(s.summary.GetCounts()[2])
		c.Service = fmt.Sprint(i, long)
		counts = append(counts, c)
		r := proto.CloneOf(one.GetTraffic()[0])
		r.Method = fmt.Sprint("/", i, long)
		rows = append(rows, r)
		services = append(services, &regov1.ServicePolicies{Service: c.Service, Rollout: s.services.GetServices()[i%2].GetRollout()})
		s.state.Stores = append(s.state.Stores, &regov1.StoreState{Service: c.Service, Version: long})
		s.state.Replicas = append(s.state.Replicas, &regov1.ReplicaState{Name: c.Service})
	}
	s.summary.Counts, s.services.Services = counts, services
	s.traffic = func(int) (*regov1.ListTrafficResponse, error) {
		return &regov1.ListTrafficResponse{Over: one.GetOver(), Traffic: rows, LeftOut: 7}, nil
	}
	asked := 0
	s.clients = func(r *regov1.ListClientsRequest) *regov1.ListClientsResponse {
		asked++
		m := &regov1.ListClientsResponse{NextPageToken: "more"}
		for i := range r.GetPageSize() {
			m.Clients = append(m.Clients, &regov1.Client{Node: &regov1.Node{Service: "shop", Instance: fmt.Sprint(i, long)}, Canary: i == 3})
		}
		return m
	}
	p := newPages(s, s, nil)
	for _, r := range []struct {
		at         string
		rows, most int // at most so many bytes
		says       string
	}{
		{"/", 400, 2 << 20, "1,407 more methods: <a"},
		{"/?all", 4000, 12 << 20, "507 more methods."},
		{"/clients", 200, 1 << 20, "next page"},
		{"/clients?state=canary", 10, 1 << 20, "look further"},
		{"/clients?state=refused", 0, 1 << 20, "None among the 10000 clients that were looked at."},
	} {
		asked = 0
		page := seen(t, p, r.at)
		assert.Less(t, len(page), r.most, r.at)
		n := strings.Count(page, `<th scope="row">`)
		assert.GreaterOrEqual(t, n, r.rows, r.at)
		assert.LessOrEqual(t, n, r.rows+120, r.at) // rollouts have rows, too
		assert.Contains(t, page, r.says, r.at)
		assert.LessOrEqual(t, asked, clientLooks, "it does not look at all clients at once")
	}
}
