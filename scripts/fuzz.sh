#!/usr/bin/env bash
# Runs every fuzz test of the module for the time given, one after another.
set -euo pipefail

time=${1:?"usage: fuzz.sh TIME"}
for package in $(go list ./...); do
	for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
		echo "== $package $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10s "$package"
	done
done
