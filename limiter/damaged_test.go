package limiter_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// One record that cannot be read holds up nothing but itself.

// stranger is a node that tells the others of all that it writes.
type stranger struct{ store.Bystander }

// Follows implements store.Follower.
func (stranger) Follows([]byte) bool { return true }

// spoil writes over rows. Every node hears that another was written, as it was.
func (c *nodes) spoil(news []byte, rows ...[]byte) {
	c.t.Helper()
	n := c.Node("stranger")
	if err := errors.Join(n.Join(stranger{}), n.Update(func(tx store.Tx) error {
		v, err := tx.Get(news)
		if err == nil {
			err = tx.Set(news, v)
		}
		if errors.Is(err, store.ErrNotFound) {
			err = nil
		}
		for _, row := range rows {
			err = errors.Join(err, tx.Set(row, []byte("{")))
		}
		return err
	}), n.Close()); err != nil {
		c.t.Fatal(err)
	}
	synctest.Wait()
}

// rowsOf are the rows of a key of which any may be damaged.
func rowsOf(t *testing.T, id string) map[string][][]byte {
	t.Helper()
	account, err := record.KeyAccount(id)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][][]byte{
		"the record": {record.RecordKey(id)}, "the account": {record.AccountKey(account)},
		"the parts": {record.PartKey(account, "node-a"), record.PartKey(account, "node-b")},
	}
}

