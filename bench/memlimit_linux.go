package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"
)

// limitMB is the memory of a small machine, in MB.
const limitMB = 300

// makeCgroup creates a control group that limits memory, by version 2 or 1 of the
// kernel's interface. It needs root.
func makeCgroup() (dir string, remove func() error, err error) {
	name := fmt.Sprintf("till-bench-%d", os.Getpid())
	var failed error
	for _, g := range []struct{ root, sign, limit string }{
		{"/sys/fs/cgroup", "cgroup.controllers", "memory.max"},
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.limit_in_bytes"},
	} {
		dir := filepath.Join(g.root, name)
		if _, err := os.Stat(filepath.Join(g.root, g.sign)); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		f, err := os.OpenFile(filepath.Join(dir, g.limit), os.O_WRONLY, 0)
		if err == nil {
			_, err = fmt.Fprint(f, limitMB<<20)
			err = errors.Join(err, f.Close())
		}
		if err == nil {
			return dir, func() error { return os.Remove(dir) }, nil
		}
		failed = errors.Join(failed, err, os.Remove(dir))
	}
	return "", nil, failed
}

// limitMemory moves this process into a control group, and sets Go's memory limit
// from it as Caddy does at its start.
func limitMemory(cgroup string) error {
	if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return err
	}
	debug.SetMemoryLimit(limitMB << 20 / 10 * 9)
	return nil
}

// dropCache removes a directory's files from the kernel's cache, so that the next
// reader is charged for them.
func dropCache(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		f, err := os.OpenFile(filepath.Join(dir, e.Name()), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		err = f.Sync() // only pages that are on the disk can be dropped
		if err == nil {
			err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}
