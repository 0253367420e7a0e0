package limiter_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// What comes back while it is removed.

// remover is a node that removes another one, which something happens to meanwhile.
type remover struct {
	store.Shared
	listed func()      // once the nodes were listed; it is called once
	fenced func()      // once the other node is fenced
	when   func() bool // before the first transaction for which it holds, then is called
	then   func()
	met    atomic.Bool
}

// Nodes implements store.Shared.
func (r *remover) Nodes() ([]store.Node, error) {
	nodes, err := r.Shared.Nodes()
	if do := r.listed; do != nil {
		r.listed = nil
		do()
	}
	return nodes, err
}

// Fence implements store.Shared.
func (r *remover) Fence(node string) error {
	err := r.Shared.Fence(node)
	if err == nil && r.fenced != nil {
		r.fenced()
	}
	return err
}

// Update implements store.Store.
func (r *remover) Update(fn func(store.Tx) error) error {
	if r.when != nil && r.when() && r.met.CompareAndSwap(false, true) {
		r.then()
	}
	return r.Shared.Update(fn)
}

// removes opens a node again as one that removes another.
func (w *world) removes(c *nodes) *remover {
	w.t.Helper()
	if err := w.Close(); err != nil {
		w.t.Fatal(err)
	}
	r := &remover{Shared: c.Node(w.node)}
	w.open(r)
	return r
}

// heldBack does something else between the look at a row and the next transaction.
type heldBack struct {
	store.Shared
	row         []byte
	meet        func()
	looked, met atomic.Bool
}

func (h *heldBack) View(fn func(store.Reader) error) error {
	return h.Shared.View(func(r store.Reader) error { return fn(&heldBackView{r, h}) })
}

func (h *heldBack) Update(fn func(store.Tx) error) error {
	if h.looked.Load() && h.met.CompareAndSwap(false, true) {
		h.meet()
	}
	return h.Shared.Update(fn)
}

type heldBackView struct {
	store.Reader
	h *heldBack
}

func (l *heldBackView) Get(key []byte) ([]byte, error) {
	if bytes.Equal(key, l.h.row) {
		l.h.looked.Store(true)
	}
	return l.Reader.Get(key)
}

// TestWhatANodeHasUsedCountsOnceIfItStartsWhileItIsRemoved: its parts are folded after it has
// found that its shadow is to be believed, and before it has believed it.
func TestWhatANodeHasUsedCountsOnceIfItStartsWhileItIsRemoved(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		const limit, used = 200, 30
		by := c.w[0].removes(c)
		k := c.w[0].mint(activations(limit))
		c.settle()
		for range used {
			if code := k.on(c.w[1]).use(); code != "" {
				t.Fatal(code)
			}
		}
		back := c.w[1]
		c.lose(back)
		part, err := c.partOf(k.id, back.node)
		if err != nil {
			t.Fatal(err)
		}
		back.boot(false)
		looked, folded, open := make(chan struct{}), make(chan struct{}), make(chan struct{})
		by.fenced = func() {
			go func() {
				defer close(open)
				back.open(&heldBack{Shared: c.Node(back.node), row: record.NodeKey(back.node, "session"), meet: func() {
					close(looked)
					<-folded
				}})
			}()
			<-looked
		}
		by.when, by.then = func() bool { return c.folded(back.node) }, func() {
			close(folded)
			<-open
		}
		if _, err := c.w[0].RemoveNode(ctx, limiter.Operator, back.node); !errors.Is(err, limiter.ErrNodeLives) {
			t.Errorf("it is alive, and was removed: %v", err)
		}
		<-open
		c.settle()
		if n := part.Reserved[record.Activations] + c.drain(k, record.CodeActivationsExhausted); n != limit {
			t.Errorf("%d requests of %d, with %d that were folded", n, limit, part.Reserved[record.Activations])
		}
	})
}

// TestANodeThatBeginsASessionBeforeItsLastOneIsDeletedKeepsItsParts: and it can be removed once
// it has stopped.
func TestANodeThatBeginsASessionBeforeItsLastOneIsDeletedKeepsItsParts(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		a, b := c.w[0], c.w[1]
		by := a.removes(c)
		k := a.mint(activations(100))
		if _, refusal := k.on(b).ask(); refusal != nil {
			t.Fatal(refusal)
		}
		c.settle()
		kill := func() {
			c.lose(b)
			b.boot(false)
		}
		kill()
		by.fenced = func() {
			by.fenced = nil
			b.open(c.Node(b.node))
			kill()
		}
		if _, err := a.RemoveNode(ctx, limiter.Operator, b.node); !errors.Is(err, limiter.ErrNodeLives) {
			t.Errorf("it has begun another session, and was removed: %v", err)
		}
		if done, err := a.RemoveNode(ctx, limiter.Operator, b.node); err != nil || done.Accounts != 1 {
			t.Errorf("once it is gone again: %+v, %v", done, err)
		}
		c.w = c.w[:1]
		if n := 1 + c.drain(k, record.CodeActivationsExhausted); n != 100 {
			t.Errorf("%d requests of 100", n)
		}
	})
}

