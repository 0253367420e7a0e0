package limiter_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

func TestANodeThatLivesOrIsNotThereCannotBeRemoved(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		if _, err := c.w[0].RemoveNode(ctx, limiter.Operator, c.w[1].node); !errors.Is(err, limiter.ErrNodeLives) {
			t.Errorf("one that lives: %v", err)
		}
		if _, err := c.w[0].RemoveNode(ctx, limiter.Operator, c.w[0].node); !errors.Is(err, limiter.ErrNodeLives) {
			t.Errorf("itself: %v", err)
		}
		if _, err := c.w[0].RemoveNode(ctx, limiter.Operator, "node-x"); !errors.Is(err, limiter.ErrNoNode) {
			t.Errorf("one that is not there: %v", err)
		}
		if _, err := c.w[0].RemoveNode(ctx, limiter.Caller{Name: "ci", Role: "ci"}, c.w[1].node); !errors.Is(err, limiter.ErrForbidden) {
			t.Errorf("by another than the operator: %v", err)
		}
	})
	w := newWorld(t)
	if _, err := w.RemoveNode(ctx, limiter.Operator, "node-a"); !errors.Is(err, limiter.ErrNoNode) {
		t.Errorf("where there are no nodes: %v", err)
	}
}

// TestWhatARemovedNodeHadReservedCountsAsUsed: and nothing else does, also when it comes
// back with its shadow.
func TestWhatARemovedNodeHadReservedCountsAsUsed(t *testing.T) {
	withRole := func(w *world) {
		r := record.NewRole()
		r.Budget.Limit[record.Activations] = 500
		w.roles = map[string]record.Role{"r": r}
	}
	withNodes(t, 3, func(t *testing.T, c *nodes) {
		const limit = 200
		k := c.w[0].mint(func(k *record.Key) { k.Role = "r"; k.Limit[record.Activations] = limit })
		small := c.w[0].mint(activations(5))
		c.settle()
		n := int64(0)
		for range 30 {
			for _, w := range c.w[1:] {
				if code := k.on(w).use(); code != "" {
					t.Fatal(code)
				}
				n++
			}
		}
		if code := small.on(c.w[2]).use(); code != "" {
			t.Fatal(code)
		}
		c.settle()
		const running = 7 // when it dies
		for range running {
			if _, refusal := k.on(c.w[2]).ask(); refusal != nil {
				t.Fatal(refusal)
			}
		}
		gone := c.w[2]
		c.w = c.w[:2]
		c.lose(gone)
		done, err := c.w[0].RemoveNode(ctx, limiter.Operator, gone.node)
		if err != nil || done.Accounts != 3 {
			t.Fatalf("%+v, %v", done, err)
		}
		lost := done.Forfeited[record.Activations] // with those of the other key, and of the role
		c.settle()
		if _, err := c.w[1].RemoveNode(ctx, limiter.Operator, gone.node); !errors.Is(err, limiter.ErrNoNode) {
			t.Errorf("once more: %v", err)
		}
		all, err := c.w[0].Nodes()
		if err != nil || len(all) != 2 {
			t.Errorf("%d nodes, %v", len(all), err)
		}
		lines, err := c.w[1].AuditLines()
		if err != nil || !strings.Contains(lines[len(lines)-1], `"node.remove"`) {
			t.Errorf("the audit log ends with %s, %v", lines[len(lines)-1], err)
		}

		gone.boot(false)
		gone.open(c.Node(gone.node))
		c.w = append(c.w, gone)
		c.settle()
		n += c.drain(k, record.CodeActivationsExhausted)
		if n > limit-running || n < limit-lost {
			t.Errorf("%d requests of %d, of which at least %d and at most %d were lost", n, limit, running, lost)
		}
		if v := k.on(c.w[0]).view(); v.Used[record.Activations] != limit {
			t.Errorf("the key has used %d", v.Used[record.Activations])
		}
		c.settle()
	}, withRole)
}

// A node is seen to be gone before its parts are folded, and may start in between.
func TestANodeThatStartsWhileItIsRemovedKeepsItsParts(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(activations(1000))
		b := k.on(c.w[1])
		for range 3 {
			if code := b.use(); code != "" {
				t.Fatal(code)
			}
		}
		if err := c.w[0].FoldNode(c.w[1].node); !errors.Is(err, limiter.ErrNodeLives) {
			t.Errorf("the parts of a node that lives were folded: %v", err)
		}
		c.settle()
		n := c.drain(k, record.CodeActivationsExhausted)
		if n != 997 {
			t.Errorf("%d more forwarded, want 997", n)
		}
	})
}

// forgetful is a node whose list of nodes cannot be changed once, or whose commits fail
// from then on.
type forgetful struct {
	store.Shared
	fails *bool
}

// Forget implements store.Shared.
func (s forgetful) Forget(node string) error {
	if *s.fails {
		*s.fails = false
		return store.ErrUnavailable
	}
	return s.Shared.Forget(node)
}

// A removal that is cut off is repeated. It is one act, however often it was begun.
func TestARemovalThatIsCutOffAndRepeatedIsOneEntryWithAllThatWasLost(t *testing.T) {
	for _, cut := range []string{"while parts are folded", "after the audit entry"} {
		t.Run(cut, func(t *testing.T) {
			withNodes(t, 2, func(t *testing.T, c *nodes) {
				a, gone := c.w[0], c.w[1]
				if err := a.Close(); err != nil {
					t.Fatal(err)
				}
				fails := cut == "after the audit entry"
				a.open(forgetful{c.Node(a.node), &fails})
				const keys = 100 // more than one transaction
				for range keys {
					if _, refusal := a.mint(activations(5)).on(gone).ask(); refusal != nil {
						t.Fatal(refusal)
					}
				}
				c.w = c.w[:1]
				c.lose(gone)
				if !fails {
					n := 0
					c.Inject(func(string) storetest.Outcome {
						if n++; n >= 3 { // the session is deleted, and one transaction has folded
							return storetest.Refused
						}
						return storetest.Committed
					})
				}
				if _, err := a.RemoveNode(ctx, limiter.Operator, gone.node); err == nil {
					t.Fatal("it was not cut off")
				}
				c.Inject(nil)
				done, err := a.RemoveNode(ctx, limiter.Operator, gone.node)
				if err != nil || done.Accounts != keys || done.Forfeited[record.Activations] != keys {
					t.Errorf("repeated: %+v, %v", done, err)
				}
				entries := a.removals()
				if len(entries) != 1 || !strings.Contains(entries[0], `"after":100`) {
					t.Errorf("the audit log says: %q", entries)
				}
				if err := c.View(func(r store.Reader) error {
					return r.Scan([]byte(record.SpaceNodes+gone.node+"/"), nil, false, func(key, _ []byte) (bool, error) {
						if strings.HasSuffix(string(key), "/removal") {
							t.Errorf("%q is left", key)
						}
						return true, nil
					})
				}); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}
