package e2e

import (
	"bufio"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/term"
)

// startInTerminal starts a command in a terminal of its own, and returns the side of the
// person who uses it.
func startInTerminal(t *testing.T, cmd *exec.Cmd) *os.File {
	t.Helper()
	cmd.SysProcAttr = nil // the terminal is the end of it
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: 80, Rows: 24})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	if err := terminal.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return terminal
}

func TestTheTerminalInterruptsTheCommandOfARunOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	cmd := s.underRun("", "sh", "-c", `trap 'n=$((n+1)); echo interrupted' INT; trap 'echo interrupts: $n; exit 5' TERM; echo ready; while :; do sleep 0.02; done`)
	terminal := startInTerminal(t, cmd)
	lines := bufio.NewScanner(terminal)
	wait := func(part string) string {
		for lines.Scan() {
			if strings.Contains(lines.Text(), part) {
				return lines.Text()
			}
		}
		t.Fatalf("it never says %q: %v", part, lines.Err())
		return ""
	}
	wait("ready")
	if _, err := terminal.Write([]byte{3}); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	wait("interrupted")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if said := wait("interrupts:"); !strings.HasSuffix(said, "interrupts: 1") {
		t.Errorf("the command says %q, want one interrupt", said)
	}
	wait("revoked")
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 5 {
		t.Errorf("exit status %d, want 5", code)
	}
}

// TestARunLeavesTheTerminalAsItWas: a shell restores the terminal after a command
// that a signal ended, but it sees only run, which exits by itself.
func TestARunLeavesTheTerminalAsItWas(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	for script, as := range map[string]bool{
		"stty raw -echo; kill -9 $$": true,
		"stty -echo; exit 7":         false, // which is what the command wanted
	} {
		terminal, tty, err := pty.Open()
		if err != nil {
			t.Fatal(err)
		}
		before, err := term.GetState(int(terminal.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		cmd := s.underRun("", "sh", "-c", script)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		after, err := term.GetState(int(terminal.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		if got := reflect.DeepEqual(before, after); got != as {
			t.Errorf("%s: the terminal is as it was: %v, want %v", script, got, as)
		}
		for _, end := range []*os.File{tty, terminal} {
			if err := end.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	_, list := s.api("GET", "/keys", nil)
	for _, k := range list["keys"].([]any) {
		if k.(object)["status"] != "revoked" {
			t.Errorf("a key is left: %v", k)
		}
	}
}
