//go:build unix

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
)

// memoryVariable names to tests their directory in memory.
const memoryVariable = "TILL_TEST_MEMORY"

// runVariable names to tests a directory that all phases of a run share.
const runVariable = "TILL_TEST_RUN"

const sharedMemory = "/dev/shm"

// room holds the files of a run: a directory on the disk, and one in memory.
type room struct{ disk, memory string }

func newRoom() (*room, error) {
	r := &room{}
	var err error
	if r.disk, err = makeShort(os.TempDir()); err != nil {
		return nil, err
	}
	if info, err := os.Stat(sharedMemory); err == nil && info.IsDir() {
		if r.memory, err = makeShort(sharedMemory); err != nil {
			return nil, errors.Join(err, r.remove())
		}
	}
	return r, nil
}

// makeShort creates a directory with a shorter name than os.MkdirTemp's: a socket's
// path may have 103 bytes, and tests put their names into it. Other users may
// traverse the directory but not list it, because some tests run commands as another
// user.
func makeShort(parent string) (string, error) {
	for {
		dir := filepath.Join(parent, "till-"+strconv.FormatUint(uint64(rand.Uint32N(36*36*36*36)), 36))
		if err := os.Mkdir(dir, 0o711); !errors.Is(err, fs.ErrExist) {
			return dir, err
		}
	}
}

func (r *room) env() []string {
	env := []string{"TMPDIR=" + r.disk, runVariable + "=" + r.disk}
	if r.memory != "" {
		env = append(env, memoryVariable+"="+r.memory)
	}
	return env
}

// remove removes both directories, with what was mounted there.
func (r *room) remove() error {
	var failed error
	for _, dir := range []string{r.disk, r.memory} {
		if dir == "" {
			continue
		}
		if err := unmountBelow(dir); err != nil {
			// What is mounted there may be anything: do not remove its files.
			failed = errors.Join(failed, fmt.Errorf("%s stays: %w", dir, err))
			continue
		}
		if os.RemoveAll(dir) == nil {
			continue
		}
		failed = errors.Join(failed, filepath.WalkDir(dir, func(path string, d fs.DirEntry, _ error) error {
			if d != nil && d.IsDir() {
				return os.Chmod(path, 0o700) // a test removed the permission to write there
			}
			return nil
		}), os.RemoveAll(dir))
	}
	return failed
}
