package controlplane_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// How does a program get its policies from a control plane, also when it starts while that is away?
// Watch keeps a store at what the server has, and the store keeps a snapshot. The interceptor of the
// program takes the store by interceptor.WithPolicies.
func ExampleWatch() {
	target, stop := controlPlane(policy.Set{Version: "7", Rules: []policy.Rule{
		{Methods: []string{"/shop.v1.Cart/*"}, Policy: policy.Policy{Name: "cart"}},
	}})
	snapshot, remove := snapshotFile()
	defer remove()

	store, err := policy.NewStore(policy.Set{Version: "built in"}, policy.Snapshot(snapshot))
	if err != nil {
		fmt.Println(err)
		return
	}
	w, err := controlplane.Watch(target, controlplane.Node{Service: "shop", Instance: "shop-1"}, store, silent,
		controlplane.WithDialOptions(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err != nil {
		fmt.Println(err)
		return
	}
	untilState(store, policy.StateCurrent)
	fmt.Println(store.Current().Version(), store.Status().State())

	untilThere(snapshot)
	_ = w.Close()
	stop() // and now the program starts again, without a control plane

	store, err = policy.NewStore(policy.Set{Version: "built in"}, policy.Snapshot(snapshot))
	fmt.Println(store.Current().Version(), store.Status().State(), err)

	// Output:
	// 7 current
	// 7 stale <nil>
}

// How are policies served to a fleet? NewServer serves a store, wherever that has its sets from.
// Another set in the store is on its way to every client at once.
func ExampleNewServer() {
	store, err := policy.NewStore(policy.Set{Version: "7"})
	if err != nil {
		fmt.Println(err)
		return
	}
	server := grpc.NewServer(controlplane.ServerOptions()...) // a program has credentials here
	regov1.RegisterPolicyDiscoveryServiceServer(server, controlplane.NewServer(store, nil))
	target, stop := onLoopback(server)
	defer stop()

	client := new(policy.Store)
	w, err := controlplane.Watch(target, controlplane.Node{Service: "shop"}, client, silent,
		controlplane.WithDialOptions(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Close()
	untilVersion(client, "7")
	fmt.Println("retries off:", client.Current().RetriesOff())

	fmt.Println("taken:", store.Update(policy.Set{Version: "8", RetriesOff: true}) == nil)
	untilVersion(client, "8")
	fmt.Println("retries off:", client.Current().RetriesOff())

	// Output:
	// retries off: false
	// taken: true
	// retries off: true
}

// How does a client keep a control plane from going too far? Limits in its code refuse a set that
// exceeds them. The client keeps what it has, and the server is told why.
func ExampleWatch_limits() {
	target, stop := controlPlane(policy.Set{Version: "8", Rules: []policy.Rule{
		{Methods: []string{"*"}, Policy: policy.Policy{Name: "eager", Retry: policy.Retry{MaxAttempts: 50}}},
	}})
	defer stop()

	store, err := policy.NewStore(policy.Set{Version: "built in"})
	if err != nil {
		fmt.Println(err)
		return
	}
	limits := policy.Limits{MaxAttempts: 4}
	if err := store.Guard(limits.Check); err != nil { // interceptor.WithLimits does the same
		fmt.Println(err)
		return
	}
	w, err := controlplane.Watch(target, controlplane.Node{Service: "shop"}, store, silent,
		controlplane.WithDialOptions(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Close()
	untilState(store, policy.StateRefused)
	fmt.Println("in force:", store.Current().Version())
	fmt.Println(store.Status().Refusal.Err)

	// Output:
	// in force: built in
	// rules[0]: policy "eager": retry.max_attempts: must not exceed the limit 4, got 50
}

// controlPlane starts a server that has a set.
func controlPlane(set policy.Set) (target string, stop func()) {
	store, err := policy.NewStore(set)
	if err != nil {
		panic(err)
	}
	server := grpc.NewServer(controlplane.ServerOptions()...)
	regov1.RegisterPolicyDiscoveryServiceServer(server, controlplane.NewServer(store, nil))
	return onLoopback(server)
}

func onLoopback(server *grpc.Server) (target string, stop func()) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() { _ = server.Serve(l) }() // until stop
	return l.Addr().String(), server.Stop
}

func snapshotFile() (path string, remove func()) {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	return filepath.Join(dir, "policies.snapshot"), func() { _ = os.RemoveAll(dir) }
}

// untilThere waits until there is a file. In real time: a store does not tell when it has written its
// snapshot.
func untilThere(path string) {
	for {
		if _, err := os.Stat(path); err == nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func untilState(st *policy.Store, want policy.State) {
	untilStatus(st, func(s policy.Status) bool { return s.State() == want })
}

func untilVersion(st *policy.Store, want string) {
	untilStatus(st, func(s policy.Status) bool { return s.Version == want })
}

// untilStatus waits until the status of a store is as it should be.
func untilStatus(st *policy.Store, ok func(policy.Status) bool) {
	for {
		changed := st.Changed()
		if ok(st.Status()) {
			return
		}
		<-changed
	}
}
