package main

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// crowd is what a stub lists of clients, each on a page of its own.
func crowd(name string) *stub {
	all := []*regov1.Client{
		{Node: &regov1.Node{Service: "pay", Instance: "a"}, Peer: "10.0.0.1:1", Connected: someTime, Version: "1", Revision: 7, State: regov1.ClientState_CLIENT_STATE_CURRENT, Replica: "x", Canary: true},
		{Node: &regov1.Node{Service: "pay", Instance: "b"}, State: regov1.ClientState_CLIENT_STATE_PENDING, Pending: durationpb.New(12 * time.Second), Revision: 7},
		{
			Node: &regov1.Node{Service: name, Instance: name, Labels: map[string]string{name: name}}, Peer: name, State: regov1.ClientState_CLIENT_STATE_REFUSED, Version: name, Epoch: 1, Revision: 6, Replica: name,
			Refusal:  &regov1.Refusal{Version: name, Epoch: 1, Revision: 7, Faults: []*regov1.Fault{{Path: "rules[0].policy.budget", Text: name}, {Text: "x"}, {Text: "y"}}},
			Warnings: []*regov1.Fault{{Text: name}},
		},
		{Node: &regov1.Node{Service: "shop", Instance: "c"}, State: regov1.ClientState_CLIENT_STATE_DISCONNECTED, LastSeen: someTime},
	}
	return &stub{
		summary: &regov1.SummarizeClientsResponse{Clients: 1205, LeftOut: 2, Counts: []*regov1.ClientCount{
			{Service: name, State: regov1.ClientState_CLIENT_STATE_CURRENT, Version: name, Clients: 1000},
			{State: regov1.ClientState_CLIENT_STATE_CURRENT, Clients: 200, Warned: 3},
			{State: regov1.ClientState_CLIENT_STATE_PENDING, Clients: 2},
			{State: regov1.ClientState_CLIENT_STATE_REFUSED, Clients: 1},
		}},
		clients: func(r *regov1.ListClientsRequest) *regov1.ListClientsResponse {
			at := len(r.GetPageToken())
			page := &regov1.ListClientsResponse{Clients: all[at : at+1]}
			if at+1 < len(all) && (at+2 < len(all) || r.GetDisconnected()) {
				page.NextPageToken = r.GetPageToken() + "x"
			}
			return page
		},
		services: &regov1.ListServicesResponse{Services: []*regov1.ServicePolicies{
			{InForce: inForce("1")}, {Service: name, InForce: inForce(name), Rollout: trying(name, rejected)},
		}},
	}
}

func TestClients(t *testing.T) {
	t.Parallel()
	c := crowd("shop").serve(t)
	golden(t, "clients.txt", c.ok(t, "", "clients"))
	golden(t, "clients.json", c.ok(t, "", "clients", "--refused", "--output", "json"))
	listed := func(args ...string) (names []string) {
		var m struct {
			Clients []struct{ Node struct{ Instance string } }
		}
		require.NoError(t, json.Unmarshal([]byte(c.ok(t, "", append([]string{"clients", "--output", "json"}, args...)...)), &m))
		for _, c := range m.Clients {
			names = append(names, c.Node.Instance)
		}
		return names
	}
	assert.Equal(t, []string{"a", "b", "shop"}, listed())
	assert.Equal(t, []string{"a", "b", "shop", "c"}, listed("--disconnected"))
	assert.Equal(t, []string{"shop"}, listed("--refused"))
	assert.Equal(t, []string{"b", "shop", "c"}, listed("--stale", "--disconnected"))

	empty := control(t)
	assert.Equal(t, "0 clients\n", empty.ok(t, "", "clients"))
	assert.Contains(t, empty.ok(t, "", "clients", "--output", "json"), `"clients": []`)
}

// TestManyClients: all pages of a real server.
func TestManyClients(t *testing.T) {
	t.Parallel()
	c := control(t)
	c.ok(t, `version: "1"`, "put", "-")
	for i := range 5 {
		arrives(t, c.client(t, "shop", fmt.Sprint("host ", i)), "1")
	}
	assert.Contains(t, c.ok(t, "", "clients", "--service", "shop"), "\nshop     host 4")
	assert.Equal(t, "0 clients\n", c.ok(t, "", "clients", "--service", "pay"))
}

func TestServices(t *testing.T) {
	t.Parallel()
	c := crowd("shop").serve(t)
	text := c.ok(t, "", "services")
	assert.Contains(t, text, "\n(all others)  7         1        2026-01-02 03:04:05Z  1 ")
	assert.Contains(t, text, "\nshop          7         shop     2026-01-02 03:04:05Z  shop    revision 8 (version \"shop\"): rejected at 2026-01-02 03:04:05Z (")
	golden(t, "services.json", c.ok(t, "", "services", "--output", "json"))
}
