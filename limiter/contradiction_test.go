package limiter_test

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// What becomes of a node that finds a record which contradicts what it knows, in a
// database that has all commits.

// contradict takes from a node's part of a key's account what it has reserved, and uses the
// key there until the node finds out. It returns how often that worked.
func (c *nodes) contradict(k *key) (n int64) {
	c.t.Helper()
	c.sweep()
	id, err := record.KeyAccount(k.id)
	if err != nil {
		c.t.Fatal(err)
	}
	c.Write(c.t, func(tx store.Tx) error {
		b, err := tx.Get(record.AccountKey(id))
		if err != nil {
			return err
		}
		rec, err := record.DecodeAccount(b)
		if err != nil {
			return err
		}
		at := record.PartKey(id, k.w.node)
		if b, err = tx.Get(at); err != nil {
			return err
		}
		part, err := record.DecodePart(b)
		if err != nil {
			return err
		}
		rec.Reserved[record.Activations]--
		part.Reserved[record.Activations]--
		return errors.Join(tx.Set(record.AccountKey(id), rec.Encode()), tx.Set(at, part.Encode()))
	})
	for ; n < 50; n++ { // until the block is used up
		if k.use() != "" {
			break
		}
	}
	if err := k.w.Failed(); err != nil && (strings.Contains(err.Error(), "anchor") || !strings.Contains(err.Error(), "docs/cluster.md")) {
		c.t.Errorf("it says what helps a single server: %v", err)
	}
	if !k.w.Contradicted() || !errors.Is(k.w.Failed(), store.ErrDoubt) {
		c.t.Fatalf("the node has not found it: %v", k.w.Failed())
	}
	return n
}

// row is what the database has under a key at this moment.
func (c *nodes) row(at []byte) (row []byte) {
	c.t.Helper()
	if err := c.View(func(r store.Reader) error {
		b, err := r.Get(at)
		row = bytes.Clone(b)
		return err
	}); err != nil {
		c.t.Fatal(err)
	}
	return row
}

func TestANodeWhoseRecordWasContradictedGoesOnFromWhatItKnows(t *testing.T) {
	for name, shadow := range map[string]string{"with a shadow": "shadow", "without one": ""} {
		t.Run(name, func(t *testing.T) {
			withNodes(t, 2, func(t *testing.T, c *nodes) {
				k := c.w[0].mint(activations(100))
				n := int64(0)
				for ; n < 10; n++ {
					if code := k.use(); code != "" {
						t.Fatal(code)
					}
				}
				var running []*limiter.Grant
				for range 3 {
					g, refusal := k.ask()
					if refusal != nil {
						t.Fatal(refusal)
					}
					running = append(running, g)
				}
				n += c.contradict(k)
				if err := c.w[0].succeed(nil); err != nil {
					t.Fatal(err)
				}
				for _, g := range running {
					if g.Cut() != nil {
						t.Error("a request was cut")
					}
					g.Settle(record.Amounts{record.Activations: 1})
				}
				n += int64(len(running))
				n += c.drain(k, record.CodeActivationsExhausted)
				if n != 100 {
					t.Errorf("%d forwarded of 100", n)
				}
				c.settle()
			}, func(w *world) { w.shadow = shadow })
		})
	}
}

// TestWhatRunsWhenARecordIsContradictedIsReportedOnce: its bound counts as spent, and what
// it uses of that does not count again.
func TestWhatRunsWhenARecordIsContradictedIsReportedOnce(t *testing.T) {
	roles := map[string]record.Role{"ci": {Budget: record.RoleBudget{Limit: record.Amounts{1000, -1, -1, -1}}}}
	withNodes(t, 1, func(t *testing.T, c *nodes) {
		w := c.w[0]
		k := w.mint(func(k *record.Key) { k.Limit[record.Activations], k.Role = 100, "ci" })
		ask := func() *limiter.Grant {
			g, refusal := k.ask(bound(record.Tokens, 50))
			if refusal != nil {
				t.Fatal(refusal)
			}
			return g
		}
		used := func(tokens int64) record.Amounts {
			return record.Amounts{record.Activations: 1, record.Tokens: tokens}
		}
		ask().Settle(used(7))
		less, more := ask(), ask()
		c.sweep()
		c.contradict(k)
		n := int64(3)
		for ; n < 50; n++ {
			if k.use() != "" {
				break
			}
		}
		if err := w.succeed(nil); err != nil {
			t.Fatal(err)
		}
		less.Settle(used(10))
		more.Settle(used(60))
		c.sweep()
		if v := k.view(); v.Used != (record.Amounts{record.Activations: n, record.Tokens: 7 + 50 + 60}) || v.Past != (record.Amounts{}) {
			t.Errorf("after %d requests, of which one used 7 tokens, one 10 of 50, and one 60 of 50: %v are used, and %v were before", n, v.Used, v.Past)
		}
		if got := k.drain(record.CodeActivationsExhausted); got != 100-n {
			t.Errorf("%d more of 100 after %d", got, n)
		}
		other := w.mint(func(k *record.Key) { k.Role = "ci" })
		if got := other.drain(record.CodeActivationsExhausted); got != 900 {
			t.Errorf("%d more of the role's 1000 after 100", got)
		}
	}, func(w *world) { w.roles = roles })
}

