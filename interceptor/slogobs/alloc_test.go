package slogobs_test

import (
	"bytes"
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/budget"
	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/interceptor/slogobs"
	"github.com/rego-go/rego/internal/testsrv"
)

// TestAllocations: what is not written allocates nothing. Not parallel: AllocsPerRun counts
// those of the whole process.
func TestAllocations(t *testing.T) {
	var log bytes.Buffer
	r := slogobs.New(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})))
	ctx, began := context.Background(), time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	plain := interceptor.Summary{Target: "t", Method: testsrv.Get, Start: began, Reason: interceptor.EndSucceeded}
	retried, answered, denied := plain, plain, plain
	retried.Retries = 1
	answered.Code, answered.Reason = codes.NotFound, interceptor.EndNonRetryable
	denied.Denials = []interceptor.Denial{{Kind: budget.Retry, Reason: interceptor.DeniedByBudget}}
	none := func(t *testing.T, s interceptor.Summary) {
		t.Helper()
		assert.Zero(t, testing.AllocsPerRun(1000, func() { r.Record(ctx, s) }))
	}
	none(t, plain)
	none(t, retried)
	none(t, answered)
	r.Record(ctx, denied)
	assert.Contains(t, log.String(), "begins to deny")
	none(t, plain) // while a budget denies
	none(t, denied)
}
