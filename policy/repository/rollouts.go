package repository

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/rego-go/rego/policy/rollout"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// itself is the author of what the control plane decides.
const itself = "the control plane"

// lookEvery is the least time between two looks at a rollout, whichever replicas look.
const lookEvery = time.Second

func countsKey(service string, revision uint64) string {
	return fmt.Sprintf("%s%s/%020d/", counts, escape(service), revision)
}

func evidenceKey(service string) string { return evidence + escape(service) + "/" }

// Judge records what a replica has heard in all since the set of that revision is tried out.
// Then it decides by what all replicas have heard: the set stays, goes to more clients or to
// all, or is taken back from all. It returns what there is then, and whether this call has
// made the decision. Any number of replicas may call it at any time: nothing is counted
// twice. The error is [ErrConflict] if somebody else has changed something at the same time,
// and [ErrNotFound] if the set is not tried out any more.
func (r *Repository) Judge(ctx context.Context, service, replica string, revision uint64, heard *regov1.StoredCounts) (after Policies, decided bool, err error) {
	if r.files != nil {
		r.writing.Lock()
		defer r.writing.Unlock()
	}
	have, err := r.newest(ctx, service)
	switch {
	case err != nil:
		return have, false, err
	case !have.Trying() || have.Candidate.Revision != revision:
		return have, false, ErrNotFound
	}
	heard.Told = timestamppb.Now()
	mine := countsKey(service, revision) + escape(replica)
	if _, err := r.storage.Commit(ctx, []Condition{{headKey(service), have.entry}}, []Change{{Key: mine, Value: marshal(heard)}}); err != nil {
		return have, false, err
	}
	told, err := r.storage.List(ctx, countsKey(service, revision))
	if err != nil {
		return have, false, err
	}
	was, entry, err := r.evidence(ctx, service, revision)
	if err != nil {
		return have, false, err
	}
	now := time.Now()
	if since := now.Sub(was.GetTime().AsTime()); was.GetTime() != nil && since >= 0 && since < lookEvery {
		return have, false, nil // somebody has just looked
	}
	l, err := newLook(have, was, told, now)
	if err != nil {
		return have, false, err
	}
	e := l.edit()
	conditions := []Condition{{headKey(service), have.entry}, {evidenceKey(service), entry}}
	if err := r.commitIf(ctx, e, conditions); err != nil {
		return have, false, err
	}
	if l.decision.Verdict == rollout.Stay {
		return have, false, nil
	}
	after, err = r.Get(ctx, service)
	return after, true, err
}

