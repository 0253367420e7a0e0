#!/usr/bin/env bash
# Makes sure that the programs named are installed, with Debian's packages if
# need be, and fails when one cannot be had.
set -euo pipefail

declare -A package=([node]=nodejs [npm]=npm [shellcheck]=shellcheck)

for program in "$@"; do
	command -v "$program" >/dev/null && continue
	name=${package[$program]:?"no package is known for $program"}
	echo "$program is missing: installing $name"
	root=()
	if [ "$(id -u)" -ne 0 ]; then
		root=(sudo)
	fi
	"${root[@]}" apt-get update -q
	"${root[@]}" apt-get install -qy --no-install-recommends "$name"
	command -v "$program" >/dev/null || { echo "$program could not be installed" >&2; exit 1; }
done

if [[ " $* " == *" node "* ]]; then
	major=$(node -p 'process.versions.node.split(".")[0]')
	if [ "$major" -lt 20 ]; then
		echo "node $major is too old: the vendors' SDKs need 20 or newer" >&2
		exit 1
	fi
fi
