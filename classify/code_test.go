package classify_test

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/classify"
)

// grpc reads the specification's names, it only does not write them.
func TestCodeName(t *testing.T) {
	t.Parallel()
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		var parsed codes.Code
		require.NoError(t, parsed.UnmarshalJSON([]byte(strconv.Quote(classify.CodeName(c)))), c)
		assert.Equal(t, c, parsed)
	}
	assert.Equal(t, "CODE(99)", classify.CodeName(99))
}
