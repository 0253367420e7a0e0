# Everything a developer needs: `make run`, `make check` and `make test`.
GO ?= go
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
SIZE ?= 100
MINUTES ?= 30
FUZZTIME ?= 20s

# A checkout that belongs to another user, as in many a CI, must build, too, and each uses
# what another has built. What the environment or `go env -w` says besides stays.
export GOFLAGS := $(strip $(shell $(GO) env GOFLAGS) -buildvcs=false -trimpath)
# What the vendors' SDKs and the browser are driven with.
MODULES = e2e/sdk/node_modules/.package-lock.json e2e/browser/node_modules/.package-lock.json
# Claude Code and Codex: 800 MB, of programs that need no script to be installed.
AGENTS = e2e/agents/node_modules/.package-lock.json
# Where scripts/need.sh puts a Node when the installed one is too old.
export PATH := $(CURDIR)/bin/node_modules/.bin:$(PATH)

.PHONY: run cluster cluster-test check test thorough stress lint style package fuzz bench bounds share scale torture pairs soak tools screens clients

# Starts a server with everything it needs; see `caddy till up --help`.
run:
	$(GO) run ./cmd/caddy till up

# Starts a PostgreSQL and two nodes, and spends one budget over both.
cluster:
	@./scripts/need.sh postgres
	$(GO) run ./scripts/cluster

# Phases of tests with one report at the end; Ctrl-C leaves nothing behind.
RUNTESTS = $(GO) run ./scripts/runtests
# e2e takes longest: it has a phase of its own. What only computes, and commands, which do
# one thing after the other, need the race detector less than the processors need their
# time: CI runs them with it.
REST = $$($(GO) list ./... | grep -vE '/(e2e|postgres)$$')
PURE = $$($(GO) list ./... | grep -E '/(upstream|scope|bench|cli)$$')
# The longest comes first, so that at the end others still run beside it.
SHARING = ./limiter $$($(GO) list ./... | grep -vE '/(e2e|upstream|scope|bench|cli|postgres|limiter)$$')

# What to run before each commit: it needs Go and PostgreSQL, and two minutes.
SMOKE = 'TestKeyWith1000|TestEverySlot|TestRefusalsHave|TestAnUpgradeIsOne|TestExampleCaddyfile|TestUpServes'
check: style
	@./scripts/need.sh postgres pgbouncer
	$(RUNTESTS) +unit -timeout 30m -skip '$(LONG)' $(REST) \
		+smoke -timeout 30m -run $(SMOKE) ./e2e \
		++ +database -timeout 30m -parallel 6 -skip '$(SLOW)' ./limiter/postgres

# What tries the same at larger sizes than other tests do, reads the types of every vendor's
# SDK, compares every SDK's behaviour with and without till, drives the vendors' agents, runs
# every block of the pages, looks at each page as axe-core does, or stops nodes for half a
# minute is left to CI.
LONG = TestTorture|TestDamageNever|TestKeysThatEndTogether|TestAStoreOpensThough|SentBack|TestAnswersHold|TestEveryMember|TestSDKsSeeNo|TestSDKsAskOnce|Agents|TestCodexSearches|TestClientMatrix|TestNoClientOfARun|TestRunGivesAnSDK|EveryBlock|TestANodeThatIsStopped|TestEveryPageOfTheConsole|TestACapWorth

# Tests of ./limiter of which most take one step after another, as simulations do: the race
# detector finds little there, and takes five times as long. CI runs them with it, too.
STEPS = TestSimulation|TestNoSchedule|TestNoWindow|TestNoCrash|TestTheBooksOf|TestEveryCountSurvives|TestABackupHolds|TestTheSimulationFinds|TestOtherFilters|TestEveryFilterFinds|TestIdlenessCounts|TestEveryPermissionOnEveryAct|TestALimitTakenAndSet|TestARolesBudgetComes|TestAKeyIsForgottenThough|TestABulkRevocationEndsKeysThat|TestKeysThatAreTooMuch|TestEveryTampered|TestEndedKeysAreForgotten|TestAPruned|TestAJobGoesOnBeside|TestAJobEndsAllKeysBut

# CI alone runs nodes with lines of all kinds to their database, all pairs of features, and
# databases that crash or are taken over by a standby: the latter two with the race detector
# in every server.
SLOW = TestANodeWithASlowLine|TestADatabaseThatAnswersLate
PAIRS = TestPairs|TestNodesGoOnExactly

