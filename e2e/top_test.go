package e2e

import (
	"strings"
	"syscall"
	"testing"
)

func TestTopRestoresTheTerminalWhenItIsEnded(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	s.mint(object{"max_activations": 5, "name": "nightly"})
	cmd := s.command("till", "top")
	terminal := startInTerminal(t, cmd)
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
