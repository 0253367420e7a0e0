//go:build unix

// Runtests runs phases of `go test`, reports progress once a minute, shows each
// failure at once, and ends with tables: what ran, what was skipped and why, what
// failed, and what took longest. It removes the processes, mounts and directories
// that the tests leave behind, however it ends.
//
//	go run ./scripts/runtests +unit -race -timeout 5m ./... ++ +big TILL_CI=1 -timeout 9m -run 'TestA|TestB' ./e2e
//
// Each phase is +NAME, then variables for its environment, then the arguments of `go
// test`. Phases follow each other, but those after a ++ run beside those before it. It
// knows nothing about the code under test.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

// dumps is the directory for output that is too long to show.
const dumps = "bin/tests"

const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	parent := os.Getppid() // read at once: the parent may be gone soon
	if len(os.Args) > 2 && os.Args[1] == keeping {
		os.Exit(runKept(os.Args[2:]))
	}
	streams, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "runtests:", err)
		os.Exit(exitUsage)
	}
	// A reader of the output that goes away counts as an interruption.
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	ctx, orphaned := context.WithCancel(ctx)
	go watchParent(parent, orphaned)
	code, err := run(ctx, os.Stdout, streams)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "runtests:", err)
	}
	os.Exit(code)
}

// watchParent ends the run when its parent is gone: `go run` passes no signal on.
func watchParent(parent int, orphaned func()) {
	for range time.Tick(time.Second) {
		if os.Getppid() != parent {
			orphaned()
			return
		}
	}
}

func run(ctx context.Context, out io.Writer, streams [][]*phase) (code int, err error) {
	began := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := newProcesses()
	if err := p.adopt(); err != nil {
		return exitFailed, err
	}
	r, err := newRoom()
	if err != nil {
		return exitFailed, err
	}
	defer func() { // if anything goes wrong on the way
		if failed := errors.Join(p.end(), r.remove()); failed != nil {
			code, err = exitFailed, errors.Join(err, failed)
		}
	}()
	rec := newRecord(out, began, slices.Concat(streams...))
	// Without their processes the streams end. If any are left, the last call of end
	// reports that, too.
	context.AfterFunc(ctx, func() { _ = p.end() })
	over := make(chan error)
	for _, phases := range streams {
		go func() { over <- runStream(ctx, phases, rec, p, r) }()
	}
	minute := time.NewTicker(time.Minute)
	defer minute.Stop()
	var broken error
	for left := len(streams); left > 0; {
		select {
		case <-minute.C:
			rec.progress(time.Now())
		case err := <-over:
			if left--; err != nil {
				broken = errors.Join(broken, err)
				cancel()
			}
		}
	}
	if broken != nil {
		return exitFailed, broken
	}
	rec.report(ctx.Err() != nil, time.Since(began))
	switch {
	case ctx.Err() != nil:
		return exitInterrupted, nil
	case rec.failed > 0:
		return exitFailed, nil
	}
	return 0, nil
}

func runStream(ctx context.Context, phases []*phase, rec *record, procs *processes, r *room) error {
	for _, p := range phases {
		if err := p.run(ctx, rec, procs, r); err != nil && ctx.Err() == nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil
}
