package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/upstream/upstreamtest"
)

// shareVariable lets `make share` run: "print" the table, or be "strict" about
// its targets as well.
const shareVariable = "TILL_SHARE"

// What a key must be good for. It may end with what its next request costs when
// the vendor has dropped its cache, and a little: so much cannot be given away.
// At its end one of two conversations waits while the other holds the rest.
const (
	mostLeft = 1.15 // of that cost
	mostBusy = 0.02 // of the requests may be refused until later,
	fewBusy  = 2    // or so many, where that is more
)

// cell is one row of the table.
type cell struct {
	agent    string
	context  int64 // tokens of the first request that has all parts
	cap      int64 // nano-dollars
	requests int64
	busy     int64
	left     int64 // requests that the client left
	bill     int64 // the vendor's
	charged  int64 // till's
	needs    int64 // the refused request, uncached
	why      string
	said     string // by the refusal
	took     time.Duration
}

func (c *cell) rest() int64 { return c.cap - c.bill }

func (c *cell) ratio() float64 { return float64(c.rest()) / float64(c.needs) }

func (c *cell) String() string {
	return fmt.Sprintf("%-11s %7d %4s %6d %5d %5d %8.1f %% %9.1f %% %9s %9s %7.2f  %s", c.agent, c.context, "$"+record.FormatUSD(c.cap), c.requests, c.busy, c.left,
		100*float64(c.bill)/float64(c.cap), 100*float64(c.charged)/float64(c.cap), cents(c.rest()), cents(c.needs), c.ratio(), c.why)
}

func cents(nano int64) string { return fmt.Sprintf("$%.4f", float64(nano)/1e9) }

const cellHead = "agent       context  key requests  429  left    spent     charged      rest     needs  rest ÷ needs"

// check holds what may never be, and with strict the targets.
func (c *cell) check(t *testing.T, strict bool) {
	t.Helper()
	if c.bill > c.cap {
		t.Errorf("%s\nthe vendor's bill is $%s", c, record.FormatUSD(c.bill))
	}
	if c.charged < c.bill || c.left == 0 && c.charged != c.bill {
		t.Errorf("%s\nthe vendor bills $%s, till charged $%s", c, record.FormatUSD(c.bill), record.FormatUSD(c.charged))
	}
	if !strict {
		return
	}
	if c.ratio() > mostLeft {
		t.Errorf("%s\n%.2f of what the refused request costs is left, want at most %.2f; it said %s", c, c.ratio(), mostLeft, c.said)
	}
	if float64(c.busy) > max(fewBusy, mostBusy*float64(c.requests)) {
		t.Errorf("%s\n%d of %d requests were told to wait", c, c.busy, c.requests)
	}
}

// settle waits until nothing of the key is in flight, and closes the row.
func (c *cell) settle(s *server, b *biller, id string, refused []byte) {
	s.t.Helper()
	s.used(id)
	nano, err := record.ParseUSD(s.show(id)["used_spend_usd"].(string))
	if err != nil {
		s.t.Fatal(err)
	}
	c.bill, c.charged = b.billed(), nano
	if c.needs, err = b.uncached(refused); err != nil {
		s.t.Fatal(err)
	}
}

var agentNames = map[upstreamtest.Vendor]string{upstreamtest.Anthropic: "Claude Code", upstreamtest.OpenAI: "Codex"}

// shareServer is a till before a biller. The price table is till's own.
func shareServer(t *testing.T, vendor upstreamtest.Vendor) (*server, *biller) {
	t.Helper()
	b := newBiller(t, vendor)
	// On a busy machine what is left of an answer may take longer than usual.
	return newServer(t, options{vendor: vendor, to: b.URL, upstream: "drain 1m"}), b
}

// contexts are how many parts an agent reads to have about 20,000, 100,000 and
// 180,000 tokens before it. Claude Code numbers the lines, and begins with more.
var contexts = map[upstreamtest.Vendor][]int{upstreamtest.Anthropic: {1, 9, 17}, upstreamtest.OpenAI: {1, 11, 20}}

// TestUsableShare spends keys by what real agents sent: each agent runs once for
// each size of context, and its requests are sent again, in sessions that go on
// in the same shape, two at a time, until the key is refused.
func TestUsableShare(t *testing.T) {
	mode := os.Getenv(shareVariable)
	if mode == "" {
		t.Skip("run: make share")
	}
	table := []string{cellHead}
	for _, vendor := range []upstreamtest.Vendor{upstreamtest.Anthropic, upstreamtest.OpenAI} {
		s, b := shareServer(t, vendor)
		for _, parts := range contexts[vendor] {
			c := tapeErrand(t, s, b, vendor, parts)
			for _, dollars := range []int64{1, 5, 20, 50} {
				row := spendCell(t, s, b, c, dollars)
				row.agent = agentNames[vendor]
				row.check(t, mode == "strict")
				table = append(table, row.String())
				t.Logf("%s  (%.1f s)", row, row.took.Seconds())
			}
		}
	}
	t.Log("\n" + strings.Join(table, "\n"))
}

