package limiter_test

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

// nodes are limiters that share one store. They run in a bubble of testing/synctest,
// where time passes only while all of them wait.
type nodes struct {
	*storetest.Cluster
	t testing.TB
	w []*world
}

// withNodes runs a test of so many nodes. prepare may change how they are opened.
func withNodes(t *testing.T, n int, test func(t *testing.T, c *nodes), prepare ...func(w *world)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { test(t, newNodes(t, n, prepare...)) })
}

func newNodes(t testing.TB, n int, prepare ...func(w *world)) *nodes {
	t.Helper()
	c := &nodes{Cluster: storetest.NewCluster(), t: t}
	c.Rehearse()
	t.Cleanup(c.abandon)
	for i := range n {
		w := c.world(fmt.Sprint("node-", string(rune('a'+i))))
		for _, fn := range prepare {
			fn(w)
		}
		w.open(c.Node(w.node))
		c.w = append(c.w, w)
	}
	return c
}

// world is a node that is not open yet.
func (c *nodes) world(node string) *world {
	w := &world{t: c.t, cluster: c.Cluster, node: node, disk: storetest.NewDisk(), shadow: "shadow"}
	w.files = w.disk.Files()
	return w
}

// abandon ends everything that runs.
func (c *nodes) abandon() {
	for _, w := range c.w {
		c.Kill(w.node)
		w.Abandon()
	}
}

// restartKilled ends a node's process as kill -9 does, or as a power cut, and starts
// another under its name.
func (c *nodes) restartKilled(w *world, power bool) {
	c.t.Helper()
	c.Kill(w.node)
	w.Abandon()
	w.boot(power)
	w.open(c.Node(w.node))
}

// lose ends a node's process as kill -9 does, and lets the others see that it is gone.
func (c *nodes) lose(w *world) {
	c.Kill(w.node)
	w.Abandon()
	c.pass(30 * time.Second)
}

// restartClean stops a node and starts it again.
func (c *nodes) restartClean(w *world) {
	c.t.Helper()
	if err := w.Close(); err != nil {
		c.t.Fatal(err)
	}
	w.open(c.Node(w.node))
}

// pass lets time pass once all nodes have followed what was done before.
func (c *nodes) pass(d time.Duration) {
	synctest.Wait()
	c.Advance(d)
	synctest.Wait()
}

// sweep lets some time pass, after which every node has given back what it does not
// use.
func (c *nodes) sweep() {
	c.t.Helper()
	c.pass(3 * time.Second)
	for _, w := range c.w {
		w.SweepActive()
	}
	c.settle()
}

// unsettled is what a node has reserved of a key and is not known to have used.
func (c *nodes) unsettled(id, node string) (n record.Amounts, err error) {
	part, err := c.partOf(id, node)
	return part.Reserved.Minus(part.Settled), err
}

// partOf is a node's part of a key.
func (c *nodes) partOf(id, node string) (part record.Part, err error) {
	err = c.View(func(r store.Reader) (err error) {
		part, err = limiter.PartOf(r, id, node)
		return err
	})
	return part, err
}

// settle lets all nodes follow.
func (c *nodes) settle() {
	c.t.Helper()
	for _, w := range c.w {
		if err := w.Ping(ctx); err != nil {
			c.t.Fatal(err)
		}
	}
	synctest.Wait()
	if err := c.View(limiter.CheckParts); err != nil {
		c.t.Fatal(err)
	}
}

// drain uses a key on all nodes in turn until each has refused it finally with want,
// and returns how often it worked. What the others hold comes back.
func (c *nodes) drain(k *key, want record.Code, opts ...func(*limiter.Ask)) (n int64) {
	c.t.Helper()
	over := make([]bool, len(c.w))
	for held := 0; slices.Contains(over, false); {
		before := n
		for i, w := range c.w {
			if over[i] {
				continue
			}
			switch code := k.on(w).use(opts...); code {
			case "":
				n++
			case want:
				over[i] = true
			case record.CodeBudgetHeld:
			default:
				c.t.Fatalf("%s, after %d requests: refused with %s, want %s", w.node, n, code, want)
			}
		}
		if held++; n > before {
			held = 0
		}
		if held > 0 && slices.Contains(over, false) {
			if held > 20 {
				c.t.Fatalf("after %d requests: what is held never comes back", n)
			}
			c.sweep()
		}
	}
	return n
}

