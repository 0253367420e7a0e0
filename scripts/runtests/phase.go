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

	began          time.Time
	took, computed time.Duration // time by the clock, and of processors; 0 before its end
}

var variable = regexp.MustCompile(`^[A-Z_]+=`)

// parse reads streams of phases: +NAME, variables, arguments of `go test`, and ++
// between two streams.
func parse(args []string) ([][]*phase, error) {
	streams := [][]*phase{nil}
	for _, arg := range args {
		last := &streams[len(streams)-1]
		if name, ok := strings.CutPrefix(arg, "+"); name == "+" {
			streams = append(streams, nil)
			continue
		} else if ok {
			*last = append(*last, &phase{name: name})
			continue
		}
		if len(*last) == 0 {
			return nil, fmt.Errorf("a phase begins with +NAME, got %q", arg)
		}
		p := (*last)[len(*last)-1]
		if len(p.args) == 0 && variable.MatchString(arg) {
			p.env = append(p.env, arg)
		} else {
			p.args = append(p.args, arg)
		}
	}
	if slices.ContainsFunc(streams, func(phases []*phase) bool { return len(phases) == 0 }) {
		return nil, errors.New("usage: runtests +NAME [VARIABLE=VALUE…] [arguments of go test] [[++] +NAME …]")
	}
	for _, p := range slices.Concat(streams...) {
		if !slices.ContainsFunc(p.args, func(arg string) bool { return strings.HasPrefix(strings.TrimLeft(arg, "-"), "timeout") }) {
			return nil, fmt.Errorf("phase %s has no -timeout: a hang would take go test's ten minutes", p.name)
		}
	}
	return streams, nil
}

// patterns are the alternatives of -run, to report which of them match nothing.
func (p *phase) patterns() []string {
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

// says reports whether the output of passing tests is shown as well.
func (p *phase) says() bool { return slices.Contains(p.args, "-v") }

// run runs the phase to its end, or until ctx ends and with it all processes, and ends
// what its tests left running.
func (p *phase) run(ctx context.Context, rec *record, procs *processes, r *room) error {
	cmd := exec.Command("go", append([]string{"test", "-json"}, p.args...)...)
	cmd.Env = slices.Concat(os.Environ(), r.env(), p.env)
	cmd.Stderr = rec.out
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	rec.begin(p)
	kept, err := procs.start(cmd)
	if err != nil {
		return err
	}
	err = readLines(pipe, func(line []byte) { rec.line(p, line) })
	ended := cmd.Wait()
	left, failed := kept.end()
	if ctx.Err() == nil {
		rec.end(p, ended, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime(), left)
	}
	return errors.Join(err, failed)
}

func readLines(from io.Reader, take func([]byte)) error {
	b := bufio.NewReader(from)
	for {
		line, err := b.ReadBytes('\n')
		if len(line) > 0 {
			take(line)
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

// line takes one line of go test's output.
func (rec *record) line(p *phase, line []byte) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	var e event
	if err := json.Unmarshal(line, &e); err != nil {
		fmt.Fprintf(rec.out, "%s", line) // not an event
		return
	}
	rec.add(p, e)
}
