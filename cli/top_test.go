package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/term"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
)

func topSnapshot() *snapshot {
	keys := []*wire.KeyObject{
		{ID: "key_01M86CZR4HQ80C5C66DDK59VMG", Name: "nightly", Upstream: "openai", Status: record.Active, CreatedAt: *at(-time.Hour), LastUsedAt: at(-2 * time.Second),
			MaxActivations: count(500), RemainingActivations: count(287), UsedActivations: 211, HeldActivations: 2, ExpiresAt: at(5 * time.Hour)},
		{ID: "key_01M86CZR4HQ80C5C66DDK59VMH", Name: "a name that somebody found clear\x1b[2J", Upstream: "an-upstream-of-63-letters", Status: record.Active, CreatedAt: *at(-time.Hour), LastUsedAt: at(-3 * time.Hour),
			MaxTokens: count(1_000_000), RemainingTokens: count(0), MaxSpendUSD: "5.00", RemainingSpendUSD: "4.255"},
		{ID: "key_01M86CZR4HQ80C5C66DDK59VMJ", Upstream: "gh", Status: record.Revoked, CreatedAt: *at(-time.Hour)},
	}
	s := &snapshot{Time: now, Stats: wire.StatsAnswer{Keys: map[record.Status]int64{record.Active: 2, record.Revoked: 1}, Holds: 2, UsedActivations: 12345, UsedTokens: 67890, UsedSpendUSD: "0.75"}}
	for i, k := range keys {
		row := &topKey{KeyObject: k, PerSecond: float64(i) * 1.25, Refused: int64(10 * (2 - i))}
		row.tightest(now)
		s.Keys = append(s.Keys, row)
	}
	return s
}

func TestTopFitsTheTerminal(t *testing.T) {
	t.Parallel()
	s := topSnapshot()
	v := &topView{columns: 80, rows: 24}
	text := strings.Join(v.lines(s), "\n")
	fits(t, text)
	_, text, _ = strings.Cut(text, "\n") // the first line has the local time
	admintest.Equal(t, "80 columns", text, `used ever: 12345 requests, 67890 tokens, $0.75
store in order
NAME               FOR        REQ/S  RUN LEFT                      REFUSED  LAST
nightly            openai         -    2 [####....]  57% 287 req        20    2s
a name that someb… an-upstr…    1.2    0 [........]   0% 0 tok          10    3h
revoked key_01M86… gh           2.5    0 -                               0     -
q quit  s sort  a ended keys too  ↑↓ scroll  (recent use)`)
	for columns := range 140 {
		for rows := range 12 {
			v := &topView{columns: columns, rows: rows}
			lines := v.lines(s)
			if len(lines) > max(rows, topHead+1) {
				t.Fatalf("%d×%d: %d lines", columns, rows, len(lines))
			}
			for _, line := range lines {
				if n := len([]rune(line)); n > columns || strings.ContainsRune(line, 0x1b) {
					t.Fatalf("%d×%d: %q is %d wide", columns, rows, line, n)
				}
			}
		}
	}
}

func TestTopSortsAndScrolls(t *testing.T) {
	t.Parallel()
	s := topSnapshot()
	v := &topView{columns: 80, rows: 6} // room for one key
	for _, want := range []string{"nightly", "revoked key_", "a name", "nightly", "revoked key_"} {
		if row := v.lines(s)[topHead]; !strings.HasPrefix(row, want) {
			t.Errorf("by %s the first is %q, want %q", topOrders[v.order].name, row, want)
		}
		v.press("s")
	}
	for range 5 {
		v.press("\x1b[B")
		v.lines(s)
	}
	if lines := v.lines(s); !strings.HasPrefix(lines[topHead], "revoked") || !strings.Contains(lines[topHead+1], "3 to 3 of 3") {
		t.Errorf("scrolled to the end: %q", lines)
	}
	v.press("k")
	if lines := v.lines(s); !strings.Contains(lines[topHead+1], "2 to 2 of 3") {
		t.Errorf("scrolled back: %q", lines)
	}
}

func TestTopSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*snapshot){
		"store in order":    func(*snapshot) {},
		"the store failed":  func(s *snapshot) { s.Stats.StoreFailure = "the disk is full" },
		"LOCKED DOWN":       func(s *snapshot) { s.Stats.Lockdown.LockedDown = true },
		"the clock was set": func(s *snapshot) { s.Stats.ClockOffSeconds = 3600 },
		"no answer":         func(s *snapshot) { s.Failure = "no answer, trying again" },
	} {
		s := topSnapshot()
		change(s)
		if line := (&topView{columns: 80, rows: 24}).lines(s)[2]; !strings.HasPrefix(line, want) {
			t.Errorf("%q, want %q", line, want)
		}
	}
}

