//go:build unix

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// phase is one call of `go test`.
type phase struct {
	name string
	env  []string
	args []string
}

var variable = regexp.MustCompile(`^[A-Z_]+=`)

// parse reads phases: +NAME, variables, arguments of `go test`.
func parse(args []string) ([]phase, error) {
	var phases []phase
	for _, arg := range args {
		if name, ok := strings.CutPrefix(arg, "+"); ok {
			phases = append(phases, phase{name: name})
			continue
		}
		if len(phases) == 0 {
			return nil, fmt.Errorf("a phase begins with +NAME, got %q", arg)
		}
		p := &phases[len(phases)-1]
		if len(p.args) == 0 && variable.MatchString(arg) {
			p.env = append(p.env, arg)
		} else {
			p.args = append(p.args, arg)
		}
	}
	if len(phases) == 0 {
		return nil, errors.New("usage: runtests +NAME [VARIABLE=VALUE…] [arguments of go test] [+NAME …]")
	}
	for _, p := range phases {
		if !slices.ContainsFunc(p.args, func(arg string) bool { return strings.HasPrefix(strings.TrimLeft(arg, "-"), "timeout") }) {
			return nil, fmt.Errorf("phase %s has no -timeout: a hang would take go test's ten minutes", p.name)
		}
	}
	return phases, nil
}

// patterns are the alternatives of -run, to report which of them match nothing.
func (p phase) patterns() []string {
	for i, arg := range p.args {
		text, ok := strings.CutPrefix(strings.TrimLeft(arg, "-"), "run=")
		if !ok && strings.TrimLeft(arg, "-") == "run" && i+1 < len(p.args) {
			text, ok = p.args[i+1], true
		}
		if ok && !strings.ContainsAny(text, "([/") {
			return strings.Split(text, "|")
		}
	}
	return nil
}

// run runs the phase to its end, or until ctx ends, and ends what its tests left
// running.
func (p phase) run(ctx context.Context, rec *record, procs *processes, r *room) error {
	cmd := exec.Command("go", append([]string{"test", "-json"}, p.args...)...)
	cmd.Env = slices.Concat(os.Environ(), r.env(), p.env)
	cmd.Stderr = rec.out
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	rec.begin(p)
	if err := procs.start(cmd); err != nil {
		return err
	}
	lines := make(chan []byte)
	read := make(chan error, 1)
	go func() {
		defer close(lines)
		read <- readLines(pipe, lines)
	}()
	minute := time.NewTicker(time.Minute)
	defer minute.Stop()
	interrupted := ctx.Done()
	var failed error // the error of ending what was interrupted
	for going := true; going; {
		select {
		case line, ok := <-lines:
			going = ok
			if ok {
				rec.line(line)
			}
		case <-minute.C:
			rec.progress(time.Now())
		case <-interrupted:
			interrupted = nil
			failed = procs.end() // which also ends the output
		}
	}
	err = <-read
	ended := cmd.Wait()
	if ctx.Err() != nil {
		return errors.Join(failed, procs.end())
	}
	rec.end(p, ended)
	return errors.Join(err, rec.leftOver(procs))
}

func readLines(from io.Reader, to chan<- []byte) error {
	b := bufio.NewReader(from)
	for {
		line, err := b.ReadBytes('\n')
		if len(line) > 0 {
			to <- line
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// event is one line of `go test -json`; see `go doc test2json`.
type event struct {
	Time        time.Time
	Action      string
	Package     string
	Test        string
	Elapsed     float64 // seconds
	Output      string
	FailedBuild string // of a package that fails: what does not build
}

// line takes one line of go test's.
func (rec *record) line(line []byte) {
	var e event
	if err := json.Unmarshal(line, &e); err != nil {
		fmt.Fprintf(rec.out, "%s", line) // not an event
		return
	}
	rec.add(e)
}
