package cli

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/till-proxy/till/admin/admintest"
)

// screen is a pseudo-terminal whose output is kept.
type screen struct {
	t        *testing.T
	tty, our *os.File
	seen     chan []byte
	all      strings.Builder
}

func newScreen(t *testing.T, columns, rows uint16) *screen {
	t.Helper()
	our, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	s := &screen{t: t, tty: tty, our: our, seen: make(chan []byte, 1024)}
	s.resize(columns, rows)
	go func() {
		defer close(s.seen)
		for {
			b := make([]byte, 4096)
			n, err := our.Read(b)
			if n > 0 {
				s.seen <- b[:n]
			}
			if err != nil {
				return // closed by the cleanup
			}
		}
	}()
	t.Cleanup(func() {
		if err := tty.Close(); err != nil {
			t.Error(err)
		}
		if err := our.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *screen) resize(columns, rows uint16) {
	s.t.Helper()
	if err := pty.Setsize(s.our, &pty.Winsize{Cols: columns, Rows: rows}); err != nil {
		s.t.Fatal(err)
	}
}

// until waits for a text on the terminal, and returns all output so far.
func (s *screen) until(text string) string {
	s.t.Helper()
	late := time.After(5 * time.Minute)
	for !strings.Contains(s.all.String(), text) {
		select {
		case b, ok := <-s.seen:
			if !ok {
				s.t.Fatalf("the terminal is closed; %q is not in %q", text, s.all.String())
			}
			s.all.Write(b)
		case <-late:
			s.t.Fatalf("%q never comes in %q", text, s.all.String())
		}
	}
	return s.all.String()
}

func TestProgressIsShownOnATerminalAndGoesAway(t *testing.T) {
	t.Setenv("TERM", "xterm")
	s := newScreen(t, 80, 24)
	p := showProgress(s.tty, "Revoking", inKeys)
	p.of(100_000)
	p.set(40_000)
	s.until("\r\x1b[KRevoking  [########............]   40%  40,000 of 100,000 keys")
	p.add(60_000)
	s.until("[####################]  100%  100,000 of 100,000 keys")
	p.end()
	p.end() // a second time does nothing
	if _, err := io.WriteString(s.tty, "Revoked 100000 keys.\n"); err != nil {
		t.Fatal(err)
	}
	s.until("keys\r\x1b[KRevoked 100000 keys.")
}

func TestProgressFollowsTheWidthOfTheTerminal(t *testing.T) {
	t.Setenv("TERM", "xterm")
	s := newScreen(t, 38, 24)
	p := showProgress(s.tty, "Revoking", inKeys)
	defer p.end()
	p.of(100_000)
	p.set(40_000)
	s.until("Revoking  [########............]\r")
	s.resize(80, 24)
	s.until("40,000 of 100,000 keys")
}

func TestProgressIsQuietInAPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var b bytes.Buffer
	t.Setenv("TERM", "dumb")
	s := newScreen(t, 80, 24)
	for _, to := range []io.Writer{w, &b, s.tty} {
		p := showProgress(to, "Working", inBytes)
		p.began = p.began.Add(-time.Hour)
		if _, err := p.Write(make([]byte, 10)); err != nil || p.w != nil || p.stop != nil {
			t.Errorf("it shows itself on %T: %v", to, err)
		}
		p.end()
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if said, err := io.ReadAll(r); err != nil || len(said) > 0 || b.Len() > 0 {
		t.Errorf("%v: it says %q and %q", err, said, b.String())
	}
}

func TestTheLineOfProgress(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		unit        unit
		done, total int64
		passed      time.Duration
		columns     int
		want        string
	}{
		{inKeys, 0, 0, 4 * time.Second, 79, "Working  4s"},
		{inBytes, 1_234_567, 0, 75 * time.Second, 79, "Working  1.2 MB  1m15s"},
		{inBytes, 500_000, 1_000_000, time.Second, 79, "Working  [##########..........]   50%  500 kB of 1.0 MB  1s left"},
		{inKeys, 999, 1000, time.Hour, 79, "Working  [###################.]   99%  999 of 1,000 keys  4s left"},
		{inKeys, 1000, 1000, time.Hour, 79, "Working  [####################]  100%  1,000 of 1,000 keys"},
		{inKeys, 1200, 1000, time.Hour, 79, "Working  [####################]  100%  1,000 of 1,000 keys"},
		{inKeys, 1, 8000, 2 * time.Second, 79, "Working  [....................]    0%  1 of 8,000 keys  4h26m left"},
		{inKeys, 1, 2, time.Second, 40, "Working  [##########..........]   50%"},
		{inKeys, 1, 2, time.Second, 20, "Working"},
		{inKeys, 1, 2, time.Second, 4, "Work"},
		{inKeys, 1, 2, time.Second, -1, ""},
	} {
		p := &progress{what: "Working", unit: test.unit}
		p.of(test.total)
		p.set(test.done)
		admintest.Equal(t, "the line", p.line(test.passed, test.columns), test.want)
	}
}
