# What a change needs, and all that CI calls. `make` lists the verbs.
# Nothing is installed: tools are pinned in internal/tools and run by `go tool`.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

# A workspace in a parent folder would hide what go.mod says.
export GOWORK := off

TOOLS := $(CURDIR)/internal/tools
BIN   := $(CURDIR)/.bin
BUF   := go tool -modfile=$(TOOLS)/go.mod buf

# The modules of this repository, and `go ... ` run in each of them.
MODULES := $(patsubst %/go.mod,%,$(wildcard ./go.mod ./examples/go.mod ./policy/etcd/go.mod ./policy/cmd/rego/go.mod))
NEWEST  := -modfile=$(CURDIR)/internal/newest/go.mod
LINT    := tool -modfile=$(TOOLS)/lint/go.mod golangci-lint

define newline


endef
each = $(foreach m,$(MODULES),go -C $(m) $(1)$(newline))

# Benchmarks: make bench BENCH=Unary COUNT=10 CPU=1,2,4
BENCH     ?= .
BENCHTIME ?= 1s
COUNT     ?= 1
CPU       ?= 1,2
BENCHED   := $(patsubst %,./%,$(wildcard interceptor interceptor/slogobs interceptor/spread interceptor/debugpage budget hedge policy policy/file otelobs classify))

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the verbs
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: test
test: ## Run all tests with the race detector, those of the other modules included
	$(call each,test -race ./...)

.PHONY: test-oldest
test-oldest: ## Run the library's tests with the oldest Go, and the versions that go.mod asks for
	GOTOOLCHAIN=go1.25.5 go test ./...

# A test builds the program of README.md with the versions of go.mod, and without the network.
.PHONY: test-newest
test-newest: ## Run the library's tests with the newest versions of all that it needs
	go mod download
	go test $(NEWEST) ./...

.PHONY: newest
newest: ## Look for newer versions for test-newest
	go list $(NEWEST) -m -f '{{if not (or .Main .Indirect)}}{{.Path}}@latest{{end}}' all | xargs go get $(NEWEST)
	go mod tidy $(NEWEST)

.PHONY: ties
ties: ## Race two attempts that answer at the same instant, two million times
	go test -race -count=1 -run '^TestTies$$' ./interceptor -ties 2000000

.PHONY: streams
streams: ## Play ten thousand streams at random, and kill connections under streams: a minute by the server, a minute by a proxy
	go test -race -count=1 -run '^TestRandomStreams$$' ./interceptor -streams 10000
	go test -race -count=1 -run '^TestStreamsUnderKills$$' ./interceptor -kill-for 1m

# The twin: SEEDS programs from SEED on. KINDS=1 is unary calls, KINDS=2 streams, KINDS=0 either.
SEED  ?= 1
SEEDS ?= 40000
KINDS ?= 0

.PHONY: twin
twin: ## Play random programs bare and with rego: make twin SEEDS=1000000 SEED=1 KINDS=0
	go test -count=1 -timeout 4h -run '^TestTwin$$' ./internal/twin -seed $(SEED) -programs $(SEEDS) -kinds $(KINDS)

# What tests do in brief, since it takes minutes.
.PHONY: long
long: ## Play at length what tests play in brief: the incident, lies of a control plane, silent members of etcd, hedging
	go -C examples test -race -count=1 -timeout 30m -run '^(TestIncident|TestChaos)$$' ./controlplane -long
	go -C policy/etcd test -race -count=1 -run '^TestSilentMembers$$' . -long
	go -C policy/cmd/rego test -race -count=1 -run '^TestEtcd$$' . -long
	go -C examples test -count=1 -run '^TestTargets$$' ./hedging -seconds 10

.PHONY: rollouts
rollouts: ## Simulate a thousand rollouts without harm for each row of a table, and five thousand with
	go test -count=1 -timeout 1h -v -run '^(TestHarmIsFound|TestFalseAlarms|TestSkew)$$' ./policy/rollout -simulate 1000

.PHONY: lint
lint: ## Vet, lint and check the format of Go and proto files
	$(call each,vet ./...)
	$(call each,$(LINT) run)
	$(BUF) lint

# What only the other modules need must not come to those who import the library.
.PHONY: check-deps
check-deps: ## Fail if the library needs what only its other modules may
	@needed=$$(go list -deps -test ./... | grep -E '^(go\.etcd\.io|go\.uber\.org/zap|github\.com/(spf13|prometheus))/' || true); \
	if [ -n "$$needed" ]; then printf 'the library must not need:\n%s\n' "$$needed" >&2; exit 1; fi

.PHONY: fmt
fmt: ## Format all Go files
	$(call each,$(LINT) fmt)

.PHONY: check-fmt
check-fmt: ## Fail if a Go file is not formatted
	$(call each,$(LINT) fmt --diff)

.PHONY: generate
generate: ## Generate the Go code of the proto files
	$(BUF) generate

# Generates into a folder aside, so that it needs no clean tree and leaves it
# alone. diff -N takes a file that is missing on one side as empty: a stale file
# fails as a forgotten one does.
.PHONY: check-generate
check-generate: ## Fail if generated code or a go.mod is out of date
	@aside=$$(mktemp -d); trap 'rm -rf "$$aside"' EXIT; \
	$(BUF) generate --output "$$aside"; \
	stale=0; \
	for f in $$( (find . -name '*.pb.go'; cd "$$aside"; find . -name '*.pb.go') | sort -u); do \
		diff -uN "$$f" "$$aside/$$f" || stale=1; \
	done; \
	if [ $$stale = 1 ]; then echo 'generated code is out of date: run make generate' >&2; exit 1; fi
	$(call each,mod tidy -diff)
	go mod tidy -diff $(NEWEST)

# What the public proto files were when they were last released. Before the first
# release, every commit may say anew what they are.
BASELINE := proto/baseline.binpb

.PHONY: check-breaking
check-breaking: ## Fail if a public proto file breaks what the baseline promises
	$(BUF) breaking proto --against $(BASELINE)

.PHONY: baseline
baseline: ## Make the public proto files as they are the baseline
	$(BUF) build proto -o $(BASELINE)

.PHONY: bench
bench: ## Run the benchmarks (BENCH, BENCHTIME, COUNT, CPU), and print what other libraries take
	go test -run '^$$' -bench '$(BENCH)' -benchmem -benchtime $(BENCHTIME) \
		-count $(COUNT) -cpu $(CPU) -timeout 2h $(BENCHED)
	@sed -n '/^## Other libraries/,/^## /{ /^|/p }' docs/performance.md

.PHONY: performance
performance: ## Measure what calls cost, and print the table of docs/performance.md: some four minutes
	go run ./internal/performance

.PHONY: pages
pages: ## Load the debug page and the page of the fleet in Chromium, narrow and wide, light and dark (PICTURES=docs takes new ones)
	REGO_CHROMIUM=chromium go -C examples test -count=1 -run '^TestInChromium$$' ./debugpage
	REGO_CHROMIUM=chromium REGO_PICTURES=$(abspath $(PICTURES)) go -C policy/cmd/rego test -count=1 -run '^TestInChromium$$' .

.PHONY: e2e
e2e: $(BIN)/jaeger ## Run the tests that look at rego's spans in a real Jaeger
	REGO_JAEGER=$(BIN)/jaeger go -C examples test -race -count=1 ./jaeger/...

# Some minutes on a new machine; afterwards the build cache has it.
$(BIN)/jaeger: $(TOOLS)/jaeger/go.mod $(TOOLS)/jaeger/go.sum
	go -C $(TOOLS)/jaeger build -o $@ github.com/jaegertracing/jaeger/cmd/jaeger
