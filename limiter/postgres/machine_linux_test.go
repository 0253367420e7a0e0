package postgres_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/postgres"
	"github.com/till-proxy/till/limiter/postgres/postgrestest"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// startIn starts a node that keeps its files in a directory.
func startIn(t *testing.T, dir, dsn, node string) *limiter.Limiter {
	t.Helper()
	return newLimiter(t, postgres.Options{DSN: dsn, Node: node, Witness: filepath.Join(dir, "witness")}, filepath.Join(dir, "shadow"))
}

// TestWhatANodeHadReservedCountsAsUsedUnlessItsDirectoryKnowsBetter ends a node whose
// machine fails, and starts it again with what is left of its directory.
func TestWhatANodeHadReservedCountsAsUsedUnlessItsDirectoryKnowsBetter(t *testing.T) {
	t.Parallel()
	const (
		limit = 5000
		most  = 2 * 256 // two blocks: the second is reserved while the first is not used up
	)
	for name, test := range map[string]struct {
		left     func(t *testing.T, dir string) // what is left of a copy of the directory
		forfeits bool
	}{
		"its process is killed": {func(*testing.T, string) {}, false},
		"its power fails, and the machine starts again": {func(t *testing.T, dir string) {
			path := filepath.Join(dir, "shadow")
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			boot := []byte(store.BootID())
			if n := bytes.Count(b, boot); n != 1 {
				t.Fatalf("the shadow names its boot %d times", n)
			}
			if err := os.WriteFile(path, bytes.Replace(b, boot, bytes.Repeat([]byte("0"), len(boot)), 1), 0o600); err != nil {
				t.Fatal(err)
			}
		}, true},
		"its power fails before its disk has anything of the last session": {func(t *testing.T, dir string) {
			for _, name := range []string{"shadow", "witness"} {
				path := filepath.Join(dir, name)
				info, err := os.Stat(path)
				if err == nil {
					err = os.WriteFile(path, make([]byte, info.Size()), 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}, true},
		"its disk is lost": {func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := postgrestest.Start(t)
			network := postgrestest.NewProxy(t, server)
			dir, again := t.TempDir(), filepath.Join(t.TempDir(), "again")
			one := startIn(t, dir, network.DSN(), "one")
			p := &pair{t: t, server: server, nodes: []*limiter.Limiter{one, startIn(t, t.TempDir(), server.DSN(), "two")}}
			k := mint(t, one, limit)
			n := p.use(k, 400)
			defer network.Heal() // or the former process would not end quickly
			network.Cut()
			copyDirectory(t, dir, again)
			held := int64(0) // what it had reserved and not used, as the former process shows
			for test.forfeits && held == 0 {
				for use(one, k) == "" {
					held++
				}
				if held > 0 {
					break
				}
				network.Heal()
				eventually(t, "the node whose network is back serves", func() bool { return use(one, k) == "" })
				n++
				network.Cut()
				copyDirectory(t, dir, again)
			}
			test.left(t, again)
			p.nodes[0] = startIn(t, again, server.DSN(), "one")
			forward(t, p.nodes[0], k) // the node that is back
			n++
			n += p.drain(k)
			switch lost := limit - n; {
			case lost < held || lost > most || lost > 0 && !test.forfeits:
				t.Errorf("%d requests of %d, and %d that the former process had reserved", n, limit, held)
			default:
				t.Logf("%d requests of %d, and %d that the former process had reserved", n, limit, held)
			}
		})
	}
}

func copyDirectory(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestTheMachinesClockOfANodeCountsForNothing has a database whose clock is hours from the
// machine's, and lets that jump besides.
func TestTheMachinesClockOfANodeCountsForNothing(t *testing.T) {
	t.Parallel()
	for name, off := range map[string]string{"hours behind": "5 hours", "hours ahead": "-5 hours"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := postgrestest.Start(t)
			server.SkewClock(t, off)
			now := func() time.Time {
				t.Helper()
				at, err := time.Parse(time.RFC3339Nano, server.Exec(t, `SELECT to_json(clock_timestamp() AT TIME ZONE 'UTC') #>> '{}'`)[0]+"Z")
				if err != nil {
					t.Fatal(err)
				}
				return at
			}
			if away := time.Since(now()).Abs(); away < 4*time.Hour {
				t.Fatalf("the clocks are %s apart", away)
			}
			p := newPair(t, server, server.DSN())
			made := func(is func(*record.Key)) token.Lookup {
				t.Helper()
				return mintAs(t, p.nodes[0], is)
			}
			lives := made(func(k *record.Key) { k.ExpiresAt = now().Add(time.Hour) })
			unused := made(func(k *record.Key) { k.FirstUseWithin = time.Hour })
			idle := made(func(k *record.Key) { k.IdleTimeout = time.Hour })
			renews := made(func(k *record.Key) { k.Limit[record.Activations], k.Renews = 3, "month" })
			jumps := []time.Duration{0, 5 * time.Hour, -10 * time.Hour, 24 * 365 * time.Hour, -24 * 365 * time.Hour}
			seen, month := 0, now().Month()
			p.renewed(4, func(late func() bool) {
				postgres.SetMachineClock(jumps[seen%len(jumps)])
				seen++
				for i, l := range p.nodes {
					if err := l.Ready(); err != nil {
						if !late() {
							t.Errorf("node %d is not fresh: %v", i, err)
						}
						continue
					}
					if code := use(l, lives); code != "" {
						t.Errorf("node %d, a key that expires in an hour: %s", i, code)
					}
					if code := use(l, idle); code != "" {
						t.Errorf("node %d, a key that is in use: %s", i, code)
					}
					if code := use(l, renews); code != "" && seen <= 1 || code != record.CodeActivationsExhausted && code != record.CodeBudgetHeld && seen > 3 && now().Month() == month {
						t.Errorf("node %d, a key that renews in a month: %q the %dth time", i, code, seen)
					}
				}
			}, "one", "two")
			forward(t, p.nodes[1], unused)
			var ends time.Time
			var expires token.Lookup
			for last := time.Now().Add(eventuallyPatience); ; {
				ends = now().Add(2 * time.Second)
				var err error
				if expires, err = tryMint(p.nodes[0], func(k *record.Key) { k.ExpiresAt = ends }); err == nil {
					break
				}
				if now().Before(ends) || time.Now().After(last) { // otherwise it would have ended before it was made
					t.Fatal(err)
				}
			}
			for _, l := range p.nodes {
				eventually(t, "the key expires", func() bool { return use(l, expires) == record.CodeKeyExpired })
			}
			if at := now(); at.Before(ends) {
				t.Errorf("the key that ends at %s was expired at %s", ends, at)
			}
			k, refusal := p.nodes[1].Find(t.Context(), lives)
			if refusal != nil {
				t.Fatal(refusal)
			}
			if off := k.Key().CreatedAt.Sub(now()).Abs(); off > time.Hour {
				t.Errorf("it was made at %s, and it is %s", k.Key().CreatedAt, now())
			}
			if off := p.nodes[0].Stats().ClockOff; off != 0 {
				t.Errorf("the node says that its clock is %s off", off)
			}
		})
	}
}