// evidence returns how far the trial of a revision has been judged, and the revision of that
// entry.
func (r *Repository) evidence(ctx context.Context, service string, revision uint64) (*regov1.StoredEvidence, uint64, error) {
	m := new(regov1.StoredEvidence)
	e, err := r.entry(ctx, evidenceKey(service))
	if errors.Is(err, ErrNotFound) {
		return m, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	if err := proto.Unmarshal(e.Value, m); err != nil {
		return nil, 0, fmt.Errorf("the evidence of %s: %w: %w", whose(service), ErrDamaged, err)
	}
	if m.GetProgress().GetCandidate().GetRevision() != revision {
		m = new(regov1.StoredEvidence) // of another set
	}
	return m, e.Revision, nil
}

// leftOvers returns the changes that remove what was heard during a rollout.
func (r *Repository) leftOvers(ctx context.Context, service string) ([]Change, error) {
	told, err := r.storage.List(ctx, counts+escape(service)+"/")
	if err != nil {
		return nil, err
	}
	changes := []Change{{Key: evidenceKey(service), Delete: true}}
	for _, e := range told[:min(len(told), maxLeftOvers)] {
		changes = append(changes, Change{Key: e.Key, Delete: true})
	}
	return changes, nil
}

// maxLeftOvers keeps a commit below what etcd takes. The rest goes with the next rollout.
const maxLeftOvers = 80

// look is one look at a rollout.
type look struct {
	have     Policies
	now      time.Time
	plan     rollout.Plan
	evidence *rollout.Evidence
	round    time.Duration // in which every client reports
	seen     []rollout.Stratum
	weighed  []*regov1.StoredStratum // what of each is in the evidence
	total    rollout.Arms            // of the whole rollout
	before   rollout.Arms            // of that, before the step began
	decision rollout.Decision
	progress *regov1.Rollout
}

// newLook adds what was not seen before to the evidence, and decides.
func newLook(have Policies, was *regov1.StoredEvidence, told []Entry, now time.Time) (*look, error) {
	l := &look{have: have, now: now, plan: *PlanFromProto(have.Rollout.GetPlan())}
	l.before = rollout.Arms{Canary: countsOf(was.GetBeforeCanary()), Rest: countsOf(was.GetBeforeRest())}
	var err error
	if l.evidence, err = rollout.EvidenceFrom(was.GetEvidence()); err != nil {
		return nil, fmt.Errorf("the evidence of %s: %w: %w", whose(have.Service), ErrDamaged, err)
	}
	l.progress = proto.CloneOf(have.Rollout)
	l.progress.CanaryClients, l.progress.Clients, l.progress.Refusing = 0, 0, 0
	if err := l.add(told, was.GetSeen()); err != nil {
		return nil, err
	}
	l.weigh(l.isDue)
	if l.decide(); l.decision.Verdict == rollout.Advance { // not without the last calls
		l.weigh(func(int64, time.Duration) bool { return true })
		l.decide()
	}
	l.progress.Canary, l.progress.Rest = countsProto(l.total.Canary), countsProto(l.total.Rest)
	l.progress.FailedEvidence, l.progress.ExtraEvidence = l.evidence.E()
	l.progress.Reason = l.decision.Reason
	return l, nil
}

// aliveFor is how long what a replica has told of its clients counts: it tells every two seconds. The
// clocks of replicas may differ by as much.
const aliveFor = 30 * time.Second

// MaxStrata is the most methods of a rollout that are counted separately, because clients
// can make up names. The rest are counted together.
const MaxStrata = 1000

// add adds up what replicas have told. Calls count also if their replica has died; its clients are at
// others by now. Methods that were told apart before still are.
func (l *look) add(told []Entry, before []*regov1.StoredStratum) error {
	place := make(map[string]int)
	stratum := func(method string) int {
		i, ok := place[method]
		if !ok && len(l.seen) >= MaxStrata {
			method = ""
			i, ok = place[method]
		}
		if !ok {
			i = len(l.seen)
			place[method] = i
			l.seen = append(l.seen, rollout.Stratum{Method: method})
			l.weighed = append(l.weighed, &regov1.StoredStratum{Method: method, Looked: l.have.Rollout.GetStepStarted()})
		}
		return i
	}
	for _, s := range before {
		l.weighed[stratum(s.GetMethod())] = s
	}
	var all []*regov1.StoredCounts
	var newest time.Time
	for _, e := range told {
		m := new(regov1.StoredCounts)
		if err := proto.Unmarshal(e.Value, m); err != nil {
			return fmt.Errorf("%s: %w: %w", e.Key, ErrDamaged, err)
		}
		all = append(all, m)
		if at := m.GetTold().AsTime(); at.After(newest) {
			newest = at
		}
	}
	for _, m := range all {
		if newest.Sub(m.GetTold().AsTime()) <= aliveFor {
			l.round = max(l.round, m.GetReportEvery().AsDuration()*5/4)
			l.progress.CanaryClients += m.GetCanaryClients()
			l.progress.Clients += m.GetClients()
			l.progress.Refusing += m.GetRefusing()
		}
		for _, s := range m.GetStrata() {
			to := &l.seen[stratum(s.GetMethod())]
			to.Arms = to.Arms.Plus(armsOf(s))
			l.total = l.total.Plus(armsOf(s))
		}
	}
	return nil
}

// A method is looked at when so many calls of both arms have ended since it was last, or that long
// ago: what has calls in one arm alone is no comparison. Who waited for calls of one of the arms
// would bias it. So all clients must have had the time to report, too: of a few, those of one arm
// often report while those of the other do not.
const (
	enough  = 20
	atLeast = time.Minute
)

// isDue reports whether a method is to be looked at that so many calls of have ended, so long ago.
func (l *look) isDue(calls int64, since time.Duration) bool {
	return since >= atLeast || calls >= enough && since >= l.round
}

// weigh adds what the calls of each method that is due did since it was last looked at to the evidence.
func (l *look) weigh(due func(calls int64, since time.Duration) bool) {
	for i, s := range l.seen {
		more := less(s.Arms, armsOf(l.weighed[i]))
		if !due(more.Canary.Calls+more.Rest.Calls, l.now.Sub(l.weighed[i].GetLooked().AsTime())) {
			continue
		}
		l.evidence.Add(s.Method, more, l.plan.WithDefaults().MaxExtra)
		l.weighed[i] = &regov1.StoredStratum{
			Method: s.Method, Canary: countsProto(s.Arms.Canary), Rest: countsProto(s.Arms.Rest), Looked: timestamppb.New(l.now),
		}
	}
}

func (l *look) decide() {
	l.decision = l.plan.Decide(rollout.State{
		Step: int(l.have.Rollout.GetStep()), Started: l.have.Rollout.GetStepStarted().AsTime(), Now: l.now,
		Evidence: l.evidence, InStep: less(l.total, l.before), Seen: l.seen, Refusing: int(l.progress.GetRefusing()),
	})
}

// edit returns what the decision comes to.
func (l *look) edit() *edit {
	p := l.have
	p.Rollout, p.head = l.progress, proto.CloneOf(l.have.head)
	p.head.Rollout = l.progress
	var e *edit
	switch {
	case l.decision.Verdict == rollout.Reject:
		made := &regov1.Revision{Time: timestamppb.New(l.now), Author: itself, Message: l.decision.Reason}
		return p.withdraw(made, regov1.RolloutState_ROLLOUT_STATE_REJECTED, l.decision.Reason)
	case l.decision.Verdict == rollout.Advance && l.decision.Step >= len(l.plan.Steps):
		return p.promote(l.decision.Reason)
	case l.decision.Verdict == rollout.Advance:
		e = p.edit()
		ro := e.head.GetRollout()
		ro.Step, ro.Share, ro.StepStarted = int32(l.decision.Step), l.plan.Steps[l.decision.Step], timestamppb.New(l.now)
		l.before = l.total
	default: // only what was seen is noted; the head stays as it is
		e = &edit{service: p.Service}
	}
	e.also = append(e.also, Change{Key: evidenceKey(p.Service), Value: marshal(l.stored())})
	return e
}

// stored returns what the next look goes on from.
func (l *look) stored() *regov1.StoredEvidence {
	return &regov1.StoredEvidence{
		Time: timestamppb.New(l.now), Evidence: l.evidence.Floats(), Progress: l.progress, Seen: l.weighed,
		BeforeCanary: countsProto(l.before.Canary), BeforeRest: countsProto(l.before.Rest),
	}
}

// Progress returns the rollout of p with the newest counts; nil if there is none.
func (r *Repository) Progress(ctx context.Context, p Policies) (*regov1.Rollout, error) {
	if !p.Trying() {
		return p.Rollout, nil
	}
	was, _, err := r.evidence(ctx, p.Service, p.Candidate.Revision)
	if err != nil {
		return nil, err
	}
	seen := was.GetProgress()
	if seen == nil {
		return p.Rollout, nil
	}
	seen.Step, seen.Share, seen.StepStarted = p.Rollout.GetStep(), p.Rollout.GetShare(), p.Rollout.GetStepStarted()
	return seen, nil
}

func countsOf(c *regov1.ArmCounts) rollout.Counts {
	return rollout.Counts{Calls: c.GetCalls(), Failed: c.GetFailed(), Extra: c.GetExtra()}
}

func countsProto(c rollout.Counts) *regov1.ArmCounts {
	return &regov1.ArmCounts{Calls: c.Calls, Failed: c.Failed, Extra: c.Extra}
}

func armsOf(s *regov1.StoredStratum) rollout.Arms {
	return rollout.Arms{Canary: countsOf(s.GetCanary()), Rest: countsOf(s.GetRest())}
}

// less returns what of a is not in b. Counts of a replica that has begun anew under the same name
// can be lower than before: then there is nothing new.
func less(a, b rollout.Arms) rollout.Arms {
	diff := func(a, b rollout.Counts) rollout.Counts {
		return rollout.Counts{Calls: max(a.Calls-b.Calls, 0), Failed: max(a.Failed-b.Failed, 0), Extra: max(a.Extra-b.Extra, 0)}
	}
	return rollout.Arms{Canary: diff(a.Canary, b.Canary), Rest: diff(a.Rest, b.Rest)}
}

func planProto(p rollout.Plan) *regov1.RolloutPlan {
	return &regov1.RolloutPlan{Steps: p.Steps, Bake: durationpb.New(p.Bake), Alpha: p.Alpha, MinCalls: p.MinCalls, MaxExtra: p.MaxExtra}
}

// PlanFromProto returns the plan of the wire form m; nil if m is nil.
func PlanFromProto(m *regov1.RolloutPlan) *rollout.Plan {
	if m == nil {
		return nil
	}
	return &rollout.Plan{
		Steps: m.GetSteps(), Bake: m.GetBake().AsDuration(), Alpha: m.GetAlpha(), MinCalls: m.GetMinCalls(), MaxExtra: m.GetMaxExtra(),
	}
}
