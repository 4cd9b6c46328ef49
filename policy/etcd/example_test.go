package etcd_test

import (
	"context"
	"fmt"
	"log"
	"os"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rego-go/rego/policy/etcd"
	"github.com/rego-go/rego/policy/etcd/etcdtest"
	"github.com/rego-go/rego/policy/repository"
)

// Two people change an entry: the second has to look again.
func Example() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	cluster, err := etcdtest.Start(dir, 1) // in production: etcd
	if err != nil {
		log.Fatal(err)
	}
	defer cluster.Close()

	client, err := clientv3.New(etcd.Config(cluster.Endpoints()...))
	if err != nil {
		log.Fatal(err)
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
	// good day somebody else has changed it meanwhile
	// greeting is hello <nil>
}
