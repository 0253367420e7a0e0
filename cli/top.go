package cli

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/token"
)

const (
	// topKeysAsked is how many keys `top` asks for: those that were used last.
	topKeysAsked = 100
	// topUsageEvery and topUsageKeys bound what counting refusals costs the server.
	topUsageEvery = 5 * time.Second
	topUsageKeys  = 20
	// topResizeEvery is how often it checks whether the size of the terminal has
	// changed.
	topResizeEvery = 200 * time.Millisecond

	enterScreen = "\x1b[?1049h\x1b[?25l" // the alternate screen, without a cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
)

func topCommand(f *globalFlags) *cobra.Command {
	var interval time.Duration
	var count int
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Shows live which keys are used, and what is left of them",
		Long: `Shows the most recently used keys live: requests per second and in flight, what
is left of the tightest limit, and refusals in this hour and the one before.
q quits, s sorts, a shows ended keys, too.

With --json it prints a line of JSON at each interval. If standard output is not
a terminal it prints only once.`,
		Example: `  caddy till top
  caddy till top --json --count 1 | jq .stats.holds`,
		Args: argCount(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if interval < 100*time.Millisecond || count < 0 {
				return usage("--interval must be at least 100ms and --count at least 0, got %s and %d", interval, count)
			}
			c, err := f.client()
			if err != nil {
				return err
			}
			ctx, stop := interrupted(cmd.Context())
			defer stop()
			s := &sampler{client: c}
			screen, ok := terminal(cmd.OutOrStdout())
			switch {
			case f.json:
				return s.print(ctx, cmd.OutOrStdout(), interval, count)
			case !ok:
				now, err := s.look(ctx, false)
				if err != nil {
					return err
				}
				v := &topView{columns: tableWidth, rows: topKeysAsked + topHead + 1}
				lines := v.lines(now)
				_, err = io.WriteString(cmd.OutOrStdout(), strings.Join(lines[:len(lines)-1], "\n")+"\n")
				return err
			}
			input, _ := cmd.InOrStdin().(*os.File)
			return s.show(ctx, screen, input, interval)
		},
	}
	cmd.Flags().DurationVar(&interval, "interval", 2*time.Second, "time between two looks")
	cmd.Flags().IntVar(&count, "count", 0, "with --json: how many lines; 0: until interrupted")
	return cmd
}

// sampler takes snapshots of the server, and remembers enough to compute rates.
type sampler struct {
	client  *client
	last    *snapshot
	used    map[string]int64
	at      time.Time
	refused map[string]int64
	counted time.Time
}

// look takes a snapshot. If the server does not answer, it returns the last
// snapshot again, with the failure.
func (s *sampler) look(ctx context.Context, ended bool) (*snapshot, error) {
	now, err := s.ask(ctx, ended)
	if err != nil && s.last != nil && ctx.Err() == nil {
		stale := *s.last
		stale.Time, stale.Failure = time.Now(), "no answer, trying again: "+token.Scrub(err.Error())
		return &stale, nil
	}
	if err != nil {
		return nil, err
	}
	s.last = now
	return now, nil
}

func (s *sampler) ask(ctx context.Context, ended bool) (*snapshot, error) {
	now := &snapshot{Keys: []*topKey{}}
	if err := s.client.call(ctx, "GET", "/stats", nil, &now.Stats); err != nil {
		return nil, err
	}
	query := url.Values{"sort": {"-last_used"}}
	if !ended {
		query.Set("status", "active")
	}
	keys, _, err := s.client.all(ctx, query, topKeysAsked)
	if err != nil {
		return nil, err
	}
	now.Time = time.Now()
	passed := now.Time.Sub(s.at).Seconds()
	used := make(map[string]int64, len(keys))
	for _, k := range keys {
		row := &topKey{KeyObject: k}
		used[k.ID] = k.UsedActivations
		if before, ok := s.used[k.ID]; ok && k.UsedActivations > before {
			row.PerSecond = float64(k.UsedActivations-before) / passed
		}
		row.tightest(now.Time)
		now.Keys = append(now.Keys, row)
	}
	s.used, s.at = used, now.Time
	s.countRefusals(ctx, now)
	return now, nil
}

