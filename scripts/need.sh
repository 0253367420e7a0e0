#!/usr/bin/env bash
# Makes sure that the programs named are installed, with Debian's packages if
# need be, and fails when one cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A packages=(
	[chromium]="chromium fonts-dejavu-core" # without a font a page has no text
	[curl]=curl
	[docker-registry]=docker-registry
	[gcc]="gcc libc6-dev" # Go's race detector links with it
	[gh]=gh
	[git]=git
	[javac]=default-jdk-headless
	[jq]=jq
	[kubectl]=kubernetes-client
	[node]=nodejs
	[npm]=npm
	[openssl]=openssl
	[pgbouncer]=pgbouncer
	[pngquant]=pngquant
	[postgres]=postgresql
	[python3]=python3
	[rclone]=rclone
	[shellcheck]=shellcheck
	[skopeo]=skopeo
	[wget]=wget
)

# What the vendors' SDKs ask for, and what to take when Debian's is older.
readonly oldest_node=20 newer_node=22.11.0

install() {
	local root=()
	if [ "$(id -u)" -ne 0 ]; then
		root=(sudo)
	fi
	# Another of Debian's programs may be installing, too: wait for it.
	"${root[@]}" apt-get -o DPkg::Lock::Timeout=300 update -q
	"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -qy --no-install-recommends "$@"
}

# Debian keeps PostgreSQL's programs apart, by version.
have() {
	command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || compgen -G "/usr/lib/postgresql/*/bin/$1" >/dev/null
}

node_major() {
	node -p 'process.versions.node.split(".")[0]'
}

for program in "$@"; do
	have "$program" && continue
	read -ra names <<<"${packages[$program]:?"no package is known for $program"}"
	echo "$program is missing: installing ${names[*]}"
	install "${names[@]}"
	hash -r
	have "$program" || { echo "$program could not be installed" >&2; exit 1; }
done

if [[ " $* " == *" npm "* ]] && [ "$(node_major)" -lt "$oldest_node" ]; then
	echo "node $(node --version) is too old: installing $newer_node in bin/, for the tests alone"
	npm install --no-save --no-audit --no-fund --prefix bin "node@$newer_node"
	PATH="$PWD/bin/node_modules/.bin:$PATH"
	hash -r
	[ "$(node_major)" -ge "$oldest_node" ] || { echo "node $oldest_node or newer could not be installed" >&2; exit 1; }
fi
