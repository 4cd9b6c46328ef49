package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A rollout whose control plane is killed in the middle of it: with etcd another replica goes on
// with it, and without etcd it is gone.

// harmless is the version of a change that does no harm.
const harmless = "s3"

var putHarmless = []string{
	"s3.yaml", "--service", "search", "--overwrite", "--canary", "40%", "--steps", "70%",
	"--bake", "4s", "--min-calls", "200", "-m", "a bit shorter",
}

// goodCanary tries out what does no harm, and kills the control plane in the middle of it.
func (s *stage) goodCanary() error {
	if err := s.replace("s3.yaml", searchSet(harmless, "timeout: 4s", inline(stormy))); err != nil {
		return err
	}
	if err := s.put(putHarmless...); err != nil {
		return err
	}
	_, err := await("some instances use "+harmless, func() bool {
		_, _, tried := s.crew.crew().reads(harmless)
		return tried > 0
	})
	if err != nil {
		return err
	}
	began := s.crew.crew()
	if n, of := began.have(harmless); n == of {
		return fmt.Errorf("all %d instances have %s, and some were to try it out", of, harmless)
	}
	dead := s.asked()
	fmt.Fprintf(s.out, "  %s is killed in the middle of it\n", dead.name)
	dead.killReplica()
	goOn := s.startOver
	if s.etcd != nil {
		goOn = s.succeed
	}
	if err := goOn(); err != nil {
		return err
	}
	was, now := began.total(), s.crew.crew().total()
	fmt.Fprintf(s.out, "  meanwhile search made %d calls to read; %d failed\n", now.Calls-was.Calls, now.Failed-was.Failed)
	return s.unharmed()
}

// startOver starts the control plane again, which had the rollout in its memory: instances that
// tried the set come back to what is in the file. Then the operator puts it again.
func (s *stage) startOver() error {
	before := s.crew.crew()
	n, _ := before.have(harmless)
	if err := s.startReplicas(); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "  it is started again: without etcd the rollout was in its memory and is gone, and the %d instances come back to what is in the file\n", n)
	if err := s.awaitCrew("s1"); err != nil {
		return err
	}
	tried, now := before.revision(harmless), s.crew.crew().revision("s1")
	if now <= tried {
		return fmt.Errorf("revision %d is in force, and %d was tried out before", now, tried)
	}
	kept, err := s.revisionOf("search.yaml")
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "  revision %d was tried out, so the control plane has given the file a higher one by itself: search.yaml has %q\n", tried, kept)
	if err := s.put(append(slices.Clone(putHarmless), "--wait")...); err != nil {
		return err
	}
	return s.awaitCrew(harmless)
}

// succeed kills the leader of etcd as well. The other replica goes on with the rollout.
func (s *stage) succeed() error {
	leader, err := s.leader()
	if err != nil {
		return err
	}
	next := s.asked()
	from := next.printed()
	fmt.Fprintf(s.out, "  so is the leader of etcd, member %d; the operator asks %s from now on\n", leader+1, next.name)
	s.etcd.Kill(leader)
	_, code, err := s.operate(true, "rollout", "--service", "search", "--watch")
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("rego rollout: exit code %d, and not 0 for a set that all have got", code)
	}
	if err := s.awaitCrew(harmless); err != nil {
		return err
	}
	for _, i := range s.crew.crew().Instances {
		if first := slices.Index(i.Had, harmless); first >= 0 && first != len(i.Had)-1 {
			return fmt.Errorf("%s has gone back from %s: it had %v", i.Name, harmless, i.Had)
		}
	}
	fmt.Fprintf(s.out, "  no instance that tried it has gone back in between; the log of %s since:\n", next.name)
	if err := s.showLog(next, from); err != nil {
		return err
	}
	if err := s.etcd.Restart(leader); err != nil {
		return err
	}
	return s.startReplicas()
}

// showLog prints what a replica has logged from a line on, but for its audit log. It fails if the
// replica has not noticed anything.
func (s *stage) showLog(r *replica, from int) error {
	n := 0
	for _, text := range r.since(from) {
		var line struct{ Level, Msg, Error, State, Reason string }
		if json.Unmarshal([]byte(text), &line) != nil || line.Msg == "rego: audit" {
			continue
		}
		n++
		fmt.Fprintf(s.out, "    %s\n", strings.Join(slices.DeleteFunc([]string{line.Level, line.Msg, line.State, line.Reason, line.Error}, func(s string) bool { return s == "" }), "  "))
	}
	if n == 0 {
		return errors.New("the log has nothing of it")
	}
	return nil
}

// revisionOf returns the line of a file that has the revision.
func (s *stage) revisionOf(name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "revision:") {
			return strings.TrimSpace(line), nil
		}
	}
	return "it says none", nil
}
