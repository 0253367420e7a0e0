//go:build unix

package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asMain makes this test binary the program.
const asMain = "TILL_TEST_AS_BURN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	os.Exit(m.Run())
}

func burn(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	dir := t.TempDir()
	cmd.Env = append(os.Environ(), asMain+"=1", "TMPDIR="+dir)
	t.Cleanup(func() {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("it leaves %v %v", left, err)
		}
	})
	return cmd
}

func TestItHasTheExitCodeOfItsCommand(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"1", "--", "sh", "-c", "echo it ran"}, 0, "it ran\n"},
		{[]string{"1", "--", "sh", "-c", "exit 7"}, 7, ""},
		{[]string{"1", "--", "sh", "-c", "kill -9 $$"}, 1, ""},
		{[]string{"-for", "1ns", "1", "--", "sh", "-c", "echo without load"}, 0, "without load\n"},
		{[]string{"-for", "1ns", "2"}, 0, ""},
		{[]string{"1", "--", "/no/such/program"}, 1, "no such file"},
		{[]string{"1", "make"}, 2, usage},
		{[]string{"1", "--"}, 2, usage},
		{[]string{"0"}, 2, usage},
		{nil, 2, usage},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			t.Parallel()
			cmd := burn(t, test.args...)
			out, err := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != test.code || !strings.Contains(string(out), test.says) {
				t.Errorf("%v: exit code %d, want %d: %s", err, code, test.code, out)
			}
		})
	}
}

func TestItsCommandIsEndedWithIt(t *testing.T) {
	t.Parallel()
	cmd := burn(t, "1", "--", "sh", "-c", "trap 'echo ended; exit 3' TERM; echo ready; while :; do sleep 0.02; done")
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(said)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("%q %v", lines.Text(), lines.Err())
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if !lines.Scan() || lines.Text() != "ended" {
		t.Errorf("%q %v", lines.Text(), lines.Err())
	}
	_ = cmd.Wait() // the exit code is checked below
	if code := cmd.ProcessState.ExitCode(); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
}

// TestItEndsWithItsParent: the end of its output shows that it has ended.
func TestItEndsWithItsParent(t *testing.T) {
	t.Parallel()
	cmd := burn(t, "-for", "2m", "1")
	cmd.Args = append([]string{"sh", "-c", `"$@" & wait`, "sh", cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(said)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "burn: 1 threads") {
		t.Fatalf("%q %v", lines.Text(), lines.Err())
	}
	began := time.Now()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() { // until the last process that may write has ended
		t.Errorf("it says %s", lines.Text())
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it went on for %s", took)
	}
	_ = cmd.Wait() // it was killed
}

func TestTheFileStaysAsLargeAsItIs(t *testing.T) {
	t.Parallel()
	f, err := scratch(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, cancel := context.WithCancel(t.Context())
	written := make(chan error, 1)
	go func() { written <- write(ctx, f, 2<<20) }()
	for b := make([]byte, 1); b[0] < 3; { // rounds
		if _, err := f.ReadAt(b, 1<<20); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		select {
		case err := <-written:
			t.Fatal("it ends before it is told to: ", err)
		default:
		}
	}
	cancel()
	if err := <-written; err != nil {
		t.Error(err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != 2<<20 {
		t.Errorf("%v %v", info, err)
	}
}