// topOn runs top on a terminal, and returns a function that waits until it ends.
func (w *world) topOn(s *screen, ctx context.Context, transport http.RoundTripper) func() error {
	w.T.Helper()
	c, err := newClient(w.Serve())
	if err != nil {
		w.T.Fatal(err)
	}
	if transport != nil {
		c.http.Transport = breaking{c.http.Transport, transport, new(int)}
	}
	ended := make(chan error, 1)
	go func() {
		defer func() {
			if v := recover(); v != nil {
				ended <- fmt.Errorf("panic: %v", v)
			}
		}()
		ended <- (&sampler{client: c}).show(ctx, s.tty, s.tty, 100*time.Millisecond)
	}()
	return func() error {
		select {
		case err := <-ended:
			return err
		case <-time.After(5 * time.Minute):
			return errors.New("it never ends")
		}
	}
}

// breaking answers for a while, and then does something else.
type breaking struct {
	first, then http.RoundTripper
	calls       *int
}

func (b breaking) RoundTrip(r *http.Request) (*http.Response, error) {
	if *b.calls++; *b.calls > 6 {
		return b.then.RoundTrip(r)
	}
	return b.first.RoundTrip(r)
}

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestTopIsLiveAndRestoresTheTerminal(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		keys  string
		then  http.RoundTripper
		ended string
	}{
		"q":       {"q", nil, ""},
		"Ctrl-C":  {"\x03", nil, ""},
		"SIGTERM": {"", nil, ""},
		"a panic": {"", transportFunc(func(*http.Request) (*http.Response, error) { panic("on purpose") }), "panic: on purpose"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			m := w.NewKey(`{"name":"nightly","upstream":"openai","max_activations":50}`)
			s := newScreen(t, 80, 12)
			before, err := term.GetState(int(s.tty.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			wait := w.topOn(s, ctx, test.then)
			s.until(enterScreen)
			s.until("100% 50 req")
			if test.then == nil {
				w.Use(m, 25)
				s.until(" 50% 25 req")
				if _, err := s.our.WriteString("ss"); err != nil {
					t.Fatal(err)
				}
				s.until("(least left)")
				s.resize(40, 12)
				s.until("nightly  openai ")
				if _, err := s.our.WriteString(test.keys); err != nil {
					t.Fatal(err)
				}
				if test.keys == "" {
					cancel() // as the signal does
				}
			}
			if err := wait(); fmt.Sprint(err) != test.ended && (err != nil || test.ended != "") {
				t.Errorf("it ends with %v, want %q", err, test.ended)
			}
			if all := s.until(leaveScreen); !strings.HasSuffix(all, leaveScreen) {
				t.Errorf("it goes on after the end: %q", all[len(all)-100:])
			}
			after, err := term.GetState(int(s.tty.Fd()))
			if err != nil || fmt.Sprint(*after) != fmt.Sprint(*before) {
				t.Errorf("the terminal is not as it was: %v", err)
			}
		})
	}
}

func TestTopShowsThatTheServerIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.NewKey(`{"name":"nightly","upstream":"openai","max_activations":50}`)
	s := newScreen(t, 80, 12)
	ctx, cancel := context.WithCancel(t.Context())
	wait := w.topOn(s, ctx, transportFunc(func(*http.Request) (*http.Response, error) { return nil, errors.New("it is gone") }))
	s.until("no answer, trying again")
	cancel()
	if err := wait(); err != nil {
		t.Error(err)
	}
}

func TestTopInAPipe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.NewKey(`{"name":"nightly","upstream":"openai","max_activations":50}`)
	address := w.Serve()
	w.Use(m, 5)
	r := till(t, "top", "--address", address)
	if r.code != 0 || !strings.Contains(r.out, "nightly") || !strings.Contains(r.out, " 90% 45 req") || strings.Contains(r.out, "\x1b") || strings.Contains(r.out, "quit") {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	fits(t, r.out)
	r = till(t, "top", "--address", address, "--json", "--count", "3", "--interval", "100ms")
	lines := strings.Split(strings.TrimSuffix(r.out, "\n"), "\n")
	if r.code != 0 || len(lines) != 3 {
		t.Fatalf("exit %d, %d lines: %s%s", r.code, len(lines), r.out, r.err)
	}
	for _, line := range lines {
		var s snapshot
		if err := json.Unmarshal([]byte(line), &s); err != nil || len(s.Keys) != 1 || s.Keys[0].UsedActivations != 5 || s.Stats.Keys[record.Active] != 1 {
			t.Errorf("%v: %s", err, line)
		}
	}
	for _, args := range [][]string{{"--interval", "1ms"}, {"--count", "-1"}} {
		if r := till(t, append([]string{"top", "--address", address}, args...)...); r.code != 2 {
			t.Errorf("%v: exit %d: %s", args, r.code, r.err)
		}
	}
}
