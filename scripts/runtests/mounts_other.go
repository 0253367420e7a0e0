//go:build unix && !linux

package main

// unmountBelow has nothing to do: tests mount only on Linux.
func unmountBelow(string) error { return nil }

// freeMemory is unknown here, and so nothing is kept there.
func freeMemory() uint64 { return 0 }
