package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/rego-go/rego/interceptor"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
)

// crew is a service of many instances in one process: enough to try a change out on some of them.
// Each has an interceptor, policies and connections of its own.
type crew struct {
	instances               int
	certs, control, backend string
}

// searcher is an instance of the crew.
type searcher struct {
	name  string
	store *policy.Store
	reads testv1.TestServiceClient

	calls, failed atomic.Int64 // that read
	writes        atomic.Int64
}

func (c crew) run(w io.Writer) error {
	creds, err := credentialsOf(c.certs, "search")
	if err != nil {
		return err
	}
	all := make([]*searcher, c.instances)
	for i := range all {
		s := &searcher{name: fmt.Sprint("search-", i+1), store: new(policy.Store)}
		it, err := interceptor.New(interceptor.WithPolicies(s.store))
		if err != nil {
			return err
		}
		watcher, err := watch(c.control, creds, controlplane.Node{Service: "search", Instance: s.name}, s.store, it)
		if err != nil {
			return err
		}
		defer watcher.Close()
		conn, err := grpc.NewClient(c.backend, append(it.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
		if err != nil {
			return err
		}
		defer conn.Close()
		s.reads = testv1.NewTestServiceClient(conn)
		go s.read()
		go s.write()
		all[i] = s
	}
	for range time.Tick(100 * time.Millisecond) {
		var r crewReport
		for _, s := range all {
			now := s.store.Status()
			r.Instances = append(r.Instances, instance{s.name, now.Version, now.Revision, now.State().String(), s.calls.Load(), s.failed.Load(), s.writes.Load()})
		}
		if err := json.NewEncoder(w).Encode(r); err != nil {
			return nil // nobody reads any more
		}
	}
	return nil
}

// read reads all the time: that has to work, whatever happens to policies.
func (s *searcher) read() {
	for range time.Tick(25 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		_, err := s.reads.Get(ctx, &testv1.GetRequest{Id: "index"})
		cancel()
		if err != nil {
			s.failed.Add(1)
		}
		s.calls.Add(1)
	}
}

// write writes all the time, to what will be ill.
func (s *searcher) write() {
	for range time.Tick(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		_, _ = s.reads.Put(ctx, new(testv1.PutRequest)) // what became of it is seen in rego top
		cancel()
		s.writes.Add(1)
	}
}

// crewReport is what a crew prints of itself, a line each 100 ms.
type crewReport struct{ Instances []instance }

// instance is what there is to say of an instance since it has started.
type instance struct {
	Name, Version         string
	Revision              uint64
	State                 string
	Calls, Failed, Writes int64
}

// crew returns the newest report of a crew.
func (p *process) crew() (r crewReport) {
	_ = json.Unmarshal([]byte(p.find("{")), &r) // before the first line there is none
	return r
}

// have returns how many instances have a version in force, and how many there are.
func (r crewReport) have(version string) (n, of int) {
	for _, i := range r.Instances {
		if i.Version == version && i.State == "current" {
			n++
		}
	}
	return n, len(r.Instances)
}

// since returns what was counted from an earlier report on.
func (r crewReport) since(before crewReport) (calls, failed, hit int64) {
	for i, now := range r.Instances {
		was := instance{}
		if i < len(before.Instances) {
			was = before.Instances[i]
		}
		calls += now.Calls - was.Calls
		failed += now.Failed - was.Failed
		if now.Failed > was.Failed {
			hit++
		}
	}
	return calls, failed, hit
}