// TestADamagedRecordHoldsUpNothingElse: each case begins with two keys, the first of which is
// then damaged, and goes on to what has to be done with the second.
func TestADamagedRecordHoldsUpNothingElse(t *testing.T) {
	soon := func(k *record.Key) { k.Limit[record.Activations], k.FirstUseWithin = 100, time.Hour }
	plain := activations(100)
	for name, test := range map[string]struct {
		set    func(*record.Key)
		before func(t *testing.T, c *nodes, w *world, bad, good *key)
		goesOn func(t *testing.T, c *nodes, w *world, bad, good *key)
	}{
		"keys expire": {set: soon, goesOn: func(t *testing.T, c *nodes, w *world, _, good *key) {
			c.pass(2 * time.Hour)
			w.SweepDue()
			if acts := w.acts(good.id); !strings.Contains(acts, audit.ActKeyExpired) {
				t.Errorf("it is not recorded as expired: %s", acts)
			}
		}},
		"ended keys are forgotten": {set: plain,
			before: func(t *testing.T, c *nodes, w *world, bad, good *key) {
				for _, k := range []*key{bad, good} {
					if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
						t.Fatal(err)
					}
				}
				c.pass(time.Second)
			},
			goesOn: func(t *testing.T, c *nodes, w *world, _, good *key) {
				w.Retain(time.Hour)
				c.pass(25 * time.Hour)
				w.SweepEnded()
				if _, err := w.Get(limiter.Operator, good.id); !errors.Is(err, store.ErrNotFound) {
					t.Errorf("it is not forgotten: %v", err)
				}
			}},
		"unused keys are reported": {set: plain, goesOn: func(t *testing.T, c *nodes, w *world, _, good *key) {
			w.SetStale(time.Hour, false)
			c.pass(25 * time.Hour)
			w.SweepStale()
			if acts := w.acts(good.id); !strings.Contains(acts, audit.ActKeyStale) {
				t.Errorf("it is not reported: %s", acts)
			}
		}},
		"keys are listed": {set: plain, goesOn: func(t *testing.T, _ *nodes, w *world, bad, good *key) {
			page, err := w.List(ctx, limiter.Operator, limiter.Filter{})
			if err != nil || !slices.ContainsFunc(page.Keys, func(v limiter.View) bool { return v.ID == good.id }) {
				t.Errorf("it is not listed: %v", err)
			}
			if slices.ContainsFunc(page.Keys, func(v limiter.View) bool { return v.ID == bad.id }) {
				t.Error("what cannot be read is listed")
			}
		}},
		"nodes follow each other": {set: plain,
			before: func(t *testing.T, c *nodes, _ *world, bad, good *key) {
				for _, w := range c.w {
					bad.on(w).use()
					good.on(w).use()
				}
			},
			goesOn: func(t *testing.T, c *nodes, w *world, _, good *key) {
				v, _, err := w.Revoke(ctx, limiter.Operator, good.id, "")
				if err != nil || len(v.Pending) > 0 {
					t.Errorf("its revocation is not felt by %q: %v", v.Pending, err)
				}
				for _, w := range c.w {
					if code := good.on(w).use(); code != record.CodeKeyRevoked {
						t.Errorf("on %s: %q", w.node, code)
					}
				}
			}},
		"a store is opened again": {set: plain,
			before: func(t *testing.T, c *nodes, w *world, bad, good *key) {
				for _, k := range []*key{bad, good} {
					if _, refusal := k.on(w).ask(); refusal != nil {
						t.Fatal(refusal)
					}
				}
			},
			goesOn: func(t *testing.T, c *nodes, w *world, _, good *key) {
				former := w.Limiter
				if err := former.Close(); err != nil {
					t.Log(err)
				}
				if err := w.follow(former, c.Node(w.node)); err != nil {
					t.Fatal(err)
				}
				if v := good.on(w).view(); v.InFlight != 1 {
					t.Errorf("%d requests are known, want the one that runs", v.InFlight)
				}
			}},
		"a node starts after a crash": {set: plain,
			before: func(t *testing.T, c *nodes, w *world, bad, good *key) {
				for _, k := range []*key{bad, good} {
					if _, refusal := k.on(w).ask(); refusal != nil {
						t.Fatal(refusal)
					}
				}
			},
			goesOn: func(t *testing.T, c *nodes, w *world, _, good *key) {
				c.restartKilled(w, false)
				if n := good.on(w).drain(record.CodeActivationsExhausted); n != 99 {
					t.Errorf("%d of the 99 that are left", n)
				}
			}},
	} {
		for which := range rowsOf(t, "key_01M86CH3M0D7699WF51GHGBEE1") {
			t.Run(name+" beside "+which, func(t *testing.T) {
				withNodes(t, 2, func(t *testing.T, c *nodes) {
					w, _ := c.leader()
					bad := w.mint(test.set)
					good := w.mint(test.set)
					if test.before != nil {
						test.before(t, c, w, bad, good)
					}
					c.settle()
					c.spoil(record.RecordKey(bad.id), rowsOf(t, bad.id)[which]...)
					if code := bad.on(w).use(); code != record.CodeStoreUnavailable {
						t.Errorf("what is damaged: %q", code)
					}
					test.goesOn(t, c, w, bad, good)
				})
			})
		}
	}
}

// TestManyDamagedRecordsHoldUpNoSweep: as many as a sweep tries one by one stand before the
// others in the time index.
func TestManyDamagedRecordsHoldUpNoSweep(t *testing.T) {
	within := func(d time.Duration) func(*record.Key) {
		return func(k *record.Key) { k.Limit[record.Activations], k.FirstUseWithin = 100, d }
	}
	withNodes(t, 1, func(t *testing.T, c *nodes) {
		w := c.w[0]
		var bad [][]byte
		for range 2*limiter.SweepKeys + 1 {
			bad = append(bad, record.RecordKey(w.mint(within(time.Hour)).id))
		}
		good := w.mint(within(2 * time.Hour))
		c.Write(t, func(tx store.Tx) (err error) {
			for _, row := range bad {
				err = errors.Join(err, tx.Set(row, []byte("{")))
			}
			return err
		})
		c.pass(3 * time.Hour)
		for range 3 {
			w.SweepDue()
		}
		if acts := w.acts(good.id); !strings.Contains(acts, audit.ActKeyExpired) {
			t.Errorf("it is not recorded as expired: %s", acts)
		}
		early := w.mint(within(time.Hour)) // and then the sweep begins at the front again
		c.pass(2 * time.Hour)
		for range 3 {
			w.SweepDue()
		}
		if acts := w.acts(early.id); !strings.Contains(acts, audit.ActKeyExpired) {
			t.Errorf("a later one is not recorded as expired: %s", acts)
		}
	})
}

