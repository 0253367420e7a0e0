#!/usr/bin/env bash
# Builds Caddy with this checkout of till, by xcaddy, into the file named.
#
# Once the module is published this is
#   xcaddy build --with github.com/till-proxy/till
# Until then no proxy has it: go looks for modules in its own cache, filled
# here, and nowhere else.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:?"usage: package.sh FILE"}
readonly xcaddy=github.com/caddyserver/xcaddy/cmd/xcaddy@v0.4.5
caddy=$(go list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2)

go run "$xcaddy" version
# Modules that no build needs may be missing from a proxy; one that is needed
# makes the build below fail.
go mod download all || true
GOPROXY="file://$(go env GOMODCACHE)/cache/download" GOSUMDB=off GOFLAGS=-mod=mod \
	go run "$xcaddy" build "$caddy" --with github.com/till-proxy/till=. --output "$out"
