package debugpage

import (
	"html/template"
	"net/url"

	"google.golang.org/grpc/codes"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/interceptor"
)

// formats are what these pages need besides what all have.
var formats = template.FuncMap{"methodURL": methodURL}

// methodURL is where the page of a method is, seen from any other.
func methodURL(target, method string) string {
	return "method?" + url.Values{"target": {target}, "method": {method}}.Encode()
}

// codeName returns the name of a code as gRPC's documents spell it.
func codeName(c codes.Code) string {
	if c >= interceptor.OtherCode {
		return "other code"
	}
	return classify.CodeName(c)
}
