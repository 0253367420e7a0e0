package limiter_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// A record that cannot be read lets nothing pass that it would have stopped, neither then nor
// once it can be read again.

// mend writes rows, and every node hears of them.
func (c *nodes) mend(rows map[string][]byte) {
	c.t.Helper()
	n := c.Node("stranger")
	if err := errors.Join(n.Join(stranger{}), n.Update(func(tx store.Tx) (err error) {
		for row, value := range rows {
			err = errors.Join(err, tx.Set([]byte(row), value))
		}
		return err
	}), n.Close()); err != nil {
		c.t.Fatal(err)
	}
	synctest.Wait()
}

// TestAChildDoesNotOutliveItsParentsDamage: what the parent allows is not known, and once it
// is again, the child has to follow the parent that is in memory then.
func TestAChildDoesNotOutliveItsParentsDamage(t *testing.T) {
	for which, rows := range rowsOf(t, "key_01M86CH3M0D7699WF51GHGBEE1") {
		if len(rows) > 1 {
			continue // a child does without them
		}
		t.Run(which, func(t *testing.T) {
			withNodes(t, 2, func(t *testing.T, c *nodes) {
				w := c.w[1]
				root := c.w[0].mint(delegating(activations(100)))
				parent := root.mustChild(delegating(activations(50)))
				child := parent.mustChild(activations(20))
				c.settle()
				g, refusal := child.on(w).ask()
				if refusal != nil {
					t.Fatal(refusal)
				}
				c.settle()
				row := rowsOf(t, parent.id)[which][0]
				was := c.row(row)
				c.spoil(record.RecordKey(parent.id), row)
				if g.Cut() == nil {
					t.Error("a request of the child goes on")
				}
				g.Settle(record.Amounts{record.Activations: 1})
				if code := child.on(w).use(); code != record.CodeStoreUnavailable {
					t.Errorf("the child of a key that is damaged: %q", code)
				}
				c.mend(map[string][]byte{string(row): was, string(record.RecordKey(parent.id)): c.row(record.RecordKey(parent.id))})
				if which == "the record" {
					c.mend(map[string][]byte{string(row): was})
				}
				if code := child.on(w).use(); code != "" {
					t.Fatalf("once its parent can be read again: %q", code)
				}
				if _, err := c.w[0].Suspend(limiter.Operator, parent.id); err != nil {
					t.Fatal(err)
				}
				c.settle()
				if code := child.on(w).use(); code != record.CodeKeySuspended {
					t.Errorf("after its parent was suspended: %q", code)
				}
			})
		})
	}
}

// TestWhatWasStoppedStaysStoppedWhileItsRecordIsDamaged: whoever stopped it was told that
// this holds in memory.
func TestWhatWasStoppedStaysStoppedWhileItsRecordIsDamaged(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		w := c.w[0]
		k := w.mint(activations(100))
		if code := k.use(); code != "" {
			t.Fatal(code)
		}
		c.settle()
		row := rowsOf(t, k.id)["the account"][0]
		was := c.row(row)
		c.spoil(row, row) // which no node hears of
		if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err == nil {
			t.Fatal("it is said to be durable")
		}
		c.spoil(record.RecordKey(k.id))
		if code := k.use(); code != record.CodeKeyRevoked {
			t.Errorf("while its record is damaged: %q", code)
		}
		c.mend(map[string][]byte{string(row): was, string(record.RecordKey(k.id)): c.row(record.RecordKey(k.id))})
		if code := k.use(); code != record.CodeKeyRevoked {
			t.Errorf("once it can be read again: %q", code)
		}
		c.pass(time.Minute)
		w.SweepDue()
		c.settle()
		if code := k.on(c.w[1]).use(); code != record.CodeKeyRevoked {
			t.Errorf("on the other node: %q", code)
		}
	})
}

// makers lets a node know a role of those who make keys.
func makers(w *world) {
	w.roles = map[string]record.Role{"maker": {Permissions: []record.Permission{record.KeysCreate}}}
}

// TestATokenWhoseRecordIsOfAnotherDoesNotWork: it can be read, but says nothing of this one.
func TestATokenWhoseRecordIsOfAnotherDoesNotWork(t *testing.T) {
	for name, value := range map[string]func(of []byte) []byte{
		"nothing":       func([]byte) []byte { return []byte("{}") },
		"null":          func([]byte) []byte { return []byte("null") },
		"another token": func(of []byte) []byte { return of },
	} {
		t.Run(name, func(t *testing.T) {
			withNodes(t, 2, func(t *testing.T, c *nodes) {
				a, b := c.w[0], c.w[1]
				secret, caller := a.hire(limiter.Operator, "anna", "maker")
				former, ended := a.hire(limiter.Operator, "bert", "maker")
				c.felt(a)
				living := c.row(record.TokenKey(ended.Token))
				if _, err := a.RevokeToken(limiter.Operator, ended.Token); err != nil {
					t.Fatal(err)
				}
				c.felt(a)
				c.mend(map[string][]byte{string(record.TokenKey(caller.Token)): value(living)})
				for _, w := range []*world{a, b} {
					for who, secret := range map[string]string{"the token": secret, "one that was revoked": former} {
						if _, err := w.Authenticate(secret, "192.0.2.1"); !errors.Is(err, limiter.ErrToken) {
							t.Errorf("%s on %s: %v", who, w.node, err)
						}
					}
				}
				c.restartClean(b)
				for who, secret := range map[string]string{"the token": secret, "one that was revoked": former} {
					if _, err := b.Authenticate(secret, "192.0.2.1"); !errors.Is(err, limiter.ErrToken) {
						t.Errorf("%s after a start: %v", who, err)
					}
				}
			}, makers)
		})
	}
}

// TestATokenThatTurnsOutToBeDamagedStopsWorking: its row was changed behind the server's back,
// and whoever revokes it cannot.
func TestATokenThatTurnsOutToBeDamagedStopsWorking(t *testing.T) {
	for name, meets := range map[string]func(t *testing.T, w *world, by limiter.Caller){
		"when it is revoked": func(t *testing.T, w *world, by limiter.Caller) {
			if _, err := w.RevokeToken(limiter.Operator, by.Token); err == nil {
				t.Error("its end is said to be durable")
			}
		},
		"when its last use is saved": func(t *testing.T, w *world, _ limiter.Caller) { w.SweepAdmin() },
	} {
		t.Run(name, func(t *testing.T) {
			withNodes(t, 1, func(t *testing.T, c *nodes) {
				w := c.w[0]
				c.settle() // the sweep after the start saves uses, too
				secret, caller := w.hire(limiter.Operator, "anna", "maker")
				c.Write(t, func(tx store.Tx) error { return tx.Set(record.TokenKey(caller.Token), []byte("{")) })
				meets(t, w, caller)
				if _, err := w.Authenticate(secret, "192.0.2.1"); !errors.Is(err, limiter.ErrToken) {
					t.Errorf("it still works: %v", err)
				}
			}, makers)
		})
	}
}

// TestADamagedTokenKeepsNobodyFromMakingOthers: its name stays taken.
func TestADamagedTokenKeepsNobodyFromMakingOthers(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		a := c.w[0]
		_, caller := a.hire(limiter.Operator, "anna", "maker")
		c.felt(a)
		c.spoil(record.TokenKey(caller.Token), record.TokenKey(caller.Token))
		a.hire(limiter.Operator, "bert", "maker")
		_, lookup, err := token.MintAdmin()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.CreateToken(limiter.Operator, limiter.TokenSpec{Lookup: lookup, Name: "anna", Role: "maker"}); err == nil {
			t.Error("its name is free")
		}
	}, makers)
}
