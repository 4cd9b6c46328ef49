package file_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/file"
)

// How do policies come from a file? Watch keeps a store at what the file says. The interceptor
// of the program takes the store by interceptor.WithPolicies.
func ExampleWatch() {
	path, remove := written(`
version: "1"
rules:
  - methods: ["/shop.v1.Cart/*"]
    policy: {name: cart, retry: {max_attempts: 4}}
`)
	defer remove()

	store := new(policy.Store)
	w, err := file.Watch(path, store, quiet)
	if err != nil {
		fmt.Println(err) // only for a name that does not say the format
		return
	}
	defer w.Close()
	p := store.Current().Lookup("/shop.v1.Cart/List") // the file has been read once
	fmt.Println(store.Status().State(), store.Current().Version(), p.Name, p.Retry.MaxAttempts)

	// Output:
	// current 1 cart 4
}

// What happens to a file with a fault? The last good set stays in force, and the status says what is
// wrong, with the line and the column.
func ExampleWatch_fault() {
	path, remove := written("version: \"1\"\n")
	defer remove()
	store := new(policy.Store)
	w, err := file.Watch(path, store, quiet)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Close()

	rewrite(path, "version: \"2\"\nrules:\n  - methods: [\"shop.v1.Cart.List\"]\n")
	until(store, inState(policy.StateRefused))
	fmt.Println("in force:", store.Current().Version())
	fmt.Println(store.Status().Refusal.Err)

	// Output:
	// in force: 1
	// 3:15: rules[0].methods[0]: must be /pkg.Service/Method, /pkg.Service/* or *, got "shop.v1.Cart.List"
}

// How is a file checked before it is shipped? Parse tells everything that is wrong with it, for
// a test beside the file.
func ExampleParse() {
	_, err := file.Parse([]byte(`
rules:
  - methods: ["/shop.v1.Cart/*"]
    policy: {retry: {max_attempt: 4}, timeout: 2 seconds}
`), file.YAML)
	fmt.Println(err)

	// Output:
	// 4:22: rules[0].policy.retry.max_attempt: unknown field, must be one of off, max_attempts, backoff, codes, reconnect, stop_chain: did you mean max_attempts?; 4:48: rules[0].policy.timeout: must be a duration such as 1.5s, got "2 seconds"
}

// How does the owner of a program limit what files and control planes can say? With limits in a
// file beside the program, which interceptor.WithLimits takes.
func ExampleParseLimits() {
	limits, err := file.ParseLimits([]byte(`
max_attempts: 4
forbidden: [idempotency, retry.codes]
`), file.YAML)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(limits.MaxAttempts, limits.Forbidden)

	// Output:
	// 4 [idempotency retry.codes]
}

var quiet = file.WithLogger(silent)

// written returns a file in a folder of its own.
func written(text string) (path string, remove func()) {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	path = filepath.Join(dir, "policies.yaml")
	rewrite(path, text)
	return path, func() { _ = os.RemoveAll(dir) }
}

// rewrite replaces a file as a whole.
func rewrite(path, text string) {
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		panic(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		panic(err)
	}
}
