package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// unmountBelow unmounts everything below a directory: tests that were ended have not
// done so themselves.
func unmountBelow(dir string) error {
	dir, err := filepath.EvalSymlinks(dir) // as the kernel reports it
	if err != nil {
		return err
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var failed error
	mounts := strings.Split(string(b), "\n")
	slices.Reverse(mounts) // the last first, because mounts may be nested
	for _, line := range mounts {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			if err := unix.Unmount(fields[4], unix.MNT_DETACH); err != nil {
				failed = errors.Join(failed, fmt.Errorf("unmounting %s: %w", fields[4], err))
			}
		}
	}
	return failed
}

// freeMemory returns how much memory programs may still take, in bytes, all of which a
// file system in memory may use; 0 where no program may be run from it.
func freeMemory() uint64 {
	var fs unix.Statfs_t
	if err := unix.Statfs(sharedMemory, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC || fs.Flags&unix.ST_NOEXEC != 0 {
		return 0
	}
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "MemAvailable:")
	line, _, _ := strings.Cut(rest, "kB")
	available, err := strconv.ParseUint(strings.TrimSpace(line), 10, 64)
	if err != nil {
		return 0
	}
	return min(available<<10, fs.Bavail*uint64(fs.Bsize))
}
