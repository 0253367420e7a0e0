package cli

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin"
	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/limiter"
)

// world is a management API with a server for commands to call.
type world struct{ *admintest.World }

func newWorld(t *testing.T) *world {
	t.Helper()
	return serving(admintest.New(t, nil))
}

func serving(of *admintest.World) *world {
	w := &world{of}
	w.NoConsole, w.SealKeyNamed = admin.ErrNoConsole, admin.ErrSealKeyNamed
	w.Handler = admin.NewHandler(admintest.Backend{Of: w.World}, limiter.Operator, slog.New(slog.DiscardHandler))
	return w
}

// ran is what a command printed, and its exit code.
type ran struct {
	out, err string
	code     int
}

// till runs the command line in this process.
func till(t *testing.T, args ...string) ran {
	t.Helper()
	return tillReading(t, "", args...)
}

// tillReading is till with something on its standard input.
func tillReading(t *testing.T, input string, args ...string) ran {
	t.Helper()
	root := &cobra.Command{Use: "caddy", SilenceUsage: true}
	cmd := &cobra.Command{Use: "till"}
	root.AddCommand(cmd)
	build(cmd)
	var out, errOut bytes.Buffer
	root.SetIn(strings.NewReader(input))
	root.SetOut(&out)
	root.SetErr(&errOut)
	root.SetArgs(append([]string{"till"}, args...))
	code := 0
	if err := root.ExecuteContext(t.Context()); err != nil {
		code = 1
		// Caddy's own error type, which is not exported.
		if n, parsed := fmt.Sscanf(err.Error(), "exiting with status %d", &code); n != 1 || parsed != nil {
			code = 1
		}
	}
	return ran{out.String(), errOut.String(), code}
}

// fits fails if a line is wider than a terminal, except for a sealed key, which
// must be on one line to be copied.
func fits(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		line = admintest.SealedPattern.ReplaceAllString(line, "")
		if n := prose.Wide(strings.TrimSuffix(line, "\n")); n > tableWidth {
			t.Errorf("a line is %d wide: %s", n, line)
		}
	}
}
