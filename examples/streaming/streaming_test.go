package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rego-go/rego/interceptor"
	"github.com/rego-go/rego/internal/testsrv"
)

const (
	allRows   = "row 1, row 2, row 3, row 4, row 5, row 6"
	allChunks = "chunk 1, chunk 2, chunk 3, chunk 4, chunk 5, chunk 6"
	allLines  = "line 1, line 2, line 3, line 4"
)

// TestPlay runs the whole program. What it prints says what each side got, so a
// message that is lost, doubled or out of order changes it.
func TestPlay(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	s := &stage{out: &out}
	err := play(t.Context(), s)
	require.NoError(t, err, out.String())

	rows := []struct {
		title    string
		prints   []string // but for the timeline
		attempts []string
		end      string
	}{
		{
			"A server stream breaks before its first message",
			[]string{"application got     " + allRows, "server, attempt 1   from row 1", "server, attempt 2   from row 1"},
			[]string{"original failed", "retry won"}, "answer, succeeded",
		},
		{
			"An upload breaks after three of six chunks",
			[]string{"application got     " + allChunks, "server, attempt 1   chunk 1, chunk 2, chunk 3", "server, attempt 2   " + allChunks},
			[]string{"original failed", "retry won"}, "answer, succeeded",
		},
		{
			"A chat breaks before its first answer",
			[]string{"application got     " + allLines, "server, attempt 1   line 1, line 2", "server, attempt 2   " + allLines},
			[]string{"original failed", "retry won"}, "answer, succeeded",
		},
		{
			"A server stream breaks after messages were delivered",
			[]string{"application got     row 1, row 2, row 3, then Unavailable, not retried: committed", "server, attempt 1   from row 1"},
			[]string{"original failed"}, "answer, committed",
		},
		{
			"The same, and the application knows how to resume",
			[]string{"application got     " + allRows, "server, attempt 1   from row 1", "server, attempt 2   from row 4"},
			[]string{"original failed", "retry resumed won"}, "answer, succeeded",
		},
		{
			"A server stream hangs, and is hedged after 20 ms",
			[]string{"application got     " + allRows, "server, attempt 1   from row 1", "server, attempt 2   from row 1"},
			[]string{"original lost", "hedge won"}, "answer, succeeded",
		},
		{
			"An upload is larger than the replay limit, and nothing breaks",
			[]string{"application got     " + allChunks, "server, attempt 1   " + allChunks},
			[]string{"original won"}, "replay-buffer-full, succeeded",
		},
	}
	printed := strings.Split(out.String(), "\n== ")[1:]
	require.Len(t, printed, len(rows))
	require.Len(t, s.calls, len(rows))
	for i, r := range rows {
		tl := &s.calls[i].timeline
		assert.Equal(t, r.title+"\n\n"+strings.Join(r.prints, "\n")+"\n\n"+tl.String()+"\n", printed[i])
		assert.Equal(t, r.attempts, attempts(tl), r.title)
		assert.Equal(t, r.end, tl.Committed.String()+", "+tl.Reason.String(), r.title)
	}
}

// TestUploadBreaksBeyondLimit: what it costs to outgrow the limit.
func TestUploadBreaksBeyondLimit(t *testing.T) {
	t.Parallel()
	s := &stage{out: t.Output()}
	c, err := s.upload(t.Context(), "An upload is larger than the replay limit, and breaks",
		func(testsrv.Arrival) testsrv.Step { return testsrv.Do(testsrv.Recv(chunks), testsrv.KillConn()) },
		interceptor.WithCallReplayLimit(4*chunkSize))
	require.NoError(t, err)
	assert.Equal(t, codes.Unavailable, status.Code(c.err))
	assert.Equal(t, "replay-buffer-full", c.timeline.Reason.String())
	assert.Empty(t, c.got)
	assert.Len(t, c.served, 1, "attempts at the server")
}

func attempts(tl *interceptor.Timeline) []string {
	var all []string
	for _, a := range tl.Attempts {
		text := a.Kind.String()
		if a.Resumed {
			text += " resumed"
		}
		all = append(all, text+" "+a.Result.String())
	}
	return all
}
