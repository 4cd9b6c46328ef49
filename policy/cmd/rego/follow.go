package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/policy/rollout"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// follow prints what becomes of the rollout of a revision until it has ended. The error says that
// not all clients have got the set.
func (r *remote) follow(ctx context.Context, revision uint64, every time.Duration) error {
	if err := checkEvery(every); err != nil {
		return err
	}
	f := following{revision: revision}
	for {
		m, err := r.policies(ctx)
		now := time.Now()
		if err == nil {
			line, ended, failed := f.sees(m, now)
			if line != "" {
				r.out.line(now.UTC().Format("15:04:05Z  ") + line)
			}
			if ended {
				return failed
			}
		} else if err := f.bears(r, err, now); err != nil {
			return err
		}
		if err := pause(ctx, every); err != nil {
			return err
		}
	}
}

// patience is how somebody deals with a server that is away for a while.
type patience struct {
	away time.Time // since when it does not answer; zero while it does
}

// bearable is how long a server may be away.
const bearable = time.Minute

// bears returns err if it is one that does not go by, or if the server is away for too long.
func (p *patience) bears(r *remote, err error, now time.Time) error {
	if code := codeOf(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
		return err
	}
	switch {
	case p.away.IsZero():
		p.away = now
		r.err.line(fmt.Sprintf("rego: %v: it is asked again, for a minute at most", r.told(err)))
	case now.Sub(p.away) > bearable:
		return err
	}
	return nil
}

// following is what somebody has seen who follows a rollout.
type following struct {
	patience
	revision uint64
	said     string    // what was printed last, without numbers
	at       time.Time // and when
}

// sayAgain is how long nothing is printed if only numbers change.
const sayAgain = time.Minute

// sees returns what is to be printed, and whether the rollout has ended, with the error that is.
func (f *following) sees(m *regov1.GetPoliciesResponse, now time.Time) (line string, ended bool, err error) {
	f.away = time.Time{}
	ro := m.GetRollout()
	if ro.GetCandidate().GetRevision() != f.revision {
		if m.GetRevision().GetRevision() == f.revision {
			return fmt.Sprintf("promoted: %s is in force for all clients", named(m.GetRevision())), true, nil
		}
		return "", true, failure{errors.New("this rollout is not the last one any more: rego log says what became of it")}
	}
	line = fmt.Sprintf("%s: %s", wordOf(ro.GetState(), "ROLLOUT_STATE_"), ro.GetReason())
	switch ro.GetState() {
	case regov1.RolloutState_ROLLOUT_STATE_BAKING:
		line = fmt.Sprintf("step %d of %d, %s of the clients (%s): %s", ro.GetStep()+1, len(ro.GetPlan().GetSteps()),
			percent(ro.GetShare()), among(ro), ro.GetReason())
		text := withoutNumbers(fmt.Sprintf("%d/%s", ro.GetStep()+1, ro.GetReason()))
		if text = fmt.Sprint(ro.GetStep(), text); text == f.said && now.Sub(f.at) < sayAgain {
			return "", false, nil
		}
		f.said, f.at = text, now
		return line, false, nil
	case regov1.RolloutState_ROLLOUT_STATE_PROMOTED:
		return line, true, nil
	default:
		return line, true, errFaults
	}
}

// among says how many clients try a set out. Before the first look at them nobody knows.
func among(ro *regov1.Rollout) string {
	if ro.GetClients() == 0 {
		return "none is counted yet"
	}
	return fmt.Sprintf("%s of %s", grouped(ro.GetCanaryClients()), grouped(ro.GetClients()))
}

// withoutNumbers returns text with every word that has a digit in it alike: what a rollout waits for
// has a time in it that is another one each time.
func withoutNumbers(text string) string {
	words := strings.Fields(text)
	for i, w := range words {
		if strings.ContainsFunc(w, unicode.IsDigit) {
			words[i] = "#"
		}
	}
	return strings.Join(words, " ")
}

// reach says how many of the clients that are connected try a revision out.
func (r *remote) reach(ctx context.Context, of *regov1.Revision, share float64) string {
	among, all, err := r.count(ctx, of, share)
	switch {
	case err != nil:
		return fmt.Sprintf("how many these are is not known, %v", r.told(err))
	case all == 0:
		return "no client is connected now"
	case among == 0:
		return fmt.Sprintf("none of %s that are connected now, so nothing is seen until others come. A larger share reaches some: rego rollback, and put it again", counted(all, "client"))
	}
	return fmt.Sprintf("%s of %s that are connected now", grouped(among), counted(all, "client"))
}

// count counts the clients that are connected and get the policies of the service, and those among
// them that try a revision out.
func (r *remote) count(ctx context.Context, of *regov1.Revision, share float64) (among, all uint64, err error) {
	own := make(map[string]bool) // services that have policies of their own
	if r.service == "" {
		m, err := asked(ctx, r, new(regov1.ListServicesRequest), r.admin.ListServices)
		if err != nil {
			return 0, 0, err
		}
		for _, s := range m.GetServices() {
			own[s.GetService()] = true
		}
	}
	key := of.GetVersion() // as the control plane chooses them
	if key == "" {
		key = fmt.Sprint(of.GetRevision())
	}
	err = r.eachClient(ctx, &regov1.ListClientsRequest{Service: r.service}, func(c *regov1.Client) {
		if service := c.GetNode().GetService(); service != "" && own[service] {
			return
		}
		all++
		if rollout.Includes(key, c.GetNode().GetInstance(), share) {
			among++
		}
	})
	return among, all, err
}

// eachClient calls do for every client that the server lists.
func (r *remote) eachClient(ctx context.Context, request *regov1.ListClientsRequest, do func(*regov1.Client)) error {
	for {
		m, err := asked(ctx, r, request, r.fleet.ListClients)
		if err != nil {
			return err
		}
		for _, c := range m.GetClients() {
			do(c)
		}
		if m.GetNextPageToken() == "" {
			return nil
		}
		request.PageToken = m.GetNextPageToken()
	}
}
