package limiter_test

import (
	"encoding/json"
	"io"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// found are the names in a page of a list.
func found(page limiter.Page, err error) ([]string, error) {
	names := []string{}
	for _, v := range page.Keys {
		names = append(names, v.Name)
	}
	slices.Sort(names)
	return names, err
}

// TestKeysBelowOthersAreReadWithoutBeingLoaded: that would be a view within a view, which the
// simulated database finds.
func TestKeysBelowOthersAreReadWithoutBeingLoaded(t *testing.T) {
	all := []string{"child", "leaf", "root"}
	for name, test := range map[string]struct {
		look func(w *world) ([]string, error)
		want []string
	}{
		"a list": {func(w *world) ([]string, error) { return found(w.List(ctx, limiter.Operator, limiter.Filter{})) }, all},
		"a list by status": {func(w *world) ([]string, error) {
			return found(w.List(ctx, limiter.Operator, limiter.Filter{Status: record.Active}))
		}, all},
		"a list by parent": {func(w *world) ([]string, error) {
			page, err := w.List(ctx, limiter.Operator, limiter.Filter{Query: "child"})
			if err != nil || len(page.Keys) != 1 {
				return nil, err
			}
			return found(w.List(ctx, limiter.Operator, limiter.Filter{Parent: page.Keys[0].ID}))
		}, []string{"leaf"}},
		"stale keys": {func(w *world) (names []string, err error) {
			page, err := w.Stale(ctx, limiter.Operator, limiter.StaleNeverUsed, 0, "")
			for _, k := range page.Keys {
				names = append(names, k.Name)
			}
			return names, err
		}, []string{"leaf"}}, // minting is a use
		"a count": {func(w *world) ([]string, error) {
			n, err := w.CountMatches(ctx, limiter.Operator, limiter.Filter{Status: record.Active})
			if n.Matched != 3 || n.Revocable != 3 {
				w.t.Errorf("counted %+v", n)
			}
			return nil, err
		}, nil},
		"the sweep of stale keys": {func(w *world) ([]string, error) {
			w.SetStale(30*day, true)
			w.SweepStale()
			var told []string
			page, err := w.List(ctx, limiter.Operator, limiter.Filter{})
			for _, v := range page.Keys {
				if !v.StaleToldAt.IsZero() {
					told = append(told, v.Name)
				}
			}
			return told, err
		}, []string{"leaf"}}, // the others have children
		"a revocation of many": {func(w *world) ([]string, error) {
			j, err := w.RevokeMany(limiter.Operator, limiter.Filter{Status: record.Active}, false, "")
			if err != nil {
				return nil, err
			}
			if j, err = w.Await(ctx, limiter.Operator, j.Number); err != nil || !j.Done() {
				return nil, err
			}
			return found(w.List(ctx, limiter.Operator, limiter.Filter{Status: record.Revoked}))
		}, all},
	} {
		t.Run(name, func(t *testing.T) {
			withNodes(t, 2, func(t *testing.T, c *nodes) {
				w, others := c.leader()
				k := others[0].mint(delegating(activations(100), func(k *record.Key) { k.Name = "root" }))
				k = k.mustChild(delegating(activations(50), func(k *record.Key) { k.Name = "child" }))
				k.mustChild(func(k *record.Key) { k.Name, k.Delegate, k.Limit[record.Activations] = "leaf", false, 10 })
				c.pass(30 * day)
				if n := w.Loaded(); n != 0 {
					t.Fatalf("%d keys are in memory", n)
				}
				if got, err := test.look(w); err != nil || !slices.Equal(got, test.want) {
					t.Errorf("found %q, %v, want %q", got, err, test.want)
				}
				if n := w.Loaded(); n != 0 && name != "the sweep of stale keys" {
					t.Errorf("it has loaded %d keys", n)
				}
				c.settle()
			})
		})
	}
}

func TestAKeyBelowOthersIsListedAsWhatTheseMakeItWithoutBeingLoaded(t *testing.T) {
	for name, test := range map[string]struct {
		stop func(c *nodes, w *world, root *key) error
		want record.Status
	}{
		"nothing": {func(*nodes, *world, *key) error { return nil }, record.Active},
		"suspended": {func(_ *nodes, w *world, root *key) error {
			_, err := w.Suspend(limiter.Operator, root.id)
			return err
		}, record.Suspended},
		"expired, and not yet swept": {func(c *nodes, _ *world, _ *key) error {
			c.Advance(2 * time.Hour)
			return nil
		}, record.Expired},
		"to be revoked by a job": {func(c *nodes, w *world, _ *key) error {
			go w.RevokeMany(limiter.Operator, limiter.Filter{Name: "root"}, false, "")
			synctest.Wait() // it is durable, and waits for the node that would do it
			return nil
		}, record.Revoked},
	} {
		for _, loaded := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", with the keys above in memory"}[loaded], func(t *testing.T) {
				withNodes(t, 3, func(t *testing.T, c *nodes) {
					leads, others := c.leader()
					away, w := others[0], others[1]
					root := away.mint(delegating(activations(100), func(k *record.Key) {
						k.Name, k.ExpiresAt = "root", away.Now().Add(time.Hour)
					}))
					child := root.mustChild(delegating(activations(50), func(k *record.Key) { k.Name = "child" }))
					leaf := child.mustChild(activations(10))
					synctest.Wait()
					if loaded {
						if code := child.on(w).use(); code != "" {
							t.Fatal(code)
						}
					}
					c.Pause(leads.node) // so nobody does what is left to do
					if err := test.stop(c, away, root); err != nil {
						t.Fatal(err)
					}
					before := w.Loaded()
					page, err := w.List(ctx, limiter.Operator, limiter.Filter{Query: leaf.id})
					if err != nil || len(page.Keys) != 1 {
						t.Fatalf("%d keys, %v", len(page.Keys), err)
					}
					if got := page.Keys[0].Status; got != test.want {
						t.Errorf("it is listed as %s, want %s", got, test.want)
					}
					if w.Loaded() != before {
						t.Error("it was loaded")
					}
					if got := leaf.on(w).view().Status; got != test.want { // which loads it
						t.Errorf("in memory it is %s, want %s", got, test.want)
					}
					c.Resume(leads.node)
				})
			})
		}
	}
}

