package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

func TestTopRestoresTheTerminalWhenItIsEnded(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	s.mint(object{"max_activations": 5, "name": "nightly"})
	cmd := s.command("till", "top")
	cmd.SysProcAttr = nil // the terminal is the end of it
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: 80, Rows: 24})
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	if err := terminal.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	until := func(text string) {
		for b := make([]byte, 4096); !strings.Contains(all.String(), text); {
			n, err := terminal.Read(b)
			all.Write(b[:n])
			if err != nil {
				t.Fatalf("%q never comes: %v in %q", text, err, all.String())
			}
		}
	}
	until("nightly")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	until("\x1b[?25h\x1b[?1049l") // the cursor, and the screen as it was
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ends with %v", err)
	}
}