func TestWhatWasInDoubtStaysSoAfterAnAttemptThatFailed(t *testing.T) {
	withNodes(t, 1, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(activations(100))
		w := c.w[0]
		if _, refusal := k.ask(); refusal != nil {
			t.Fatal(refusal)
		}
		c.contradict(k)
		if err := w.succeed(c.Stop); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("without a database: %v", err)
		}
		if !w.Contradicted() {
			t.Error("that it was in doubt is forgotten")
		}
		c.Start()
		if err := w.succeed(nil); err != nil {
			t.Fatal(err)
		}
		if v := k.view(); v.InFlight != 1 || v.Held != (record.Amounts{}) {
			t.Errorf("%d in flight, and %v held: what runs must count as spent", v.InFlight, v.Held)
		}
	})
}

func TestAKeyThatIsStoppedWhileANodeIsOpenedAgainIsCutThere(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		w := c.w[0]
		doubted, revoked := w.mint(activations(100)), w.mint(activations(100))
		running, refusal := revoked.ask()
		if refusal != nil {
			t.Fatal(refusal)
		}
		if _, refusal := doubted.ask(); refusal != nil {
			t.Fatal(refusal)
		}
		c.contradict(doubted)
		if err := w.succeed(func() {
			if _, _, err := c.w[1].Revoke(ctx, limiter.Operator, revoked.id, ""); err != nil {
				t.Fatal(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if running.Cut() == nil {
			t.Error("a request goes on whose key was revoked")
		}
	})
}

func TestWhatRunsIsCutWhenANodeCannotBeOpenedAgain(t *testing.T) {
	withNodes(t, 1, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(activations(100))
		running, refusal := k.ask()
		if refusal != nil {
			t.Fatal(refusal)
		}
		c.contradict(k)
		if err := c.w[0].succeed(c.Stop); err == nil {
			t.Fatal("it was opened without a database")
		}
		time.Sleep(time.Second)
		if running.Cut() == nil {
			t.Error("a request goes on of whose key nobody could hear that it was revoked")
		}
	})
}

// reading is a node at which something happens before a row is read.
type reading struct {
	store.Shared
	row  []byte
	meet func() error // its error is that of reading the row
}

// View implements store.Store.
func (s reading) View(fn func(store.Reader) error) error {
	return s.Shared.View(func(r store.Reader) error { return fn(readingView{r, s}) })
}

type readingView struct {
	store.Reader
	s reading
}

// Get implements store.Reader.
func (v readingView) Get(key []byte) ([]byte, error) {
	if bytes.Equal(key, v.s.row) {
		if err := v.s.meet(); err != nil {
			return nil, err
		}
	}
	return v.Reader.Get(key)
}

// openedAnew closes a node, as when its database is reached in another way, and opens it
// again. meet happens near the end of that.
func (c *nodes) openedAnew(w *world, meet func() error) error {
	c.t.Helper()
	former := w.Limiter
	if err := former.Close(); err != nil && !errors.Is(err, store.ErrClosed) {
		c.t.Fatal(err)
	}
	s := reading{c.Node(w.node), record.CommonKey("lockdown"), sync.OnceValue(meet)}
	err := w.follow(former, s)
	if err != nil {
		err = errors.Join(err, s.Close())
	}
	return err
}

// TestWhatRunsIsStillKnownAfterAnAttemptThatFailedAtItsEnd: all keys have been read by then.
func TestWhatRunsIsStillKnownAfterAnAttemptThatFailedAtItsEnd(t *testing.T) {
	withNodes(t, 1, func(t *testing.T, c *nodes) {
		w := c.w[0]
		k := w.mint(activations(10))
		var running []*limiter.Grant
		for range 4 {
			g, refusal := k.ask()
			if refusal != nil {
				t.Fatal(refusal)
			}
			running = append(running, g)
		}
		if err := c.openedAnew(w, func() error { return store.ErrUnavailable }); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("the first attempt: %v", err)
		}
		for _, g := range running {
			if g.Cut() == nil {
				t.Error("a request goes on of whose key nobody could hear that it was revoked")
			}
		}
		if err := c.openedAnew(w, func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		if v := k.view(); v.InFlight != len(running) {
			t.Errorf("%d in flight, want %d", v.InFlight, len(running))
		}
		for _, g := range running {
			g.Settle(record.Amounts{record.Activations: 1})
		}
		if n := 4 + c.drain(k, record.CodeActivationsExhausted); n != 10 {
			t.Errorf("%d forwarded of 10", n)
		}
		c.settle()
	}, lockable)
}

func TestWhatRunsIsCutWhenANodeThatIsBeingOpenedAgainLosesTouch(t *testing.T) {
	withNodes(t, 1, func(t *testing.T, c *nodes) {
		running, refusal := c.w[0].mint(activations(10)).ask()
		if refusal != nil {
			t.Fatal(refusal)
		}
		if err := c.openedAnew(c.w[0], func() error {
			c.Cut(c.w[0].node)
			time.Sleep(8 * time.Second)
			synctest.Wait()
			if running.Cut() == nil {
				t.Error("a request goes on of whose key nobody could hear that it was revoked")
			}
			return store.ErrUnavailable
		}); err == nil {
			t.Error("it is open without a database")
		}
	}, lockable)
}

func TestADatabaseThatIsDoubtedWhileANodeIsBeingOpenedStaysInDoubtForIt(t *testing.T) {
	withNodes(t, 1, func(t *testing.T, c *nodes) {
		w := c.w[0]
		w.mint(activations(10))
		err := c.openedAnew(w, func() error {
			c.Failover(1)
			synctest.Wait()
			return nil
		})
		if err == nil {
			err = w.Failed()
		}
		if !errors.Is(err, store.ErrDoubt) {
			t.Errorf("the node knows nothing of it: %v", err)
		}
	}, lockable)
}

func TestARevocationIsNotFeltByANodeThatIsBeingOpenedAgainUntilItHasCutWhatRuns(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(activations(10))
		running, refusal := k.ask()
		if refusal != nil {
			t.Fatal(refusal)
		}
		if err := c.openedAnew(c.w[0], func() error {
			view, _, err := c.w[1].Revoke(ctx, limiter.Operator, k.id, "")
			if err != nil {
				t.Fatal(err)
			}
			if len(view.Pending) == 0 && running.Cut() == nil {
				t.Error("all nodes are said to have felt it, and a request goes on")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		c.pass(time.Second)
		if running.Cut() == nil {
			t.Error("a request goes on whose key was revoked")
		}
	}, lockable)
}

func TestANodeThatKnowsALongerAuditLogStaysClosed(t *testing.T) {
	withNodes(t, 1, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(activations(100))
		if _, refusal := k.ask(); refusal != nil {
			t.Fatal(refusal)
		}
		former := c.row(record.MetaAudit)
		c.w[0].mint(activations(1))
		c.contradict(k)
		c.Write(c.t, func(tx store.Tx) error { return tx.Set(record.MetaAudit, former) })
		if err := c.w[0].succeed(nil); !errors.Is(err, store.ErrDoubt) {
			t.Errorf("entries of the audit log are missing, and it opens: %v", err)
		}
	})
}

func TestARecordThatIsInAFormerWindowIsDoubted(t *testing.T) {
	for name, act := range map[string]func(c *nodes, k *key){
		"asking for a block": func(c *nodes, k *key) { k.use() },
		"saving":             func(c *nodes, k *key) { c.w[0].SweepActive() },
		"renewing":           func(c *nodes, k *key) { c.Advance(24 * time.Hour); k.use() },
	} {
		t.Run(name, func(t *testing.T) {
			withNodes(t, 1, func(t *testing.T, c *nodes) {
				k := c.w[0].mint(renewing(100, record.Daily))
				if code := k.use(); code != "" {
					t.Fatal(code)
				}
				id, err := record.KeyAccount(k.id)
				if err != nil {
					t.Fatal(err)
				}
				c.sweep()
				former := c.row(record.AccountKey(id))
				c.pass(24 * time.Hour)
				if code := k.use(); code != "" {
					t.Fatal(code)
				}
				c.Write(c.t, func(tx store.Tx) error { return tx.Set(record.AccountKey(id), former) })
				c.Advance(3 * time.Second)
				act(c, k)
				synctest.Wait()
				if !c.w[0].Contradicted() {
					t.Errorf("it is believed: %v", c.w[0].Failed())
				}
			})
		})
	}
}
