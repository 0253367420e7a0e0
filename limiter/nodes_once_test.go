package limiter_test

import (
	"errors"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

func TestACallIsDoneOnceWhicheverNodeGetsIt(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		spec := func() *record.Key {
			return &record.Key{Upstream: "openai", Custody: record.CustodyHeld, Limit: record.NoLimits()}
		}
		call := func(w *world, text string, content byte) error {
			_, err := w.tryMint(limiter.Operator.Once(text, [32]byte{content}), spec())
			return err
		}
		errs := make(chan error, 2)
		for _, w := range c.w {
			go func() { errs <- call(w, "it", 1) }()
		}
		first, second := <-errs, <-errs
		if first != nil {
			first, second = second, first
		}
		if first != nil || !errors.Is(second, limiter.ErrReplayed) {
			t.Errorf("two calls at once are answered %v and %v", first, second)
		}
		for _, w := range c.w {
			if err := call(w, "it", 2); !errors.Is(err, limiter.ErrReused) {
				t.Errorf("another call on %s is answered %v", w.node, err)
			}
			replay, known, err := w.Replay(limiter.Operator.Once("it", [32]byte{1}))
			if err != nil || !known || replay.Key == nil {
				t.Errorf("%s knows of it: %v, %+v, %v", w.node, known, replay, err)
			}
			if n, err := w.Onces(); err != nil || n != 1 {
				t.Errorf("%s counts %d, %v", w.node, n, err)
			}
		}
		if err := call(c.w[1], "more", 1); err != nil {
			t.Fatal(err)
		}
		for _, w := range c.w {
			if n, err := w.Onces(); err != nil || n != 2 {
				t.Errorf("%s counts %d, %v", w.node, n, err)
			}
		}
		// Both forget it, at once.
		c.Advance(25 * time.Hour)
		c.settle()
		for _, w := range c.w {
			if err := w.PruneOnces(); err != nil {
				t.Error(err)
			}
			if n, err := w.Onces(); err != nil || n != 0 {
				t.Errorf("a day later, %s counts %d, %v", w.node, n, err)
			}
		}
	})
}

func TestIdempotencyKeysAreBoundedOverAllNodes(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		if err := c.w[0].WriteCommon("onces", "99999"); err != nil {
			t.Fatal(err)
		}
		call := func(w *world, text string) error {
			_, err := w.tryMint(limiter.Operator.Once(text, [32]byte{1}), &record.Key{Upstream: "openai", Custody: record.CustodyHeld, Limit: record.NoLimits()})
			return err
		}
		if err := call(c.w[1], "the last"); err != nil {
			t.Error(err)
		}
		for _, w := range c.w {
			var full *record.InvalidError
			if err := call(w, "one more"); !errors.As(err, &full) {
				t.Errorf("%s answers %v", w.node, err)
			}
		}
	})
}
