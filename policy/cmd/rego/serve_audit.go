package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	"github.com/rego-go/rego/policy/file"
	"github.com/rego-go/rego/policy/repository"
)

// audit writes who was denied what, and what was changed. What one identity is denied again and
// again, whatever service it says it is, is written once in a while, with how often: who is denied
// must not be able to fill a disk.
type audit struct {
	log  *slog.Logger
	file *auditFile // nil if it is the log of the program

	mu   sync.Mutex
	said map[string]*repeated
	lost int // denials that were not written, of those that are not told apart any more
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
	a.file = &auditFile{path: path, log: log}
	if err := a.file.open(); err != nil {
		return nil, err
	}
	a.log = slog.New(slog.NewJSONHandler(a.file, nil))
	return a, nil
}

// auditFile is a file that can be opened again, and whose errors are logged.
type auditFile struct {
	path string
	log  *slog.Logger

	mu sync.Mutex
	f  *os.File
}

// open opens the file that is at the path now, also if another one is open.
func (a *auditFile) open() error {
	f, err := os.OpenFile(a.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.f != nil {
		_ = a.f.Close() // lines are written one by one
	}
	a.f = f
	return nil
}

func (a *auditFile) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n, err := a.f.Write(b)
	if err != nil {
		a.log.Error("rego: the audit log cannot be written", "error", err, "line", string(b))
	}
	return n, err
}

// again opens the file again, for who has moved it away.
func (a *audit) again() {
	if a.file == nil {
		return
	}
	if err := a.file.open(); err != nil {
		a.file.log.Error("rego: the audit log cannot be opened again", "error", err)
	}
}

func (a *audit) close() {
	if a.file == nil {
		return
	}
	a.file.mu.Lock()
	defer a.file.mu.Unlock()
	_ = a.file.f.Close() // lines are written one by one
}

func (a *audit) write(event string, args ...any) {
	a.log.Log(context.Background(), slog.LevelInfo, "rego: audit", append([]any{"event", event}, args...)...)
}

// denied writes what somebody was not allowed to do.
func (a *audit) denied(d controlplane.Denial) {
	who := strings.Join(d.Identities, " ")
	if who == "" { // without a certificate there is only the address
		who, _, _ = net.SplitHostPort(d.Peer)
	}
	more, due := a.due(who+" "+d.Method, d.Time)
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
				a.lost += r.more
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
	more = r.more + a.lost
	r.until, r.more, a.lost = now.Add(repeatAfter), 0, 0
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

// made writes what somebody has changed, and who.
func (a *audit) made(m controlplane.Made) {
	_, rpc, _ := strings.Cut(strings.TrimPrefix(m.Method, "/"), "/")
	after := m.After.Set
	if m.After.Trying() {
		after = *m.After.Candidate
	}
	a.write("made", "method", rpc, "service", m.After.Service, "identities", m.Identities, "peer", m.Peer,
		slog.Any("before", summaryOfSet(m.Before.Set)), slog.Any("after", summaryOfSet(after)), "tried", m.After.Trying(),
		"message", m.Message, "changes", changesOf(m.Before.Set, after))
}

// decided writes what became of a rollout.
func (a *audit) decided(p repository.Policies) {
	ro := p.Rollout
	a.write("rollout", "service", p.Service, "version", ro.GetCandidate().GetVersion(), "revision", ro.GetCandidate().GetRevision(),
		"state", wordOf(ro.GetState(), "ROLLOUT_STATE_"), "share", ro.GetShare(), "why", ro.GetReason(), slog.Any("in_force", summaryOfSet(p.Set)))
}

// snapshot writes that the snapshot cannot be read or written, or that it can again.
func (a *audit) snapshot(service string, err error) {
	if err != nil {
		a.write("snapshot-failed", "service", service, "why", err.Error())
		return
	}
	a.write("snapshot-written", "service", service)
}

// handshake writes that a connection was not made.
func (a *audit) handshake(peer string, err error) {
	host, _, _ := net.SplitHostPort(peer)
	if more, due := a.due(host, time.Now()); due {
		a.write("no-handshake", "peer", peer, "why", err.Error(), "not_written_before", more)
	}
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
	Version               string
	Epoch, Revision       uint64
	Rules, Budgets        int
	RetriesOff, HedgesOff bool
	SHA256                string
}

func summaryOf(t *policy.Table) summary { return summaryOfSet(t.Set()) }

func summaryOfSet(s policy.Set) summary {
	b, _ := file.Marshal(s, file.Binary) // it is valid
	sum := sha256.Sum256(b)
	return summary{s.Version, s.Epoch, s.Revision, len(s.Rules), len(s.Budgets), s.RetriesOff, s.HedgesOff, hex.EncodeToString(sum[:])}
}

// LogValue has a text log quote each field by itself.
func (s summary) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("version", s.Version), slog.Uint64("epoch", s.Epoch), slog.Uint64("revision", s.Revision),
		slog.Int("rules", s.Rules), slog.Int("budgets", s.Budgets),
		slog.Bool("retries_off", s.RetriesOff), slog.Bool("hedges_off", s.HedgesOff), slog.String("sha256", s.SHA256),
	)
}

// maxChanges bounds the lists in a line.
const maxChanges = 20

// changesOf says what is not the same in two sets, in the words of rego diff: the set's own fields,
// which the switches are among, first. Of each kind it names the first ones.
func changesOf(before, after policy.Set) (list []string) {
	all := differences(before, after)
	for _, kind := range []string{kindChanged, kindRemoved, kindAdded} {
		n := 0
		for _, d := range all {
			if d.Kind != kind {
				continue
			}
			if n++; n <= maxChanges {
				list = append(list, cutOff(d.String()))
			}
		}
		if n > maxChanges {
			list = append(list, fmt.Sprintf("%s %d more", kind, n-maxChanges))
		}
	}
	return list
}

// cutOff returns a text that is no longer than an audit log can bear.
func cutOff(text string) string {
	const most = 500
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}