// TestADamagedRowOfWhatNodesTellEachOtherHoldsUpNothing: a node that cannot follow admits
// nothing.
func TestADamagedRowOfWhatNodesTellEachOtherHoldsUpNothing(t *testing.T) {
	roles := map[string]record.Role{"maker": {Permissions: []record.Permission{record.KeysCreate}}}
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		a, b := c.w[0], c.w[1]
		secret, caller := a.hire(limiter.Operator, "anna", "maker")
		c.felt(a)
		for name, row := range map[string][]byte{
			"an admin token": record.TokenKey(caller.Token), "events": append(slices.Clone(event.SharedPrefix), "12345678abcdefgh"...),
		} {
			c.spoil(row, row)
			if pending := a.Pending(); len(pending) > 0 {
				t.Errorf("%s: not followed by %q", name, pending)
			}
		}
		if _, err := b.Authenticate(secret, "192.0.2.1"); !errors.Is(err, limiter.ErrToken) {
			t.Errorf("a token whose record cannot be read: %v", err)
		}
		c.restartClean(b)
		if _, err := b.Authenticate(secret, "192.0.2.1"); !errors.Is(err, limiter.ErrToken) {
			t.Errorf("after a start: %v", err)
		}
	}, func(w *world) { w.roles = roles })
}

// TestADamagedMessageHoldsUpNoOthers: those behind it are delivered.
func TestADamagedMessageHoldsUpNoOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hook()
	w.mint(activations(1))
	_, messages := w.waiting()
	if len(messages) != 1 {
		t.Fatalf("%d messages wait", len(messages))
	}
	w.Abandon()
	s := w.disk.Open()
	if err := s.Update(func(tx store.Tx) error {
		var first []byte
		if err := tx.Scan([]byte(record.SpaceOutbox), nil, false, func(key, _ []byte) (bool, error) {
			first = slices.Clone(key)
			return false, nil
		}); err != nil {
			return err
		}
		return tx.Set(first, []byte("{"))
	}); err != nil {
		t.Fatal(err)
	}
	w.kill(false)
	w.mint(activations(1))
	if _, messages = w.waiting(); len(messages) != 1 {
		t.Errorf("%d messages wait, want the one that can be read", len(messages))
	}
}

// TestAnEntryOfAStrangeLengthHoldsUpNoSweep: it is of nothing that there is.
func TestAnEntryOfAStrangeLengthHoldsUpNoSweep(t *testing.T) {
	for name, entry := range map[string]string{
		"of the time index": record.SpaceDue + "\x00", "of the ends": "x/e\x00", "of the last uses": "x/l\x00",
	} {
		t.Run(name, func(t *testing.T) {
			withNodes(t, 1, func(t *testing.T, c *nodes) {
				w := c.w[0]
				w.SweepDue()
				w.SetStale(time.Hour, true)
				k := w.mint(func(k *record.Key) { k.ExpiresAt = w.Now().Add(time.Hour) })
				other := w.mint(activations(1))
				c.Write(t, func(tx store.Tx) error { return tx.Set([]byte(entry), nil) })
				c.pass(2 * time.Hour)
				w.SweepDue()
				if acts := w.acts(k.id); !strings.Contains(acts, audit.ActKeyExpired) {
					t.Errorf("it is not recorded that a key has expired: %s", acts)
				}
				for range 3 {
					c.pass(25 * time.Hour)
					w.SweepStale()
				}
				if v := other.view(); v.Status != record.Revoked {
					t.Errorf("the unused key is %s", v.Status)
				}
				w.Retain(time.Hour)
				c.pass(25 * time.Hour)
				w.SweepEnded()
				for _, k := range []*key{k, other} {
					if _, err := w.Get(limiter.Operator, k.id); !errors.Is(err, store.ErrNotFound) {
						t.Errorf("key %s is not forgotten: %v", k.id, err)
					}
				}
			})
		})
	}
}
