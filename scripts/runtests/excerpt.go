//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

const (
	// maxOutput is how much of one test's output is kept: the end.
	maxOutput = 8 << 20
	// maxLines is how much of it is shown.
	maxLines = 120
	// maxStacks bounds the stacks that are shown of a hang, and maxFrames the frames
	// of each.
	maxStacks, maxFrames = 12, 8
)

type tail struct {
	kept    []byte
	written int
}

func (t *tail) add(text string) {
	t.written += len(text)
	t.kept = append(t.kept, text...)
	if len(t.kept) > 2*maxOutput {
		t.kept = append(t.kept[:0], t.kept[len(t.kept)-maxOutput:]...)
	}
}

func (t *tail) String() string {
	if cut := t.written - len(t.kept); cut > 0 {
		return fmt.Sprintf("(%d bytes before this were not kept)\n%s", cut, t.kept)
	}
	return string(t.kept)
}

// hang is how Go reports that -timeout has passed.
const hang = "panic: test timed out after "

// excerpt returns the part of a test's output that a person needs. If there is more, it
// names a file with all of it.
func excerpt(text, name string) (string, error) {
	before, dump, hangs := strings.Cut(text, hang)
	lines := strings.SplitAfter(strings.TrimSuffix(before, "\n"), "\n")
	if !hangs && len(lines) <= maxLines {
		return strings.TrimSuffix(text, "\n"), nil
	}
	file, err := keep(text, name)
	if err != nil {
		err = fmt.Errorf("keeping all of it: %w", err)
	}
	var b strings.Builder
	if cut := len(lines) - maxLines; cut > 0 {
		b.WriteString(strings.Join(lines[:maxLines/2], ""))
		fmt.Fprintf(&b, "… %d lines …\n", cut)
		lines = lines[len(lines)-maxLines/2:]
	}
	b.WriteString(strings.Join(lines, ""))
	if hangs {
		b.WriteString("\n" + stacks(hang+dump))
	}
	if file != "" {
		fmt.Fprintf(&b, "\nall of it is in %s", file)
	}
	return b.String(), err
}

var unfit = regexp.MustCompile(`[^\w.]+`)

// keep writes a file that remains after the run.
func keep(text, name string) (string, error) {
	name = strings.Trim(unfit.ReplaceAllString(name, "-"), "-")
	file := filepath.Join(dumps, name[:min(len(name), 150)]+".txt")
	if err := errors.Join(os.MkdirAll(dumps, 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
		return "", err
	}
	return file, nil
}

// stacks summarizes a goroutine dump: which tests were running, and where the
// goroutines are in which one of our tests is a caller.
func stacks(dump string) string {
	parts := strings.Split(dump, "\n\n")
	var b strings.Builder
	b.WriteString(parts[0])
	shown, more := 0, 0
	for _, part := range parts[1:] {
		if !strings.HasPrefix(part, "goroutine ") || !strings.Contains(part, "_test.go:") {
			continue
		}
		if shown == maxStacks {
			more++
			continue
		}
		lines := strings.Split(part, "\n")
		b.WriteString("\n\n" + lines[0])
		frames := 0
		for i := 1; i+1 < len(lines) && frames < maxFrames; i += 2 { // a function, and where it is
			if strings.HasPrefix(strings.TrimPrefix(lines[i], "created by "), "testing.") {
				continue
			}
			fmt.Fprintf(&b, "\n%s\n%s", cut(lines[i], width), lines[i+1])
			frames++
		}
		shown++
	}
	if more > 0 {
		fmt.Fprintf(&b, "\n\nand %d goroutines more", more)
	}
	return b.String()
}
