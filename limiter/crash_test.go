package limiter_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

var errInjected = storetest.ErrInjected

func TestBadgerPassesTheConformanceSuite(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(dir string) (store.Store, error) {
		s, err := store.OpenBadger(filepath.Join(dir, "badger"), discard)
		if err == nil {
			s.(*store.Badger).ClosePatience = patience
		}
		return s, err
	})
}

func TestTheSimulatedDiskPassesTheConformanceSuite(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	disks := map[string]*storetest.Disk{}
	storetest.Run(t, func(dir string) (store.Store, error) {
		mu.Lock()
		defer mu.Unlock()
		if disks[dir] == nil {
			disks[dir] = storetest.NewDisk()
		}
		return disks[dir].Open(), nil
	})
}

// TestKillLosesOnlyWhatIsInFlight kills a busy limiter at many moments; the
// page cache survives, so all that may be lost are the requests in flight.
func TestKillLosesOnlyWhatIsInFlight(t *testing.T) {
	t.Parallel()
	for inFlight := range 5 {
		t.Run(fmt.Sprint(inFlight), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			const limit = 1000
			k := w.mint(activations(limit))
			forwarded := int64(0)
			for range 200 {
				if code := k.use(); code != "" {
					t.Fatal(code)
				}
				forwarded++
				w.clock.advance(time.Millisecond)
			}
			for range inFlight {
				if _, refusal := k.ask(); refusal != nil {
					t.Fatal(refusal)
				}
			}
			w.kill(false)
			rest := k.drain(record.CodeActivationsExhausted)
			if got, want := forwarded+rest, int64(limit-inFlight); got != want {
				t.Errorf("forwarded %d before and %d after the kill, want %d in all", forwarded, rest, want)
			}
		})
	}
}

func TestPowerCutForfeitsAtMostTwoBlocks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const limit = 4000
	k := w.mint(activations(limit))
	for range 2000 {
		if code := k.use(); code != "" {
			t.Fatal(code)
		}
		w.clock.advance(50 * time.Microsecond)
	}
	w.kill(true)
	rest := k.drain(record.CodeActivationsExhausted)
	if total := 2000 + rest; total > limit || total < limit-128 {
		t.Errorf("forwarded %d of %d over a power cut, want at least %d", total, limit, limit-128)
	}
}

func TestShadowOfAnotherSessionIsNotBelieved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(100))
	for range 10 {
		k.use()
	}
	if err := w.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	old := w.disk.Snapshot()
	anchor, err := os.ReadFile(w.anchor)
	if err != nil {
		t.Fatal(err)
	}
	w.restart() // a new session writes its own shadow
	for range 20 {
		k.use()
	}
	// An older state of the disk comes back, with its anchor, beside the newer
	// shadow.
	w.Abandon()
	w.disk = old
	if err := os.WriteFile(w.anchor, anchor, 0o600); err != nil {
		t.Fatal(err)
	}
	w.open(old.Open())
	_, stored, err := w.Reserved(k.id)
	if err != nil {
		t.Fatal(err)
	}
	rest := k.drain(record.CodeActivationsExhausted)
	if stored[0]+rest > 100 || rest > 90 {
		t.Errorf("reserved %d, and %d more forwarded: what the old state had reserved must count as spent", stored[0], rest)
	}
}

func TestAFailingCommitRefusesEverything(t *testing.T) {
	t.Parallel()
	for _, reached := range []bool{false, true} {
		w := newWorld(t)
		k := w.mint(activations(100))
		other := w.mint(activations(100))
		if code := k.use(); code != "" {
			t.Fatal(code)
		}
		if err := w.Ping(ctx); err != nil {
			t.Fatal(err)
		}
		w.disk.FailAt(1, reached)
		for range 100 {
			if code := other.use(); code == "" {
				t.Fatal("admitted on a disk that fails")
			}
		}
		if code := k.use(); code != record.CodeStoreUnavailable {
			t.Errorf("another key after the failure: %q", code)
		}
		if w.Trouble(ctx) == nil {
			t.Error("stats do not say that the store failed")
		}
		w.disk.Heal()
		w.kill(false)
		if n := k.drain(record.CodeActivationsExhausted); n > 99 {
			t.Errorf("%d left, want at most 99", n)
		}
		if n := other.drain(record.CodeActivationsExhausted); n != 100 {
			t.Errorf("%d left of a key that nothing was forwarded for, want 100", n)
		}
	}
}

