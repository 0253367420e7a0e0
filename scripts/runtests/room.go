//go:build unix

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
)

// memoryVariable is the variable that names the tests' directory in memory.
const memoryVariable = "TILL_TEST_MEMORY"

// runVariable is the variable that names a directory that all phases of a run share.
const runVariable = "TILL_TEST_RUN"

const sharedMemory = "/dev/shm"

// room holds the files of a run: a directory for them, and one that is surely in memory.
type room struct{ files, memory string }

func newRoom() (*room, error) {
	r := &room{}
	var err error
	if r.files, err = makeShort(parent()); err != nil {
		return nil, err
	}
	// A run within a test of another run is kept below its directory, and so goes with
	// it.
	memory := cmp.Or(os.Getenv(memoryVariable), sharedMemory)
	if info, err := os.Stat(memory); err == nil && info.IsDir() {
		if r.memory, err = makeShort(memory); err != nil {
			return nil, errors.Join(err, r.remove())
		}
	}
	return r, nil
}

// enough is how much memory, in bytes, has to be free for all files of a run: the files
// of tests and builds take some 2 GB at most.
const enough = 8 << 30

// parent is where the files of a run go: where TMPDIR says, or, without it, in memory, if there
// is enough. A disk that others keep busy makes a store refuse requests after a few seconds, as
// it should, and most tests are about something else.
func parent() string {
	if os.Getenv("TMPDIR") == "" && freeMemory() >= enough {
		return sharedMemory
	}
	return os.TempDir()
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
	env := []string{"TMPDIR=" + r.files, runVariable + "=" + r.files}
	if r.memory != "" {
		env = append(env, memoryVariable+"="+r.memory)
	}
	return env
}

// remove removes both directories, with what was mounted there.
func (r *room) remove() error {
	var failed error
	for _, dir := range []string{r.files, r.memory} {
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
