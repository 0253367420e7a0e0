# Everything a developer needs: `make run` and `make test`.
GO ?= go
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
BENCHSTAT = golang.org/x/perf/cmd/benchstat@latest
SIZE ?= 20
FUZZTIME ?= 20s

.PHONY: run test lint fuzz bench torture tools

# Starts a server with everything it needs; see `caddy till up --help`.
run:
	$(GO) run ./cmd/caddy till up

# Installs what the tests need when it is missing, and runs all of them.
test: tools
	cd e2e/sdk && npm ci --no-progress
	$(GO) test -race -timeout 10m ./...

tools:
	@./scripts/need.sh node npm

lint:
	@./scripts/need.sh shellcheck
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run: gofmt -w ."; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	shellcheck .ci/run scripts/*.sh

# Fuzzes every parser of outside bytes for FUZZTIME each.
fuzz:
	./scripts/fuzz.sh $(FUZZTIME)

# CPU and latency beside stock reverse_proxy, and the limiter's hot path.
bench:
	$(GO) test -run '^$$' -bench . -count 6 ./limiter
	$(GO) run ./bench

# The counting tests at size: SIZE kills and reloads.
torture: tools
	TILL_TORTURE=$(SIZE) $(GO) test -timeout 24h -count 1 -v -run 'TestTorture' ./e2e
