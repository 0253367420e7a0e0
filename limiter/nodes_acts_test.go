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
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// leader is the node that does what one does for all, and the others.
func (c *nodes) leader() (leads *world, others []*world) {
	c.t.Helper()
	for _, w := range c.w {
		w.SweepDue() // lets one of them lead
	}
	all, err := c.w[0].Nodes()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, w := range c.w {
		if slices.ContainsFunc(all, func(n store.Node) bool { return n.Name == w.node && n.Leads }) {
			leads = w
		} else {
			others = append(others, w)
		}
	}
	if leads == nil {
		c.t.Fatalf("nobody leads: %+v", all)
	}
	return leads, others
}

// felt fails unless every node has followed what is durable.
func (c *nodes) felt(w *world) {
	c.t.Helper()
	if pending := w.Pending(); len(pending) > 0 {
		c.t.Fatalf("not felt on %q", pending)
	}
}

func TestTheClockIsTheDatabasesAndRepairedForAllNodes(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		a, b := c.w[0], c.w[1]
		a.mint(activations(1))
		if err := c.View(func(r store.Reader) error {
			_, err := r.Get(record.MetaClock)
			return err
		}); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the time was written: %v", err)
		}
		for _, w := range c.w {
			c.Skew(w.node, -time.Hour)
			if off := w.Stats().ClockOff; off > -time.Hour+time.Minute {
				t.Errorf("%s says that it is %s off", w.node, off)
			}
		}
		if _, err := a.RepairClock(limiter.Operator); err != nil {
			t.Fatal(err)
		}
		c.felt(a)
		for _, w := range c.w {
			if off := w.Stats().ClockOff; off != 0 {
				t.Errorf("after the repair %s says that it is %s off", w.node, off)
			}
		}
		b.mint(activations(1))
		var repairs int
		for _, line := range b.auditLines() {
			repairs += strings.Count(line, audit.ActClockRepair)
		}
		if repairs != 1 {
			t.Errorf("the audit log says that it was repaired %d times", repairs)
		}
	})
}

func TestAChangeIsFeltOnAllNodesWhenItIsAnswered(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(activations(100))
		b := k.on(c.w[1])
		if code := b.use(); code != "" {
			t.Fatal(code)
		}
		c.Lose(b.w.node, true)
		if _, err := c.w[0].Change(ctx, limiter.Operator, k.id, 0, func(key *record.Key) error {
			key.Scope.Methods = []string{"GET"}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if code := b.use(); code == "" {
			t.Error("a request is admitted that the scope no longer allows")
		}
	})
}

func TestAKeyThatAnotherNodeHasJustRevivedIsNotForgotten(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		k := c.w[0].mint(activations(1))
		b := k.on(c.w[1])
		if code := b.use(); code != "" {
			t.Fatal(code)
		}
		if code := b.use(); code != record.CodeActivationsExhausted {
			t.Fatal(code)
		}
		c.sweep()
		c.Lose(b.w.node, true) // it hears of the grant later
		granted := make(chan error, 1)
		go func() {
			_, err := c.w[0].GrantMore(ctx, limiter.Operator, k.id, limiter.More{Activations: 5})
			granted <- err
		}()
		synctest.Wait()
		if err := b.w.Forget(ctx, limiter.Operator, k.id); !errors.Is(err, limiter.ErrAlive) {
			t.Errorf("forgetting a key that was just granted more: %v", err)
		}
		if err := <-granted; err != nil {
			t.Fatal(err)
		}
		if n := c.drain(k, record.CodeActivationsExhausted); n != 5 {
			t.Errorf("%d forwarded, want 5", n)
		}
	})
}
