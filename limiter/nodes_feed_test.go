package limiter_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// heard are the names of the events that a feed has, in order.
func heardOn(t *testing.T, f *event.Feed) (names []string) {
	t.Helper()
	for {
		e, err := f.Next(context.Background(), time.Millisecond)
		if err != nil {
			return append(names, err.Error())
		}
		if e == nil {
			return names
		}
		about := ""
		if e.Key != nil {
			about = " " + e.Key.Name
		}
		names = append(names, string(e.Name)+about)
	}
}

func TestAFeedTellsWhatHappensOnAnyNode(t *testing.T) {
	withNodes(t, 2, func(t *testing.T, c *nodes) {
		a, b := c.w[0], c.w[1]
		feeds := make([]*event.Feed, 2)
		for i, w := range c.w {
			var err error
			if feeds[i], err = w.Subscribe(limiter.Operator); err != nil {
				t.Fatal(err)
			}
		}
		k := a.mint(func(k *record.Key) { k.Name, k.Limit[record.Activations] = "x", 2 })
		c.felt(a)
		k.on(b).use()
		if _, _, err := b.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
			t.Fatal(err)
		}
		c.felt(b)
		want := []string{"key_created x", "key_threshold x", "key_revoked x"}
		for i, f := range feeds {
			if got := heardOn(t, f); !slices.Equal(got, want) {
				t.Errorf("%s tells %q, want %q", c.w[i].node, got, want)
			}
		}
		// What is told is removed again.
		c.Advance(2 * time.Minute)
		c.settle()
		for _, w := range c.w {
			w.SweepAdmin()
		}
		if err := c.View(func(r store.Reader) error {
			return r.Scan(record.CommonKey("events/"), nil, false, func(key, _ []byte) (bool, error) {
				return false, fmt.Errorf("the store keeps %q", bytes.ToValidUTF8(key, []byte("?")))
			})
		}); err != nil {
			t.Error(err)
		}
	})
}

func TestAFeedEndsWhereItCannotTellEverything(t *testing.T) {
	for name, act := range map[string]func(c *nodes, leads, reads *world){
		"too much at once": func(c *nodes, leads, _ *world) {
			for range 100 {
				leads.mint(ownedBy("anna"))
			}
			c.felt(leads)
			leads.revokeAll("anna")
		},
		"out of touch": func(c *nodes, leads, reads *world) {
			c.Cut(reads.node)
			c.Advance(time.Minute)
			leads.mint(ownedBy("anna"))
			c.Heal(reads.node)
			c.Advance(4 * time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			withNodes(t, 2, func(t *testing.T, c *nodes) {
				leads, others := c.leader()
				f, err := others[0].Subscribe(limiter.Operator)
				if err != nil {
					t.Fatal(err)
				}
				act(c, leads, others[0])
				time.Sleep(30 * time.Second)
				synctest.Wait()
				if got := heardOn(t, f); !slices.Contains(got, event.ErrFeedClosed.Error()) {
					t.Errorf("it tells %q", got)
				}
			})
		})
	}
}