// smallTurns is how many short files a taped agent reads after the long ones.
const smallTurns = 4

// tapeErrand lets a real agent run an errand, and learns what it sent.
func tapeErrand(t *testing.T, s *server, b *biller, vendor upstreamtest.Vendor, parts int) *conversation {
	t.Helper()
	b.open()
	id, key := s.mint(object{"max_spend_usd": "10000"})
	tape := tapeOf(t, s)
	e := newErrand(t, 0, parts, smallTurns)
	if out, err := e.command(t, vendor, tape.URL, key).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%.2000s", agentNames[vendor], err, out)
	}
	s.used(id)
	c := learn(t, runName(0), tape.turns())
	if want := parts + smallTurns + 1; len(c.bodies) != want {
		t.Fatalf("%s made %d requests, want %d", agentNames[vendor], len(c.bodies), want)
	}
	return c
}

// spendCell spends one key.
func spendCell(t *testing.T, s *server, b *biller, c *conversation, dollars int64) *cell {
	t.Helper()
	b.open()
	full, err := b.words.parse(c.bodies[len(c.bodies)-smallTurns-1])
	if err != nil {
		t.Fatal(err)
	}
	id, key := s.mint(object{"max_spend_usd": fmt.Sprint(dollars)})
	f := &traffic{s: s, b: b, c: c, key: key, turns: len(c.bodies) + 20, aborts: 13}
	ctx, cancel := context.WithTimeout(context.Background(), 10*patience)
	defer cancel()
	began := time.Now()
	if err := f.spend(ctx, 2); err != nil {
		t.Fatalf("$%d, %d tokens of context, after %d requests: %v", dollars, full.tokens(), f.requests.Load(), err)
	}
	row := &cell{context: full.tokens(), cap: dollars * 1e9, requests: f.requests.Load(), busy: f.busy.Load(), left: f.left.Load(), why: f.why, said: f.said, took: time.Since(began)}
	row.settle(s, b, id, f.refused)
	return row
}

// TestAgentsSpendTheirKeyAndStop lets the real agents spend a dollar by
// themselves, two at a time, one of them interrupted, until they are refused.
func TestAgentsSpendTheirKeyAndStop(t *testing.T) {
	t.Parallel()
	for vendor, name := range agentNames {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			weighs(t, middleWeight)
			s, b := shareServer(t, vendor)
			id, key := s.mint(object{"max_spend_usd": "1"})
			tapes := []*tape{tapeOf(t, s), tapeOf(t, s)}
			row := &cell{agent: name, cap: 1e9}
			var refused *taped
			for run := 1; refused == nil; run += 2 {
				if run > 100 {
					t.Fatal("it never ends")
				}
				first, second := newErrand(t, run, 1, 10), newErrand(t, run+1, 1, 10)
				if run == 1 {
					second.long = longAnswer
					row.left++
				}
				var wg sync.WaitGroup
				out := make([][]byte, 2)
				wg.Go(func() { out[0], _ = first.command(t, vendor, tapes[0].URL, key).CombinedOutput() }) // the tape says how it went
				wg.Go(func() { out[1] = interrupted(t, second.command(t, vendor, tapes[1].URL, key), tapes[1], run == 1) })
				wg.Wait()
				for _, r := range slices.Concat(tapes[0].turns(), tapes[1].turns()) {
					switch {
					case r.status == http.StatusPaymentRequired && refused == nil:
						refused = &r
					case r.status == http.StatusOK, r.status == 0, r.status == http.StatusTooManyRequests, r.status == http.StatusPaymentRequired:
					default:
						t.Fatalf("%s was answered %d %s\n%.2000s\n%.2000s", r.path, r.status, r.code, out[0], out[1])
					}
				}
			}
			row.why = refused.code
			turns := slices.Concat(tapes[0].turns(), tapes[1].turns())
			row.requests = int64(len(turns))
			for _, r := range turns {
				if r.status == http.StatusTooManyRequests {
					row.busy++
				}
			}
			full, err := b.words.parse(refused.body)
			if err != nil {
				t.Fatal(err)
			}
			row.context = full.tokens()
			row.settle(s, b, id, refused.body)
			// How much could be used depends on how long the vendor's counts take, which a
			// busy machine decides: SHARE=strict make share holds the targets.
			row.check(t, false)
			t.Logf("\n%s\n%s", cellHead, row)
		})
	}
}

// interrupted runs an agent, and with leave interrupts it in the middle of its
// second answer, as people do.
func interrupted(t *testing.T, cmd *exec.Cmd, tape *tape, leave bool) []byte {
	out := new(syncBuffer)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return nil
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for range 2 {
		select {
		case <-tape.started:
		case <-ended: // the tape says how it went
			return []byte(out.String())
		}
	}
	if leave {
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Error(err)
		}
	}
	<-ended
	return []byte(out.String())
}