func TestNodesForwardExactlyTheLimitTogether(t *testing.T) {
	withNodes(t, 3, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(activations(100))
		if n := c.drain(k, record.CodeActivationsExhausted); n != 100 {
			t.Errorf("%d forwarded, want 100", n)
		}
		c.settle()
	})
}

// TestManyNodesForwardExactlyTheLimitTogether has 50 nodes; with TILL_TORTURE 200.
func TestManyNodesForwardExactlyTheLimitTogether(t *testing.T) {
	n := 50
	if os.Getenv(tortureVariable) != "" {
		n = 200
	}
	withNodes(t, n, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(activations(int64(20 * n)))
		if got := c.drain(k, record.CodeActivationsExhausted); got != int64(20*n) {
			t.Errorf("%d forwarded over %d nodes, want %d", got, n, 20*n)
		}
		c.settle()
	})
}

func TestANodeThatHasReservedTheRestIsAskedForIt(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(activations(40))
		a, b := k, k.on(c.w[1])
		for range 30 {
			if code := a.use(); code != "" {
				t.Fatal(code)
			}
		}
		n := 30
		for code := b.use(); code != record.CodeActivationsExhausted; code = b.use() {
			switch code {
			case "":
				n++
			case record.CodeBudgetHeld:
				synctest.Wait() // what was asked for comes back
				time.Sleep(200 * time.Millisecond)
			default:
				t.Fatal(code)
			}
		}
		if n != 40 {
			t.Errorf("%d forwarded, want 40: the other node had reserved the rest and did not use it", n)
		}
	})
}

func TestAKeyIsBoundToOneAddressOnAllNodes(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(func(k *record.Key) { k.Limit[record.Activations], k.Scope.PinIP = 100, true })
		b := k.on(c.w[1])
		k.view() // both have it in memory, without an address
		b.view()
		if code := k.use(from("192.0.2.1")); code != "" {
			t.Fatal(code)
		}
		if code := b.use(from("192.0.2.2")); code != record.CodeIPNotAllowed {
			t.Errorf("another address on another node: %q", code)
		}
		if code := b.use(from("192.0.2.1")); code != "" {
			t.Errorf("the same address on another node: %s", code)
		}
		c.sweep()
		if code := k.use(from("192.0.2.2")); code != record.CodeIPNotAllowed {
			t.Errorf("another address later: %q", code)
		}
	})
}

// TestWhatAnotherNodeKnowsOfAKeysUseCountsInEveryWindow: a node that is still in a former
// window has heard nothing of when and from where the key was used.
func TestWhatAnotherNodeKnowsOfAKeysUseCountsInEveryWindow(t *testing.T) {
	for name, test := range map[string]struct {
		set     func(*record.Key)
		from    string
		refused record.Code
	}{
		"it had to be used in time":     {func(k *record.Key) { k.FirstUseWithin = time.Minute }, "192.0.2.1", ""},
		"it may not be idle":            {func(k *record.Key) { k.IdleTimeout = time.Hour }, "192.0.2.1", ""},
		"it is bound to an address":     {func(k *record.Key) { k.Scope.PinIP = true }, "192.0.2.2", record.CodeIPNotAllowed},
		"it is used from that address":  {func(k *record.Key) { k.Scope.PinIP = true }, "192.0.2.1", ""},
		"none of these, and no address": {func(*record.Key) {}, "192.0.2.2", ""},
	} {
		t.Run(name, func(t *testing.T) {
			withNodes(t, 2, func(t *testing.T, c *nodes) {
				k := c.w[0].mint(func(k *record.Key) { renewing(100, record.Daily)(k); test.set(k) })
				b := k.on(c.w[1])
				b.view() // it has the key in memory, and hears nothing of it from now on
				c.Pause(b.w.node)
				c.pass(30 * time.Second)
				for range 26 {
					if code := k.use(from("192.0.2.1")); code != "" {
						t.Fatal(code)
					}
					c.pass(59 * time.Minute)
				}
				if code := k.use(from("192.0.2.1")); code != "" {
					t.Fatal(code)
				}
				c.Resume(b.w.node)
				synctest.Wait()
				if code := b.use(from(test.from)); code != test.refused {
					t.Errorf("the other node says %q, want %q", code, test.refused)
				}
			})
		})
	}
}

