# Everything a developer needs: `make run` and `make test`.
GO ?= go
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
SIZE ?= 100
MINUTES ?= 30
FUZZTIME ?= 20s

# A checkout that belongs to another user, as in many a CI, must build, too.
export GOFLAGS := $(GOFLAGS) -buildvcs=false
# Where scripts/need.sh puts a Node when the installed one is too old.
export PATH := $(CURDIR)/bin/node_modules/.bin:$(PATH)

.PHONY: run test lint package fuzz bench scale torture soak tools screens

# Starts a server with everything it needs; see `caddy till up --help`.
run:
	$(GO) run ./cmd/caddy till up

# Installs what the tests need when it is missing, and runs all of them.
test: tools
	cd e2e/sdk && npm ci --no-progress
	cd e2e/browser && npm ci --no-progress
	$(GO) test -race -timeout 20m ./...
	TILL_CI=1 $(GO) test -timeout 20m -count 1 -v -run $(TORTURE) ./e2e ./limiter
	TILL_GITLEAKS=1 $(GO) test -count 1 -run TestGitleaks ./token

tools:
	@./scripts/need.sh gcc node npm chromium

lint:
	@./scripts/need.sh shellcheck
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run: gofmt -w ."; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	shellcheck .ci/run scripts/*.sh

# Builds bin/caddy by xcaddy, and tries it as the image and the unit run it.
package:
	mkdir -p bin
	./scripts/package.sh bin/caddy
	./scripts/trypackage.sh bin/caddy

# Fuzzes every parser of outside bytes for FUZZTIME each.
fuzz:
	./scripts/fuzz.sh $(FUZZTIME)

# CPU and latency beside stock reverse_proxy, the limiter's hot path, and the
# dashboard with 100,000 keys (it needs `make tools`).
bench:
	$(GO) test -run '^$$' -bench . -count 6 ./limiter
	$(GO) run ./bench
	$(GO) run ./bench -metered
	$(GO) run ./bench -streams 5000
	TILL_PAINT=100000 $(GO) test -count 1 -v -run PaintsWithinASecond ./e2e

# The pictures of the console in docs/img.
screens: tools
	@./scripts/need.sh pngquant
	cd e2e/browser && npm ci --no-progress
	mkdir -p docs/img
	TILL_SCREENS=docs/img $(GO) test -count 1 -run TestScreens ./e2e
	pngquant --force --skip-if-larger --strip --quality 70-95 --ext .png docs/img/*.png

# Mixed load for MINUTES: upstream, store, metrics and audit log must agree.
soak:
	TILL_SOAK=$(MINUTES) $(GO) test -timeout 24h -count 1 -v -run TestSoak ./e2e

# A store of KEYS keys: minting, lists, revoking, forgetting, memory, files.
KEYS ?= 1000000
scale:
	$(GO) run ./bench -scale $(KEYS)

# What must hold whatever happens, SIZE times each: kills, power cuts, reloads,
# seeds, histories, damaged stores. Each ends with a line of what was tried. The
# simulation is quick: give it more, with TESTS=TestSimulation.
TORTURE = 'TestTorture|TestACap|TestAFullDisk|TestAReadOnly|TestSimulation|TestHistories|TestDamageNever|Clock'
TESTS ?= $(TORTURE)
torture:
	TILL_TORTURE=$(SIZE) $(GO) test -timeout 24h -count 1 -v -run $(TESTS) ./e2e ./limiter
