package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	"github.com/rego-go/rego/policy/file"
)

// audit writes who was denied what, and what was changed. What somebody does again and again
// is written once in a while, with how often: who is denied must not be able to fill a disk.
type audit struct {
	log  *slog.Logger
	file io.Closer // nil if it is the log of the program

	mu   sync.Mutex
	said map[string]*repeated
}

type repeated struct {
	until time.Time
	more  int
}

const (
	// repeatAfter is how long the same denial is not written again.
	repeatAfter = 10 * time.Second
	// maxRepeated bounds the denials that are told apart.
	maxRepeated = 1000
)

func openAudit(path string, log *slog.Logger) (*audit, error) {
	a := &audit{log: log, said: make(map[string]*repeated)}
	if path == "" {
		return a, nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	a.file, a.log = f, slog.New(slog.NewJSONHandler(&told{Writer: f, log: log}, nil))
	return a, nil
}

// told is a file whose errors are logged.
type told struct {
	io.Writer
	log *slog.Logger
}

func (t *told) Write(b []byte) (int, error) {
	n, err := t.Writer.Write(b)
	if err != nil {
		t.log.Error("rego: the audit log cannot be written", "error", err, "line", string(b))
	}
	return n, err
}

func (a *audit) close() {
	if a.file != nil {
		_ = a.file.Close() // lines are written one by one
	}
}

func (a *audit) write(event string, args ...any) {
	a.log.Log(context.Background(), slog.LevelInfo, "rego: audit", append([]any{"event", event}, args...)...)
}

// denied writes what somebody was not allowed to do.
func (a *audit) denied(d controlplane.Denial) {
	who := strings.Join(d.Identities, " ")
	more, due := a.due(fmt.Sprintf("%s\x00%s\x00%s", who, d.Method, d.Node.GetService()), d.Time)
	if !due {
		return
	}
	args := []any{"identities", d.Identities, "peer", d.Peer, "method", d.Method}
	if d.Node != nil {
		args = append(args, "service", d.Node.GetService(), "instance", d.Node.GetInstance())
	}
	s, _ := status.FromError(d.Err)
	a.write("denied", append(args, "code", s.Code().String(), "why", s.Message(), "not_written_before", more)...)
}

// due reports whether something is to be written now, and how often it was not since.
func (a *audit) due(what string, now time.Time) (more int, due bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.said) >= maxRepeated {
		for key, r := range a.said {
			if now.After(r.until) {
				delete(a.said, key)
			}
		}
	}
	r := a.said[what]
	switch {
	case r == nil && len(a.said) >= maxRepeated:
		what = "" // all others together
		if r = a.said[what]; r == nil {
			r = new(repeated)
			a.said[what] = r
		}
	case r == nil:
		r = new(repeated)
		a.said[what] = r
	}
	if now.Before(r.until) {
		r.more++
		return 0, false
	}
	more = r.more
	r.until, r.more = now.Add(repeatAfter), 0
	return more, true
}

// began writes what is served at first.
func (a *audit) began(service string, st *policy.Store) {
	a.write("began", "service", service, "source", st.Status().Source, slog.Any("after", summaryOf(st.Current())))
}

// changed writes that another set is served.
func (a *audit) changed(service string, s policy.Status, before, after *policy.Table) {
	a.write("changed", "service", service, "source", s.Source, slog.Any("before", summaryOf(before)), slog.Any("after", summaryOf(after)),
		"changes", changesOf(before.Set(), after.Set()))
}

// refused writes that a set was not taken.
func (a *audit) refused(service string, s policy.Status) {
	r := s.Refusal
	if r == nil {
		return
	}
	var reasons []string
	if faults, ok := errors.AsType[policy.Faults](r.Err); ok {
		for _, f := range faults[:min(len(faults), maxChanges)] {
			reasons = append(reasons, f.Error())
		}
	} else {
		reasons = []string{r.Err.Error()}
	}
	a.write("refused", "service", service, "source", r.Source, "version", r.Version, "epoch", r.Epoch, "revision", r.Revision, "faults", reasons)
}

// summary is a set in few words. SHA256 is that of its binary form.
type summary struct {
	Version    string `json:"version"`
	Epoch      uint64 `json:"epoch"`
	Revision   uint64 `json:"revision"`
	Rules      int    `json:"rules"`
	Budgets    int    `json:"budgets"`
	RetriesOff bool   `json:"retries_off"`
	HedgesOff  bool   `json:"hedges_off"`
	SHA256     string `json:"sha256"`
}

func summaryOf(t *policy.Table) summary {
	s := t.Set()
	b, _ := file.Marshal(s, file.Binary) // it is valid
	sum := sha256.Sum256(b)
	return summary{s.Version, s.Epoch, s.Revision, len(s.Rules), len(s.Budgets), s.RetriesOff, s.HedgesOff, hex.EncodeToString(sum[:])}
}

// maxChanges bounds the lists in a line.
const maxChanges = 20

// changesOf names what is not the same in two sets: selectors whose policy is another one or is
// gone, budgets and switches.
func changesOf(before, after policy.Set) []string {
	var list []string
	was, is := policies(before), policies(after)
	for selector, p := range is {
		if old, ok := was[selector]; !ok {
			list = append(list, "added "+selector)
		} else if old != p {
			list = append(list, "changed "+selector)
		}
	}
	for selector := range was {
		if _, ok := is[selector]; !ok {
			list = append(list, "removed "+selector)
		}
	}
	if !slices.EqualFunc(before.Budgets, after.Budgets, policy.Budget.Equal) {
		list = append(list, "changed budgets")
	}
	if before.RetriesOff != after.RetriesOff {
		list = append(list, fmt.Sprintf("retries_off is %v", after.RetriesOff))
	}
	if before.HedgesOff != after.HedgesOff {
		list = append(list, fmt.Sprintf("hedges_off is %v", after.HedgesOff))
	}
	slices.Sort(list)
	if n := len(list) - maxChanges; n > 0 {
		list = append(list[:maxChanges], fmt.Sprintf("and %d more", n))
	}
	return list
}

// policies spells the policy of each selector.
func policies(s policy.Set) map[string]string {
	all := make(map[string]string)
	for _, r := range s.Rules {
		for _, m := range r.Methods {
			all[m] = fmt.Sprintf("%+v", r.Policy)
		}
	}
	return all
}
