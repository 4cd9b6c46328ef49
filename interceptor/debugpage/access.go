package debugpage

import (
	"net/http"

	"github.com/rego-go/rego/internal/webpage"
)

// isLocal is the default of WithAuth.
func isLocal(r *http.Request) (look, timelines bool) {
	local := webpage.IsLocal(r)
	return local, local
}