# What has larger sizes in CI. Simulations make much garbage and keep little: it is
# collected less often.
MORE = '$(LONG)|TestSimulation|TestHistories'

# What CI tries over PostgreSQL as well; cluster-test has all of it.
SHARED = 'TestKeyWith1000|TestKill9|TestReloadsUnderLoad|TestCountsSurvive|TestATreeOfKeys|TestWhatWasAcknowledged|TestARotated|TestARoleOr|TestEveryKeysCounts|TestWebhookEvents'

# What of ./e2e CI does not run with the race detector: pages, commands, agents and SDKs,
# which send one request after another, and what compares bounds with counts.
ALONE = 'Console|TestTheList|Client(Matrix|OfARun)|TestTheDocs|EveryBlock|Agent|SDK|SentBack|TestRun|TestARun|TestTheCommandOf|Terminal|TestTheImage|TestOneSet|TestTheCompose|TestEveryMember|Codex|Tool|TableOfAPIs|TestUpServes|TestExample'

# A program with the race detector would wait for a second at its end. Nobody debugs what
# tests are linked to.
RACE = GORACE=atexit_sleep_ms=20 -race $(PLAIN)
PLAIN = -vet=off -ldflags=-w -timeout 30m

# Installs what the tests need when it is missing, and runs them: packages with the race
# detector, and end to end with Caddy as users run it. Tests make much garbage and keep
# little, so it is collected less often. Those of PostgreSQL mostly wait, and so run beside
# the others.
test: tools
	$(MAKE) --no-print-directory -j3 $(MODULES)
	$(RUNTESTS) +unit GOGC=400 $(RACE) -parallel 4 -skip '$(LONG)|$(STEPS)' $(SHARING) \
		++ +database GOGC=400 $(RACE) -skip '$(SLOW)' ./limiter/postgres \
		+steps GOGC=400 $(PLAIN) -run '$(STEPS)' ./limiter \
		+pure GOGC=200 $(PLAIN) $(PURE) \
		++ +e2e GOGC=200 $(PLAIN) -skip '$(LONG)|$(PAIRS)' ./e2e

# Where the files of tests go that are to meet a real disk: they are in memory by default
# if there is enough of it.
DISK = TMPDIR=$${TMPDIR:-/tmp}

# What CI runs besides, on a real disk: end to end with the race detector in every server,
# what is tried over PostgreSQL, too, and the larger sizes. Those over a database wait for
# most of their time, and so run beside what keeps the processors busy.
thorough: tools
	$(MAKE) --no-print-directory -j3 $(MODULES) $(AGENTS)
	$(DISK) $(RUNTESTS) +race GOGC=200 $(RACE) -skip $(ALONE) ./e2e \
		+steps GOGC=400 $(RACE) -run '$(STEPS)|$(SLOW)|TestKeysThatEndTogether|TestAStoreOpensThough' ./limiter ./limiter/postgres \
		++ +database TILL_TEST_STORE=postgres GOGC=200 $(PLAIN) -count 1 -run $(SHARED) ./e2e \
		+torture TILL_CI=1 GOGC=400 $(PLAIN) -count 1 -v -run $(MORE) ./e2e ./limiter \
		+gitleaks TILL_GITLEAKS=1 $(PLAIN) -count 1 -run TestGitleaks ./token \
		+pure GOGC=200 $(RACE) $(PURE)

# What is most sensitive to time, COUNT times, while BURN threads and a busy disk
# compete with it.
BURN ?= 8
COUNT ?= 1
STRESS = 'TestClientsThatDoNotRead|TestUpstreamsThatDoNotAnswer|TestAnUpstreamThatMisbehaves|TestBodiesThat|TestReloadsUnderLoad|TestATreeOfKeys|TestRevok|TestRotatingAHeld|TestTheConsole|TestKeysThatWereNotUsedLately'
stress: tools $(MODULES)
	$(DISK) $(GO) run ./scripts/burn -for $$((30 * $(COUNT)))m $(BURN) -- \
		$(RUNTESTS) +stress -p 1 -count $(COUNT) -timeout $$((30 * $(COUNT)))m -run $(STRESS) ./e2e ./limiter

tools:
	@./scripts/need.sh gcc node npm chromium git wget curl python3 jq openssl postgres pgbouncer

