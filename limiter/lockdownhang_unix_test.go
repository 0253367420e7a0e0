//go:build unix

package limiter_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/commit"
)

// TestALockdownHoldsAndAnswersWhileItsDiskHangs: a pipe that nobody reads stands
// for a disk that does not answer.
func TestALockdownHoldsAndAnswersWhileItsDiskHangs(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lockdown")
	pipe := path + ".audit"
	d := newLockdown(path)
	d.Recall() // to its end, before there is a pipe that it would read
	d.SetPatience(50 * time.Millisecond)
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	answers := func(what string, call func()) {
		t.Helper()
		done := make(chan struct{})
		go func() { defer close(done); call() }()
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatalf("%s does not answer", what)
		}
	}
	await := func(what string, is func(s *limiter.LockedDown) bool) {
		t.Helper()
		deadline := time.Now().Add(patience)
		for s := d.State(); !is(s); s = d.State() {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %+v", what, s)
			}
			time.Sleep(time.Millisecond) // between two looks
		}
	}
	for _, reason := range []string{"one", "two"} { // the second has to wait for the first
		answers("a lockdown", func() {
			if _, _, err := d.Set(limiter.Operator, reason); err != nil {
				t.Error(err)
			}
		})
		if reason == "one" { // then it has the file's turn, until its entry for the audit log is written
			await("the first was never written", func(s *limiter.LockedDown) bool { return s.Durable })
		}
		answers("its state", func() {
			d.Recall()
			if s := d.State(); s == nil || s.Reason != reason || d.Refusal(nil) == nil {
				t.Errorf("the state is %+v", s)
			}
		})
	}
	answers("lifting it", func() {
		if err := d.Lift(limiter.Operator); !errors.Is(err, commit.ErrBusy) || d.State() == nil {
			t.Errorf("lifting it: %v, %+v", err, d.State())
		}
	})
	answers("closing it", d.Close)

	reader, err := os.OpenFile(pipe, os.O_RDWR, 0) // now it does
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	await("it never became durable", func(s *limiter.LockedDown) bool { return s.Durable && s.Reason == "two" })
	d.SetPatience(patience) // its disk may be slow, too
	if err := d.Lift(limiter.Operator); err != nil {
		t.Fatal(err)
	}
	if d.State() != nil {
		t.Error("it is not lifted")
	}
}
