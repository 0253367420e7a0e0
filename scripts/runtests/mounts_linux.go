package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
