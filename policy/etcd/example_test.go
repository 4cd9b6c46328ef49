package etcd_test

import (
	"context"
	"fmt"
	"os"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rego-go/rego/policy/etcd"
	"github.com/rego-go/rego/policy/etcd/etcdtest"
	"github.com/rego-go/rego/policy/repository"
)

// startEtcd starts a cluster of one process.
func startEtcd() (endpoints []string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return nil, nil, err
	}
	cluster, err := etcdtest.Start(dir, 1)
	if err != nil {
		return nil, nil, err
	}
	return cluster.Endpoints(), func() { cluster.Close(); _ = os.RemoveAll(dir) }, nil
}

// Two people change an entry: the second has to look again.
func Example() {
	endpoints, stop, err := startEtcd()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()

	client, err := clientv3.New(etcd.Config(endpoints...))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	storage := etcd.New(client, "/rego/")

	ctx := context.Background()
	unchanged := []repository.Condition{{Key: "greeting", Revision: 0}} // 0: there is none yet
	for _, value := range []string{"hello", "good day"} {
		_, err := storage.Commit(ctx, unchanged, []repository.Change{{Key: "greeting", Value: []byte(value)}})
		fmt.Println(value, err)
	}
	entries, err := storage.List(ctx, "")
	fmt.Printf("%s is %s %v\n", entries[0].Key, entries[0].Value, err)
	// Output:
	// hello <nil>
	// good day something else is there by now
	// greeting is hello <nil>
}
