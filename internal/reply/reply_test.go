package reply_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/internal/reply"
	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// plain is a reply of a codec of the caller's own.
type plain struct {
	Name string
	Tags map[string]string
}

// around has the methods of a message, which know nothing of Note.
type around struct {
	*testv1.GetResponse
	Note string
}

func TestKinds(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]struct {
		reply   any
		isEmpty bool
		more    bool // there can be
		empties bool
	}{
		"message":                 {new(testv1.GetResponse), true, true, true},
		"message that holds some": {&testv1.GetResponse{Id: "7"}, false, true, true},
		"nil message":             {(*testv1.GetResponse)(nil), true, true, false},
		"around a message":        {&around{GetResponse: new(testv1.GetResponse)}, false, false, false}, // its Reset may not empty what is around it
		"zero":                    {new(plain), true, true, true},
		"not zero":                {&plain{Name: "a"}, false, false, true}, // a codec may add to it
		"bytes":                   {new([]byte), true, true, true},
		"nil pointer":             {(*plain)(nil), true, false, true},
		"nil":                     {nil, true, false, true},
		"no pointer":              {map[string]string{}, false, false, false},
	} {
		var kinds reply.Kinds
		k := kinds.Of(r.reply)
		assert.Same(t, k, kinds.Of(r.reply), name)
		assert.Equal(t, r.isEmpty, k.IsEmpty(r.reply), name)
		m, ok := k.Like(r.reply)
		assert.Equal(t, r.more, ok, name)
		if r.more {
			other := m.Make()
			assert.IsType(t, r.reply, other, name)
			assert.NotSame(t, r.reply, other, name)
			assert.True(t, k.IsEmpty(other), name)
		}
		if r.empties {
			k.Empty(r.reply)
			assert.True(t, k.IsEmpty(r.reply), name)
		}
	}
}

// TestMove: nothing is left of what there was.
func TestMove(t *testing.T) {
	t.Parallel()
	var kinds reply.Kinds
	to, from := &testv1.GetResponse{Id: "7"}, new(testv1.GetResponse)
	kinds.Of(to).Move(to, from)
	assert.True(t, proto.Equal(from, to))
	other, tags := &plain{Name: "a"}, map[string]string{"b": "c"}
	k := kinds.Of(other)
	require.NotSame(t, k, kinds.Of(to), "of another type")
	k.Move(other, &plain{Tags: tags})
	assert.Equal(t, &plain{Tags: tags}, other)
}
