package main

import (
	"fmt"
	"strings"
	"time"
)

// A change of policies that is tried out on some instances first.

// searchSet is the set of a version of the service search.
func searchSet(version, reads, writes string) string {
	return fmt.Sprintf(`version: %s
budgets:
- name: generous
  token_bucket: {per_second: 10000}
rules:
- methods: [/rego.test.v1.TestService/*]
  policy:
    name: search
    %s
- methods: [/rego.test.v1.TestService/Put]
  policy:
    name: search writes
    %s
`, version, reads, writes)
}

const (
	patient = "timeout: 5s"
	hasty   = "timeout: 20ms" // the slow calls of the backend take 50
	stormy  = "{retry: {max_attempts: 4, codes: [UNAVAILABLE], backoff: {initial: 0.001s}}, budget: generous}"
	calm    = "{retry: {off: true, max_attempts: 4, codes: [UNAVAILABLE], backoff: {initial: 0.001s}}, budget: generous}"
)

// openCrew starts the service search, with a set of its own.
func (s *stage) openCrew() (err error) {
	if err := s.replace("s1.yaml", searchSet("s1", patient, inline(stormy))); err != nil {
		return err
	}
	if err := s.put("s1.yaml", "--service", "search", "--overwrite", "-m", "the first"); err != nil {
		return err
	}
	s.crew, err = startSelf("search", s.dir, "crew", "-control", s.control(), "-backend", s.backend.Addr())
	if err != nil {
		return err
	}
	return s.awaitCrew("s1")
}

// inline makes the fields of a policy stand below each other.
func inline(flow string) string {
	return strings.TrimSuffix(strings.TrimPrefix(strings.ReplaceAll(flow, ", budget", "\n    budget"), "{"), "}")
}

// awaitCrew waits until all instances have a version.
func (s *stage) awaitCrew(version string) error {
	took, err := await("all instances of search have "+version, func() bool {
		n, of := s.crew.crew().have(version)
		return of > 0 && n == of
	})
	if err == nil {
		fmt.Fprintf(s.out, "  all %d instances of search have %s after %v\n", len(s.crew.crew().Instances), version, took.Round(10*time.Millisecond))
	}
	return err
}

// harmful is the version that does harm. All calls to read that fail must have gone by it.
const harmful = "s2"

// unharmed fails if a call of the crew failed that what was tried out is not to blame for.
func (s *stage) unharmed() error {
	now := s.crew.crew()
	if _, others, _ := now.reads(harmful); others.Failed > 0 {
		return fmt.Errorf("%d calls of search failed that did not go by %s", others.Failed, harmful)
	}
	if w := now.writes(); w.Failed != s.stormed {
		return fmt.Errorf("%d writes of search failed, and %d of them in the storm", w.Failed, s.stormed)
	}
	return nil
}

// badCanary tries out a timeout that is too short. What it costs is counted apart from all other
// calls that fail.
func (s *stage) badCanary() error {
	if err := s.replace("s2.yaml", searchSet(harmful, hasty, inline(stormy))); err != nil {
		return err
	}
	began := time.Now()
	_, code, err := s.operate(true, "put", "s2.yaml", "--service", "search", "--overwrite", "--canary", "40%", "--bake", "5s", "--min-calls", "200", "-m", "a shorter timeout", "--wait")
	if err != nil {
		return err
	}
	took := time.Since(began)
	if code != 1 {
		now, _, err := s.operate(true, "rollout", "--service", "search")
		return fmt.Errorf("rego put: exit code %d, and not 1 for a set that was taken back: %s: %w", code, now, err)
	}
	if err := s.awaitCrew("s1"); err != nil {
		return err
	}
	now := s.crew.crew()
	by, others, tried := now.reads(harmful)
	if by.Failed == 0 || tried == len(now.Instances) {
		return fmt.Errorf("%d calls failed by what %d of %d instances tried", by.Failed, tried, len(now.Instances))
	}
	fmt.Fprintf(s.out, "  it came back by itself after %v: %d of %d calls failed that went by it, in the %d instances that tried it\n",
		took.Round(100*time.Millisecond), by.Failed, by.Calls, tried)
	fmt.Fprintf(s.out, "  of the %d calls that went by anything else %d failed\n", others.Calls, others.Failed)
	return s.unharmed()
}