// TestAKeyIsListedAsItIsInMemory compares the list of a node that has loaded nothing with
// what it says of the same keys once they are loaded.
func TestAKeyIsListedAsItIsInMemory(t *testing.T) {
	withNodes(t, 3, func(t *testing.T, c *nodes) {
		a := c.w[0]
		daily := func(k *record.Key) { k.Renews, k.Limit[record.Activations] = record.Daily, 2 }
		keys := map[string]*key{
			"unlimited": a.mint(func(*record.Key) {}), "limited": a.mint(activations(2)), "daily": a.mint(daily), "idle": a.mint(func(k *record.Key) { k.IdleTimeout = time.Hour }),
			"a parent": a.mint(delegating(func(k *record.Key) { k.Renews, k.Limit[record.Activations] = record.Daily, 10 })),
		}
		keys["a child"] = keys["a parent"].mustChild(delegating(activations(4)))
		keys["a child's"] = keys["a child"].mustChild(activations(2))
		for _, k := range keys {
			for range 2 {
				k.use()
			}
		}
		for i, stage := range []struct {
			when string
			d    time.Duration
		}{{"on the same day", time.Minute}, {"on the next day", day}} {
			c.pass(stage.d)
			c.sweep()
			w := c.w[1+i] // which has loaded nothing
			listed := make(map[string]limiter.View)
			for name, k := range keys {
				page, err := w.List(ctx, limiter.Operator, limiter.Filter{Query: k.id})
				if err != nil || len(page.Keys) != 1 {
					t.Fatalf("%s: %d keys, %v", name, len(page.Keys), err)
				}
				listed[name] = page.Keys[0]
			}
			if n := w.Loaded(); n != 0 {
				t.Fatalf("%d keys are in memory", n)
			}
			for name, got := range listed {
				if want := keys[name].on(w).view(); !reflect.DeepEqual(got, want) {
					t.Errorf("%s, %s: it is listed as\n%+v, and in memory it is\n%+v", name, stage.when, got, want)
				}
			}
		}
	})
}

// TestAKeyThatStandsAboveItselfIsLeftOut: whoever goes up from it has to come to an end.
func TestAKeyThatStandsAboveItselfIsLeftOut(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		a, b := c.w[0], c.w[1]
		root := a.mint(delegating(activations(100)))
		leaf := root.mustChild(activations(10))
		other := a.mint(activations(10))
		c.Write(t, func(tx store.Tx) error {
			v, err := tx.Get(record.RecordKey(root.id))
			if err != nil {
				return err
			}
			key, err := record.DecodeKey(v)
			if err != nil {
				return err
			}
			key.Parent = leaf.id
			if v, err = json.Marshal(key); err != nil {
				return err
			}
			return tx.Set(record.RecordKey(root.id), v)
		})
		page, err := b.List(ctx, limiter.Operator, limiter.Filter{Status: record.Active})
		if err != nil || len(page.Keys) != 1 || page.Keys[0].ID != other.id {
			t.Errorf("%d keys are listed, %v", len(page.Keys), err)
		}
	})
}

