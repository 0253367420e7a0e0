// Burn loads a machine: N threads that compute, and one that writes 64 MB to a file and
// syncs it, again and again. It ends by itself, with its parent, or with the command
// beside which it runs the load, whose exit code it returns.
//
//	go run ./scripts/burn 8
//	go run ./scripts/burn 8 -- make test
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const usage = "usage: burn [-for 30m] [-dir DIR] N [-- COMMAND…]"

var (
	duration = flag.Duration("for", 30*time.Minute, "when the load ends at the latest")
	dir      = flag.String("dir", "", "where the file is (default: the system's directory for such)")
)

func main() {
	flag.Parse()
	code, err := run(flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "burn:", err)
	}
	os.Exit(code)
}

func run(args []string) (code int, err error) {
	if len(args) == 0 {
		return 2, errors.New(usage)
	}
	n, err := strconv.Atoi(args[0])
	if err != nil || n < 1 || n > 1024 || len(args) > 1 && (args[1] != "--" || len(args) == 2) {
		return 2, errors.New(usage)
	}
	stopped, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	if len(args) > 2 {
		// The terminal interrupts the command as well, which then ends as it
		// likes, and the load with it.
		signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	}
	parent := os.Getppid()
	stopped, orphaned := context.WithCancel(stopped)
	defer orphaned()
	go watchParent(parent, orphaned)
	load, done := context.WithTimeout(stopped, *duration)
	defer done()
	f, err := scratch(*dir)
	if err != nil {
		return 1, err
	}
	defer f.Close()

	fmt.Fprintf(os.Stderr, "burn: %d threads and a disk, for %s at most\n", n, *duration)
	runtime.GOMAXPROCS(n + 1) // otherwise they would share as many threads as there are cores
	var all sync.WaitGroup
	for range n {
		all.Go(func() { compute(load) })
	}
	written := make(chan error, 1)
	all.Go(func() { written <- write(load, f, fileSize) })
	if len(args) > 2 {
		code, err = beside(stopped, args[2:])
		done()
	}
	all.Wait()
	if failed := <-written; failed != nil {
		return 1, errors.Join(err, failed)
	}
	return code, err
}

// beside runs a command, and stops it if the load ends first.
func beside(stopped context.Context, command []string) (code int, err error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-stopped.Done():
		if failed := cmd.Process.Signal(syscall.SIGTERM); failed != nil && !errors.Is(failed, os.ErrProcessDone) {
			return 1, failed
		}
		err = <-ended
	}
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return max(1, exit.ExitCode()), nil // -1 after a signal
	}
	return 0, err
}

// watchParent ends the load when its parent is gone: `go run` passes no signal on.
func watchParent(parent int, orphaned func()) {
	for range time.Tick(time.Second) {
		if os.Getppid() != parent {
			orphaned()
			return
		}
	}
}

// fileSize is how much space the load needs on the disk.
const fileSize = 64 << 20

func compute(ctx context.Context) {
	for x := uint64(1); ctx.Err() == nil; {
		for range 1 << 16 {
			x = x*6364136223846793005 + 1442695040888963407
		}
		if x == 0 { // never true, but the compiler does not know that
			return
		}
	}
}

// scratch returns an unlinked file, so that nothing has to be removed.
func scratch(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "till-burn")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// write writes the same bytes of a file over and over, a megabyte at a time, and
// waits for the disk after each round.
func write(ctx context.Context, f *os.File, size int64) error {
	block := make([]byte, 1<<20)
	for round := byte(0); ; round++ {
		for i := range block {
			block[i] = round
		}
		for at := int64(0); at < size; at += int64(len(block)) {
			if ctx.Err() != nil {
				return nil
			}
			if _, err := f.WriteAt(block, at); err != nil {
				return err
			}
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
}
