//go:build unix && !linux

package main

// unmountBelow has nothing to do: tests mount only on Linux.
func unmountBelow(string) error { return nil }