// browsing is a node that tells the views that requests may wait for from those that read
// much.
type browsing struct {
	store.Shared
	views, browsed, upkeep atomic.Int64
}

// View implements store.Store.
func (b *browsing) View(fn func(store.Reader) error) error {
	b.views.Add(1)
	return b.Shared.View(fn)
}

// Browse implements store.Browser.
func (b *browsing) Browse(fn func(store.Reader) error) error {
	b.browsed.Add(1)
	return b.Shared.View(fn)
}

// Upkeep implements store.Browser.
func (b *browsing) Upkeep(fn func(store.Reader) error) error {
	b.upkeep.Add(1)
	return b.Shared.View(fn)
}

// opens lets a world's node be one that counts its views.
func (b *browsing) opens(c *nodes) *world {
	w := c.w[0]
	if err := w.Close(); err != nil {
		c.t.Fatal(err)
	}
	b.Shared = c.Node(w.node)
	w.open(b)
	return w
}

// TestWhatTheLimiterItselfReadsWaitsForNobodyWhoBrowses: a backup or a check of the audit log
// may take minutes.
func TestWhatTheLimiterItselfReadsWaitsForNobodyWhoBrowses(t *testing.T) {
	for name, read := range map[string]func(w *world) error{
		"the sweep of stale keys": func(w *world) error {
			w.SweepStale()
			return nil
		},
		"the sweep of histories": func(w *world) error {
			w.SweepIdle()
			return nil
		},
		"a bulk revocation": func(w *world) error {
			j, err := w.RevokeMany(limiter.Operator, limiter.Filter{Status: record.Active}, false, "")
			if err == nil {
				_, err = w.Await(ctx, limiter.Operator, j.Number)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			withNodes(t, 1, func(t *testing.T, c *nodes) {
				b := &browsing{}
				w := b.opens(c)
				w.mint(activations(1)).use()
				w.SweepDue() // lets it lead
				synctest.Wait()
				b.browsed.Store(0)
				b.upkeep.Store(0)
				if err := read(w); err != nil {
					t.Error(err)
				}
				if browsed, upkeep := b.browsed.Load(), b.upkeep.Load(); browsed != 0 || upkeep == 0 {
					t.Errorf("it waits for others %d times, and has room of its own %d times", browsed, upkeep)
				}
			})
		})
	}
}

func TestWhatReadsMuchLeavesRoomForRequests(t *testing.T) {
	for name, read := range map[string]func(w *world) error{
		"a list":        func(w *world) error { _, err := w.List(ctx, limiter.Operator, limiter.Filter{}); return err },
		"stale keys":    func(w *world) error { _, err := w.Stale(ctx, limiter.Operator, "", 0, ""); return err },
		"a count":       func(w *world) error { _, err := w.CountMatches(ctx, limiter.Operator, limiter.Filter{}); return err },
		"the audit log": func(w *world) error { _, err := w.Audit(ctx, limiter.Operator, audit.Filter{}); return err },
		"an export of the audit log": func(w *world) error {
			return w.ExportAudit(ctx, limiter.Operator, func([]byte) error { return nil })
		},
		"a check of the audit log": func(w *world) error { _, err := w.AuditVerify(ctx, limiter.Operator); return err },
		"a backup":                 func(w *world) error { _, err := w.Backup(ctx, limiter.Operator, io.Discard, true); return err },
		"the uses of seal keys":    func(w *world) error { _, err := w.SealUses(ctx, limiter.Operator); return err },
	} {
		t.Run(name, func(t *testing.T) {
			withNodes(t, 1, func(t *testing.T, c *nodes) {
				b := &browsing{}
				w := b.opens(c)
				w.mint(activations(1))
				w.SweepDue() // lets it lead
				synctest.Wait()
				b.views.Store(0)
				b.browsed.Store(0)
				if err := read(w); err != nil {
					t.Error(err)
				}
				if views, browsed := b.views.Load(), b.browsed.Load(); views != 0 || browsed == 0 {
					t.Errorf("it takes %d views that requests may need, and %d others", views, browsed)
				}
			})
		})
	}
}