// TestNoScheduleForwardsMoreThanTheLimit drives keys through random requests,
// settlements, grants, sweeps, clean stops, kills and power cuts, and holds
// the books beside them.
func TestNoScheduleForwardsMoreThanTheLimit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newMachine(t)
		defer w.Abandon()
		type book struct {
			*key
			limit, forwarded, lost int64
			grants                 int
			running                []*limiter.Grant
		}
		var books []*book
		for range rapid.IntRange(1, 3).Draw(rt, "keys") {
			n := rapid.Int64Range(1, 200).Draw(rt, "limit")
			books = append(books, &book{key: w.mint(activations(n)), limit: n})
		}
		pick := func() *book { return books[rapid.IntRange(0, len(books)-1).Draw(rt, "key")] }
		crashed := false
		logged := func(rt *rapid.T) { // what was acknowledged, once, and the chain is whole
			if _, err := w.AuditVerify(ctx, limiter.Operator); err != nil {
				rt.Fatal(err)
			}
			for _, b := range books {
				if acts := w.acts(b.id); !strings.HasPrefix(acts, audit.ActKeyCreate) || strings.Count(acts, audit.ActKeyGrant) != b.grants {
					rt.Fatalf("%d grants were acknowledged, and the audit log says: %s", b.grants, acts)
				}
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"request": func(rt *rapid.T) {
				b := pick()
				for range rapid.IntRange(1, 20).Draw(rt, "times") {
					g, refusal := b.ask()
					if refusal != nil {
						if !crashed && b.forwarded+b.lost+int64(len(b.running)) < b.limit {
							rt.Fatalf("false refusal: %v with %d forwarded, %d running of %d", refusal, b.forwarded, len(b.running), b.limit)
						}
						continue
					}
					b.running = append(b.running, g)
				}
			},
			"end": func(rt *rapid.T) {
				b := pick()
				for len(b.running) > 0 && rapid.Bool().Draw(rt, "more") {
					g := b.running[0]
					b.running = b.running[1:]
					if rapid.IntRange(0, 3).Draw(rt, "dispatched") == 0 {
						g.Cancel()
					} else {
						g.Settle(record.Amounts{record.Activations: 1})
						b.forwarded++
					}
				}
			},
			"grant": func(rt *rapid.T) {
				b := pick()
				n := rapid.Int64Range(1, 20).Draw(rt, "more")
				if _, err := w.GrantMore(ctx, limiter.Operator, b.id, limiter.More{Activations: n}); err != nil {
					rt.Fatal(err)
				}
				b.limit += n
				b.grants++
			},
			"time": func(rt *rapid.T) {
				w.clock.advance(time.Duration(rapid.IntRange(0, 4000).Draw(rt, "ms")) * time.Millisecond)
				w.SweepActive()
			},
			"evict": func(rt *rapid.T) {
				w.clock.advance(20 * time.Minute)
				for range 3 {
					w.SweepActive()
					if err := w.Ping(ctx); err != nil {
						rt.Fatal(err)
					}
				}
				w.SweepIdle()
			},
			"restart": func(rt *rapid.T) {
				for _, b := range books {
					b.forwarded += int64(len(b.running)) // what runs at a stop counts as used
					b.running = nil
				}
				w.restart()
				logged(rt)
			},
			"kill": func(rt *rapid.T) {
				power := rapid.Bool().Draw(rt, "power")
				for _, b := range books {
					b.lost += int64(len(b.running))
					b.running = nil
				}
				w.kill(power)
				crashed = crashed || power
				logged(rt)
			},
			"": func(rt *rapid.T) {
				w.agree(rt)
				for _, b := range books {
					v := b.view()
					if b.forwarded+int64(len(b.running)) > b.limit {
						rt.Fatalf("%d forwarded and %d running of %d", b.forwarded, len(b.running), b.limit)
					}
					if v.Used[0] < b.forwarded {
						rt.Fatalf("the limiter counts %d, %d were forwarded", v.Used[0], b.forwarded)
					}
					if !crashed && v.Used[0] != b.forwarded+b.lost {
						rt.Fatalf("the limiter counts %d; %d were forwarded and %d lost in flight", v.Used[0], b.forwarded, b.lost)
					}
					memory, stored, err := w.Reserved(b.id)
					if err != nil {
						rt.Fatal(err)
					}
					if stored[0] > b.limit || memory[0] < v.Used[0]+v.Held[0] {
						rt.Fatalf("stored %d, memory %d, used %d, held %d, limit %d", stored[0], memory[0], v.Used[0], v.Held[0], b.limit)
					}
				}
			},
		})
	})
}

// TestNoSlotOfTheShadowIsGivenOnceItIsClosed is about a request that was admitted
// while the store closed: what it would write to is not mapped any more.
func TestNoSlotOfTheShadowIsGivenOnceItIsClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if !w.GivesSlot() {
		t.Fatal("none while it is open")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w.GivesSlot() {
		t.Error("one was given")
	}
}

func FuzzAccountRecord(f *testing.F) {
	f.Add(limiter.EncodeAccount(record.Account{Limit: record.NoLimits(), Pin: "192.0.2.1"}))
	f.Add([]byte{1, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := record.DecodeAccount(b)
		if err != nil {
			return
		}
		again, err := record.DecodeAccount(limiter.EncodeAccount(rec))
		if err != nil || again != rec {
			t.Errorf("%+v came back as %+v, %v", rec, again, err)
		}
	})
}

func FuzzKeyRecord(f *testing.F) {
	f.Add([]byte(`{"id":"key_1","limit":[1,-1,-1,-1]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if key, err := record.DecodeKey(b); err == nil && key == nil {
			t.Error("neither a key nor an error")
		}
	})
}
