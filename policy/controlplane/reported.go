package controlplane

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

// Limits of what a report says. A client that is right stays well below them.
const (
	maxMethods = 1000
	maxEnds    = 300 // of a method
	maxDenials = 100 // of a method
	maxCount   = 1 << 40
)

// How often a server may ask for reports.
const (
	reportsAtMost  = time.Second
	reportsAtLeast = time.Hour
)

// ReportEvery makes clients that have [WithReports] report what their calls did, each d to
// 1.25 d, if calls have ended since. If a client reports more than twice as often, or
// without being asked, its stream ends with RESOURCE_EXHAUSTED. Default, and what zero or
// less means: no client is asked. Less than a second means a second, and more than an hour
// means an hour.
func ReportEvery(d time.Duration) ServeOption {
	return serveOption(func(c *serving) {
		if c.reportEvery = 0; d > 0 {
			c.reportEvery = min(max(d, reportsAtMost), reportsAtLeast)
		}
	})
}

// asks returns what responses say of reports; nil if none are asked for.
func (c *serving) asks() *durationpb.Duration {
	if c.reportEvery == 0 {
		return nil
	}
	return durationpb.New(c.reportEvery)
}

// reported takes a report, which is no answer: it changes nothing of what c has in force. Only
// the goroutine that receives from c may call it.
func (s *Server) reported(c *client, r *regov1.Report) error {
	if s.config.reportEvery == 0 {
		return status.Error(codes.ResourceExhausted, "a report that nobody asked for")
	}
	if !c.reports.allow(s.config.reportEvery, time.Now()) {
		return status.Errorf(codes.ResourceExhausted, "more than two reports in %v", s.config.reportEvery)
	}
	if err := checkReport(r); err != nil {
		return err
	}
	if s.onReport != nil {
		s.onReport(c, r)
	}
	return nil
}

// reportRate is how many reports a client has sent, beyond what it may in the time since. The zero
// value is none.
type reportRate struct {
	spent float64
	at    time.Time
}

// reportBurst is how many may come at once. A connection that was held up for half a minute brings
// at once what was sent meanwhile.
const reportBurst = 64

// allow reports whether another report may come now, and counts it.
func (a *reportRate) allow(every time.Duration, now time.Time) bool {
	a.spent = max(a.spent-2*now.Sub(a.at).Seconds()/every.Seconds(), 0) + 1
	a.at = now
	return a.spent <= reportBurst
}

// checkReport returns what is wrong with a report. Methods, ends and denials may be there twice:
// their counts add up.
func checkReport(r *regov1.Report) error {
	if len(r.GetVersion()) > maxWord {
		return errLongReport
	}
	if n := len(r.GetMethods()); n > maxMethods {
		return status.Errorf(codes.InvalidArgument, "a report may have %d methods, got %d", maxMethods, n)
	}
	for _, m := range r.GetMethods() {
		if err := checkMethodReport(m); err != nil {
			return err
		}
	}
	return nil
}

var (
	errLongReport  = status.Errorf(codes.InvalidArgument, "a word of a report may have %d bytes", maxWord)
	errLargeReport = status.Errorf(codes.InvalidArgument, "a count of a report may be %d", int64(maxCount))
)

func checkMethodReport(m *regov1.MethodReport) error {
	switch {
	case len(m.GetMethod()) > maxWord:
		return errLongReport
	case m.GetRetries() > maxCount, m.GetHedges() > maxCount:
		return errLargeReport
	case len(m.GetEnds()) > maxEnds:
		return status.Errorf(codes.InvalidArgument, "a method of a report may have %d ends, got %d", maxEnds, len(m.GetEnds()))
	case len(m.GetDenials()) > maxDenials:
		return status.Errorf(codes.InvalidArgument, "a method of a report may have %d denials, got %d", maxDenials, len(m.GetDenials()))
	}
	for _, e := range m.GetEnds() {
		switch _, known := regov1.Code_name[int32(e.GetCode())]; {
		case !known:
			return status.Errorf(codes.InvalidArgument, "a report has the code %d, which is none", e.GetCode())
		case len(e.GetReason()) > maxWord:
			return errLongReport
		case e.GetCalls() > maxCount:
			return errLargeReport
		}
	}
	for _, d := range m.GetDenials() {
		switch {
		case len(d.GetKind()) > maxWord, len(d.GetReason()) > maxWord:
			return errLongReport
		case d.GetCount() > maxCount:
			return errLargeReport
		}
	}
	return nil
}
