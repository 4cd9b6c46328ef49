package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
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
	store   *policy.Store
	backend testv1.TestServiceClient

	mu   sync.Mutex
	sums instance
}

func (c crew) run(w io.Writer) error {
	creds, err := credentialsOf(c.certs, "search")
	if err != nil {
		return err
	}
	all := make([]*searcher, c.instances)
	for i := range all {
		s := &searcher{store: new(policy.Store), sums: instance{Name: fmt.Sprint("search-", i+1), Reads: make(map[string]tally)}}
		it, err := interceptor.New(interceptor.WithPolicies(s.store))
		if err != nil {
			return err
		}
		watcher, err := watch(c.control, creds, controlplane.Node{Service: "search", Instance: s.sums.Name}, s.store, it)
		if err != nil {
			return err
		}
		defer watcher.Close()
		conn, err := grpc.NewClient(c.backend, append(it.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
		if err != nil {
			return err
		}
		defer conn.Close()
		s.backend = testv1.NewTestServiceClient(conn)
		go s.read()
		go s.write()
		all[i] = s
	}
	for range time.Tick(100 * time.Millisecond) {
		var r crewReport
		for _, s := range all {
			r.Instances = append(r.Instances, s.report())
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
		var tl interceptor.Timeline
		_, err := s.backend.Get(ctx, &testv1.GetRequest{Id: "index"}, interceptor.WithTimeline(&tl))
		cancel()
		s.add(tl.PolicyVersion, err)
	}
}

// add counts a call to read, by the version of the policies that it went by.
func (s *searcher) add(version string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := &s.sums
	if len(i.Had) == 0 || i.Had[len(i.Had)-1] != version {
		i.Had = append(i.Had, version)
	}
	t := i.Reads[version]
	t.add(err)
	i.Reads[version] = t
}

// write writes all the time, to what will be ill.
func (s *searcher) write() {
	for range time.Tick(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		_, err := s.backend.Put(ctx, new(testv1.PutRequest))
		cancel()
		s.mu.Lock()
		s.sums.Writes.add(err)
		s.mu.Unlock()
	}
}

func (s *searcher) report() instance {
	now := s.store.Status()
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.sums
	i.Version, i.Revision, i.State = now.Version, now.Revision, now.State().String()
	i.Had, i.Reads = slices.Clone(i.Had), maps.Clone(i.Reads)
	return i
}

// tally counts calls.
type tally struct{ Calls, Failed int64 }

func (t *tally) add(err error) {
	t.Calls++
	if err != nil {
		t.Failed++
	}
}

func (t *tally) addAll(other tally) {
	t.Calls += other.Calls
	t.Failed += other.Failed
}

// crewReport is what a crew prints of itself, a line each 100 ms.
type crewReport struct{ Instances []instance }

// instance is what there is to say of an instance.
type instance struct {
	Name, Version string
	Revision      uint64
	State         string

	// Since it has started.
	Had    []string         // versions that its reads went by, one after the other
	Reads  map[string]tally // by version
	Writes tally
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

// reads counts the calls to read that went by a version and those that went by any other, and the
// instances that had it.
func (r crewReport) reads(version string) (by, others tally, tried int) {
	for _, i := range r.Instances {
		for v, t := range i.Reads {
			if v == version {
				by.addAll(t)
				tried++
			} else {
				others.addAll(t)
			}
		}
	}
	return by, others, tried
}

// total counts all calls to read.
func (r crewReport) total() tally {
	by, others, _ := r.reads("")
	by.addAll(others)
	return by
}

// revision returns the highest one of a version that an instance has in force.
func (r crewReport) revision(version string) (highest uint64) {
	for _, i := range r.Instances {
		if i.Version == version {
			highest = max(highest, i.Revision)
		}
	}
	return highest
}

// writes counts the calls to write of all instances.
func (r crewReport) writes() (sum tally) {
	for _, i := range r.Instances {
		sum.addAll(i.Writes)
	}
	return sum
}