func TestARolesBudgetIsOneForAllNodes(t *testing.T) {
	withNodes(t, 3, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(func(k *record.Key) { k.Role = "ci" })
		if n := c.drain(k, record.CodeActivationsExhausted); n != 50 {
			t.Errorf("%d forwarded, want 50", n)
		}
		c.settle()
	}, func(w *world) {
		w.roles = map[string]record.Role{"ci": {Budget: record.RoleBudget{Limit: record.Amounts{50, -1, -1, -1}}}}
	})
}

func TestAChildIsCarvedOutOfWhatAllNodesHaveLeft(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		p := c.w[0].mint(delegating(activations(100)))
		a, b := p, p.on(c.w[1])
		for range 20 {
			a.use()
			b.use()
		}
		c.sweep()
		if _, err := b.child(activations(80)); err == nil {
			t.Error("a child gets what another node has used")
		}
		child := b.mustChild(activations(30))
		c.settle()
		if n := c.drain(child.on(c.w[0]), record.CodeActivationsExhausted); n != 30 {
			t.Errorf("the child forwarded %d, want 30", n)
		}
		n := c.drain(p, record.CodeActivationsExhausted)
		v := a.view()
		if total := v.Used[0] + v.Delegated[0]; total != 100 || n != 100-30-40-1 {
			t.Errorf("%d forwarded by the parent, %d used and %d delegated", n, v.Used[0], v.Delegated[0])
		}
	})
}

func TestTheAuditLogOfSeveralNodesIsOne(t *testing.T) {
	withNodes(t, 3, func(t *testing.T, c *nodes) {
		for range 5 {
			for _, w := range c.w {
				w.mint(activations(1))
			}
		}
		for _, w := range c.w {
			if _, err := w.AuditVerify(ctx, limiter.Operator); err != nil {
				t.Errorf("%s: %v", w.node, err)
			}
		}
		lines, err := c.w[0].AuditLines()
		if err != nil || len(lines) < 15 {
			t.Errorf("%d entries, want one for each of 15 keys; %v", len(lines), err)
		}
	})
}

func TestARevokedKeyIsRefusedByEveryNode(t *testing.T) {
	withNodes(t, 3, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(activations(100))
		for _, w := range c.w {
			if code := k.on(w).use(); code != "" {
				t.Fatal(code)
			}
		}
		if _, _, err := c.w[1].Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, w := range c.w {
			if code := k.on(w).use(); code != record.CodeKeyRevoked {
				t.Errorf("%s: %q", w.node, code)
			}
		}
	})
}

func TestANodeThatIsCutOffRefusesAfterSevenSeconds(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(activations(1000))
		a, b := k, k.on(c.w[1])
		for range 50 { // it has something reserved
			if code := b.use(); code != "" {
				t.Fatal(code)
			}
		}
		c.Cut(b.w.node)
		if _, _, err := a.w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
			t.Fatal(err)
		}
		c.pass(7*time.Second + time.Millisecond)
		if code := b.use(); code != record.CodeStoreUnavailable {
			t.Errorf("after 7 s: %q", code)
		}
		c.Heal(b.w.node)
		synctest.Wait()
		if code := b.use(); code != record.CodeKeyRevoked {
			t.Errorf("when it is back: %q", code)
		}
	})
}

func TestALookLeavesNothingReserved(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(func(k *record.Key) { k.Limit[record.Activations], k.IdleTimeout = 100, time.Hour })
		c.pass(2 * time.Hour)
		if code := k.use(); code != record.CodeKeyIdle {
			t.Errorf("a key that was not used for too long: %q", code)
		}
		c.sweep()
		if memory, stored, err := k.w.Reserved(k.id); err != nil || memory[record.Activations] != 0 || stored[record.Activations] != 0 {
			t.Errorf("%d are reserved in memory and %d in the store, %v", memory[record.Activations], stored[record.Activations], err)
		}
	})
}
