//go:build unix && !linux

package main

// unmountBelow has nothing to do: tests mount only on Linux.
func unmountBelow(string) error { return nil }

// freeMemory is not known on these systems, so no files are kept in memory.
func freeMemory() uint64 { return 0 }
