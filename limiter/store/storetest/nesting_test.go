package storetest_test

import (
	"testing"

	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

func TestAViewWithinAViewOrATransactionIsFound(t *testing.T) {
	t.Parallel()
	look := func(s store.Store) error { return s.View(func(store.Reader) error { return nil }) }
	for name, open := range map[string]func(t *testing.T) store.Store{
		"a disk":    func(*testing.T) store.Store { return storetest.NewDisk().Open() },
		"a cluster": func(t *testing.T) store.Store { return storetest.NewCluster().Bystander(t, "a") },
	} {
		for within, run := range map[string]func(s store.Store, fn func() error) error{
			"a view":        func(s store.Store, fn func() error) error { return s.View(func(store.Reader) error { return fn() }) },
			"a transaction": func(s store.Store, fn func() error) error { return s.Update(func(store.Tx) error { return fn() }) },
		} {
			t.Run(name+", "+within, func(t *testing.T) {
				t.Parallel()
				s, other := open(t), open(t)
				found := func(fn func() error) (found bool) {
					defer func() { found = recover() != nil }()
					must(t, run(s, fn))
					return false
				}
				if found(func() error { return look(other) }) {
					t.Error("a view of another store is refused")
				}
				if found(func() error {
					done := make(chan error)
					go func() { done <- look(s) }()
					return <-done
				}) {
					t.Error("a view beside it is refused")
				}
				must(t, look(s)) // after it
				if !found(func() error { return look(s) }) {
					t.Error("a view within it is not found")
				}
			})
		}
	}
}
