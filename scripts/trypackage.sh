#!/usr/bin/env bash
# Tries a packaged Caddy the way its image and its unit run it: as they call
# it, with Caddyfile.example, with the health check, and with a key.
set -euo pipefail
cd "$(dirname "$0")/.."

caddy=$(realpath "${1:?"usage: trypackage.sh FILE"}")
dir=$(mktemp -d)
export XDG_DATA_HOME="$dir/data" XDG_CONFIG_HOME="$dir/config"
export OPENAI_API_KEY=sk-example GITHUB_TOKEN=ghp-example
pid=
finish() {
	status=$?
	[ -z "$pid" ] || kill "$pid" 2>/dev/null || true
	[ "$status" -eq 0 ] || tail -20 "$dir/log" >&2 || true
	rm -rf "$dir"
	exit "$status"
}
trap finish EXIT

# grep -q would end at the first match, and what still writes then would fail by SIGPIPE.
"$caddy" list-modules >"$dir/modules"
for module in till http.handlers.till http.handlers.till_console http.reverse_proxy.transport.till admin.api.till till.stores.badger; do
	grep -qx "$module" "$dir/modules" || { echo "module $module is missing" >&2; exit 1; }
done
"$caddy" validate --config Caddyfile.example --adapter caddyfile >"$dir/log" 2>&1

"$caddy" run --config Caddyfile.example --adapter caddyfile >"$dir/log" 2>&1 &
pid=$!
# The image's HEALTHCHECK, as it stands there.
read -ra health <<<"$(sed -n 's/^HEALTHCHECK.* CMD caddy //p' xcaddy.Dockerfile)"
for _ in $(seq 100); do
	"$caddy" till ready >/dev/null 2>&1 && break
	kill -0 "$pid"
	sleep 0.2 # between two looks
done
"$caddy" "${health[@]}"
"$caddy" till create --upstream openai --max-activations 1 --json >"$dir/key"
grep -q '"scoped_key"' "$dir/key"
kill "$pid"
wait "$pid"
pid=
echo "the packaged Caddy works"