// TestANodeThatComesBackBeforeItsRemovalIsRecordedWasNotRemoved: and its later removal is
// recorded as any other.
func TestANodeThatComesBackBeforeItsRemovalIsRecordedWasNotRemoved(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		a, b := c.w[0], c.w[1]
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		var meanwhile func()
		a.open(beginning{c.Node(a.node), &meanwhile})
		k := a.mint(activations(1000))
		lose := func() {
			t.Helper()
			if _, refusal := k.on(b).ask(); refusal != nil {
				t.Fatal(refusal)
			}
			c.settle()
			c.lose(b)
		}
		lose()
		var once func()
		once = func() {
			if !c.folded(b.node) {
				meanwhile = once
				return
			}
			b.boot(false)
			b.open(c.Node(b.node))
		}
		meanwhile = once
		if _, err := a.RemoveNode(ctx, limiter.Operator, b.node); !errors.Is(err, limiter.ErrNodeLives) {
			t.Errorf("it is alive, and was removed: %v", err)
		}
		if entries := a.removals(); len(entries) > 0 {
			t.Errorf("it is alive, and the audit log says: %q", entries)
		}
		lose()
		if done, err := a.RemoveNode(ctx, limiter.Operator, b.node); err != nil || done.Accounts != 1 {
			t.Errorf("once it is gone again: %+v, %v", done, err)
		}
		if entries := a.removals(); len(entries) != 1 {
			t.Errorf("once it is gone again, the audit log says: %q", entries)
		}
		c.w = c.w[:1]
	})
}

// folded reports whether parts of a node that is being removed were folded.
func (c *nodes) folded(node string) bool {
	c.t.Helper()
	var done limiter.NodeRemoved
	if err := c.View(func(r store.Reader) error {
		v, there, err := store.Find(r, record.NodeKey(node, "removal"))
		if err != nil || !there {
			return err
		}
		return json.Unmarshal(v, &done)
	}); err != nil {
		c.t.Fatal(err)
	}
	return done.Accounts > 0
}

// removals are the entries of the audit log about nodes that were removed.
func (w *world) removals() (entries []string) {
	w.t.Helper()
	lines, err := w.AuditLines()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, line := range lines {
		if strings.Contains(line, `"node.remove"`) {
			entries = append(entries, line)
		}
	}
	return entries
}

// TestAProcessThatComesBackWhileItsNodeIsRemovedCommitsNothing: otherwise it could go on with
// parts that were folded. What it has used counts once.
func TestAProcessThatComesBackWhileItsNodeIsRemovedCommitsNothing(t *testing.T) {
	for name, beyond := range map[string]int64{"within its bounds": 0, "and an answer has cost more than its bound": 70} {
		for _, late := range []bool{false, true} {
			if late {
				name += ", once its parts are folded"
			}
			t.Run(name, func(t *testing.T) {
				withNodes(t, 2, func(t *testing.T, c *nodes) {
					const used, each = 30, 10
					a, b := c.w[0], c.w[1]
					by, met := a.removes(c), false
					comesBack := func() {
						c.Heal(b.node)
						met = true
					}
					k := a.mint(func(k *record.Key) { k.Limit[record.Activations], k.Limit[record.Tokens] = 100, 1000 })
					for range used {
						g, refusal := k.on(b).ask(bound(record.Tokens, each))
						if refusal != nil {
							t.Fatal(refusal)
						}
						g.Settle(record.Amounts{record.Activations: 1, record.Tokens: each})
					}
					running, refusal := k.on(b).ask(bound(record.Tokens, each))
					if refusal != nil {
						t.Fatal(refusal)
					}
					c.settle()
					c.Cut(b.node)
					running.Settle(record.Amounts{record.Activations: 1, record.Tokens: each + beyond})
					c.pass(30 * time.Second)
					lost, err := c.unsettled(k.id, b.node)
					if err != nil {
						t.Fatal(err)
					}
					if late {
						by.when, by.then = func() bool { return c.folded(b.node) }, comesBack
					} else {
						by.fenced = comesBack
					}
					done, err := a.RemoveNode(ctx, limiter.Operator, b.node)
					if err != nil || done.Accounts != 1 || !met {
						t.Fatalf("%+v, %v", done, err)
					}
					if entries := a.removals(); len(entries) != 1 {
						t.Errorf("the audit log says: %q", entries)
					}
					for range 10 {
						if code := k.on(b).use(bound(record.Tokens, each)); code == "" {
							t.Fatal("it goes on")
						}
						c.pass(time.Second)
					}
					if b.Failed() == nil || b.Contradicted() {
						t.Fatalf("it has not noticed: %v", b.Failed())
					}
					if err := b.succeed(nil); err != nil {
						t.Fatal(err)
					}
					c.sweep()
					v := k.view()
					if n := v.Used[record.Activations]; n < used+1 || n > used+1+lost[record.Activations] {
						t.Errorf("%d requests were made, at most %d lost, and %d count as used", used+1, lost[record.Activations], n)
					}
					if n, made := v.Used[record.Tokens], (used+1)*each+beyond; n < made || n > made+lost[record.Tokens] {
						t.Errorf("%d tokens were used, at most %d lost, and %d count as used", made, lost[record.Tokens], n)
					}
				})
			})
		}
	}
}

// TestANodeThatStartsBeforeItsRemovalBeginsKeepsItsParts: it was seen to be gone just
// before, by a process that was stopped for a while then.
func TestANodeThatStartsBeforeItsRemovalBeginsKeepsItsParts(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		const limit, used = 200, 30
		a, back := c.w[0], c.w[1]
		by := a.removes(c)
		k := a.mint(activations(limit))
		c.lose(back)
		by.listed = func() {
			back.open(c.Node(back.node))
			for range used {
				if code := k.on(back).use(); code != "" {
					t.Fatal(code)
				}
			}
		}
		if done, err := a.RemoveNode(ctx, limiter.Operator, back.node); !errors.Is(err, limiter.ErrNodeLives) || done.Accounts != 0 {
			t.Errorf("it is alive, and was removed: %+v, %v", done, err)
		}
		if code := k.on(back).use(); code != "" || back.Failed() != nil {
			t.Errorf("then it answers %q, and has failed with %v", code, back.Failed())
		}
		if n := used + 1 + c.drain(k, record.CodeActivationsExhausted); n != limit {
			t.Errorf("%d requests of %d", n, limit)
		}
		c.settle()
	})
}