%/node_modules/.package-lock.json: %/package-lock.json | tools
	cd $* && npm ci --no-progress --prefer-offline --no-audit --no-fund && touch node_modules/.package-lock.json

# Its lock file has programs for this system alone, which npm ci takes for a mistake.
e2e/clients/node_modules/.package-lock.json: e2e/clients/package-lock.json | tools
	cd e2e/clients && npm install --no-save --no-progress && touch node_modules/.package-lock.json

style:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run: gofmt -w ."; exit 1; }
	@! grep -rE --include='*_test.go' --exclude-dir=node_modules '^func Test\w*\(' . | \
		grep -vE '^\./(e2e|limiter|limiter/postgres|upstream|scope|bench|cli)/[^/]*:' | grep -E ':func \w*($(LONG)|$(STEPS))' || \
		{ echo "no phase of make test or make thorough runs these: see LONG and STEPS in the Makefile"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

lint: style
	@./scripts/need.sh shellcheck
	shellcheck .ci/run scripts/*.sh e2e/testdata/*.sh

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
	$(GO) run ./bench -nodes 2
	$(GO) test -run '^$$' -bench HotKey -benchtime 200000x ./limiter/postgres
	$(GO) test -run '^$$' -bench 'Cold|Unknown|Slow' -benchtime 1000x ./limiter/postgres
	TILL_PAINT=100000 $(GO) test -count 1 -v -run PaintsWithinASecond ./e2e

# How many times the true count of tokens requests are held to, by ten vocabularies
# and in fourteen scripts. With STRICT=1 it fails where the goal is missed.
bounds: tools bench/tokenizers/node_modules/.package-lock.json
	$(GO) run ./bench -bounds $(if $(STRICT),-strict)

# How much of a key real agents can spend: Claude Code and Codex, before a vendor
# that bills as theirs do. With SHARE=strict it fails where a target is missed.
SHARE ?= print
share: tools $(AGENTS)
	TILL_SHARE=$(SHARE) $(GO) test -timeout 30m -count 1 -v -run TestUsableShare ./e2e

# Every client of docs/clients.md on every kind of limit, and the tools of
# docs/apis.md: 1.5 GB of programs, and half an hour. CLIENTS='Codex' runs one,
# CLIENTS='.*/dollars' one kind of limit, CLIENTS='git.*' what git does.
CLIENTS ?= .*
clients: tools $(MODULES) $(AGENTS) e2e/clients/node_modules/.package-lock.json e2e/tools/node_modules/.package-lock.json
	@./scripts/need.sh skopeo docker-registry gh rclone javac kubectl
	TILL_CLIENTS=1 $(GO) test -timeout 2h -count 1 -v -run 'TestClientMatrix/$(CLIENTS)|TestNoClientOfARun|TestToolsOnKeys/$(CLIENTS)' ./e2e

# The pictures of the console in docs/img.
screens: tools e2e/browser/node_modules/.package-lock.json
	@./scripts/need.sh pngquant
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
TORTURE = 'TestTorture|TestACap|TestAFullDisk|TestAReadOnly|TestSimulation|TestHistories|TestDamageNever|SimulationFinds|Clock|'$(NODES)
TESTS ?= $(TORTURE)
torture:
	TILL_TORTURE=$(SIZE) $(GO) test -timeout 24h -count 1 -v -run $(TESTS) ./e2e ./limiter

# Several nodes over one PostgreSQL, which these tests start, SIZE times each; and then
# every test that is about a server, once more over a database.
NODES = 'OverNodes|TestNodes|TestANodeThat|TestANodeDoesNot|TestRevokingAt'
cluster-test: tools $(MODULES)
	TILL_TORTURE=$(SIZE) $(GO) test -timeout 24h -count 1 -v -run 'TestTortureKillsOfNodes|'$(NODES) ./e2e
	TILL_TEST_STORE=postgres $(GO) test -timeout 2h -count 1 -skip $(NODES) ./e2e

# Every pair of a key's options, kinds of request and events, in SEEDS arrays of some
# 310 lives each; `make thorough` has the first. A life that fails says how to live it alone.
SEEDS ?= 10
pairs:
	TILL_PAIRS=$(SEEDS) $(GO) test -timeout 24h -count 1 -v -run 'TestPairs$$' ./e2e