// countRefusals asks, from time to time, for the history of the keys that were used
// last. If the caller may not read it, refusals are not shown.
func (s *sampler) countRefusals(ctx context.Context, now *snapshot) {
	if now.Time.Sub(s.counted) >= topUsageEvery {
		s.counted, s.refused = now.Time, make(map[string]int64)
		for _, k := range now.Keys[:min(len(now.Keys), topUsageKeys)] {
			var history wire.UsageAnswer
			if err := s.client.call(ctx, "GET", "/keys/"+url.PathEscape(k.ID)+"/usage", nil, &history); err != nil {
				continue
			}
			for _, hour := range history.Hours {
				if now.Time.Sub(hour.Start) < 2*time.Hour {
					for _, n := range hour.Refusals {
						s.refused[k.ID] += n
					}
				}
			}
		}
	}
	for _, k := range now.Keys {
		k.Refused = s.refused[k.ID]
	}
}

// print writes a line of JSON at each interval.
func (s *sampler) print(ctx context.Context, w io.Writer, interval time.Duration, count int) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for n := 1; ; n++ {
		now, err := s.look(ctx, false)
		if ctx.Err() != nil {
			return nil // an interrupt is how it is meant to end
		}
		if err != nil {
			return err
		}
		if err := encode(w, now, ""); err != nil {
			return fmt.Errorf("printing: %w", err)
		}
		if n == count {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// show draws on a terminal until the user quits. It always restores the terminal.
func (s *sampler) show(ctx context.Context, screen, input *os.File, interval time.Duration) (err error) {
	now, err := s.look(ctx, false)
	if err != nil {
		return err // before the screen changes, so that the error stays visible
	}
	keys := make(chan string)
	done := make(chan struct{})
	defer close(done)
	if input != nil && term.IsTerminal(int(input.Fd())) {
		before, err := term.MakeRaw(int(input.Fd()))
		if err != nil {
			return fmt.Errorf("preparing the terminal: %w", err)
		}
		defer func() { _ = term.Restore(int(input.Fd()), before) }() // an error could only be printed on this very terminal
		go readKeys(input, keys, done)
	}
	if _, err := io.WriteString(screen, enterScreen); err != nil {
		return err
	}
	defer func() { _, _ = io.WriteString(screen, leaveScreen) }()

	look, size := time.NewTicker(interval), time.NewTicker(topResizeEvery)
	defer look.Stop()
	defer size.Stop()
	v := &topView{colour: os.Getenv("NO_COLOR") == ""}
	drawn := -1
	for {
		columns, rows, err := term.GetSize(int(screen.Fd()))
		if err != nil {
			return fmt.Errorf("the terminal is gone: %w", err)
		}
		if drawn != columns<<16|rows {
			v.columns, v.rows = columns, rows
			if err := draw(screen, v.lines(now)); err != nil {
				return err
			}
			drawn = columns<<16 | rows
		}
		select {
		case <-ctx.Done():
			return nil
		case <-size.C:
			continue
		case key := <-keys:
			ended := v.ended
			if !v.press(key) {
				return nil
			}
			drawn = -1
			if ended == v.ended {
				continue
			}
		case <-look.C:
		}
		if now, err = s.look(ctx, v.ended); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		drawn = -1
	}
}

// draw writes lines over the previous ones.
func draw(w io.Writer, lines []string) error {
	_, err := io.WriteString(w, "\x1b[H"+strings.Join(lines, "\x1b[K\r\n")+"\x1b[K\x1b[J")
	return err
}

// press handles a pressed key. It returns false to quit.
func (v *topView) press(key string) bool {
	switch key {
	case "q", "Q", "\x03", "\x04":
		return false
	case "s":
		v.order = (v.order + 1) % len(topOrders)
	case "a":
		v.ended = !v.ended
	case "j", "\x1b[B", "\x1bOB":
		v.skip++
	case "k", "\x1b[A", "\x1bOA":
		v.skip = max(v.skip-1, 0)
	}
	return true
}

// readKeys passes on what is typed. A read from a terminal cannot be cancelled: the
// read that is waiting when top quits ends with the process.
func readKeys(input *os.File, keys chan<- string, done <-chan struct{}) {
	b := make([]byte, 16)
	for {
		n, err := input.Read(b)
		if err != nil {
			return
		}
		for rest := string(b[:n]); rest != ""; {
			key := rest[:1]
			if key == "\x1b" { // an arrow key
				key = rest[:min(len(rest), 3)]
			}
			rest = rest[len(key):]
			select {
			case keys <- key:
			case <-done:
				return
			}
		}
	}
}
