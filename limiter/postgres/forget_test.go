package postgres_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/till-proxy/till/limiter/postgres"
	"github.com/till-proxy/till/limiter/postgres/postgrestest"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

// TestANodeThatWasForgottenIsDoubtedByNobody: its number of commits is kept, and it may
// come back.
func TestANodeThatWasForgottenIsDoubtedByNobody(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t)
	one := open(t, postgres.Options{DSN: server.DSN(), Node: "one"}, nil)
	o := postgres.Options{DSN: server.DSN(), Node: "two", Disk: storetest.NewDisk().Files(), Witness: "witness"}
	two := open(t, o, nil)
	put(t, two, "k/1", "1")
	listed := func() (names []string) {
		t.Helper()
		all, err := one.Nodes()
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range all {
			names = append(names, n.Name)
		}
		return names
	}
	if err := one.Forget("two"); !errors.Is(err, store.ErrAlive) {
		t.Errorf("a node that is alive: %v, want ErrAlive", err)
	}
	if n := len(listed()); n != 2 {
		t.Errorf("%d nodes are listed, want 2", n)
	}
	if err := two.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its session is over", func() bool { // it may not have had the time to end it
		err := one.Forget("two")
		if err != nil && !errors.Is(err, store.ErrAlive) && !errors.Is(err, store.ErrUnavailable) {
			t.Fatal(err)
		}
		return err == nil
	})
	if err := update(func() error { return one.Forget("two") }); err != nil { // a second time changes nothing
		t.Fatal(err)
	}
	if names := listed(); len(names) != 1 {
		t.Errorf("%v are listed, want one", names)
	}
	put(t, one, "k/1", "2")
	renewals := server.Exec(t, "SELECT seen FROM till.session WHERE name = 'one'")[0]
	eventually(t, "the session is renewed", func() bool {
		return server.Exec(t, "SELECT seen FROM till.session WHERE name = 'one'")[0] != renewals
	})
	eventually(t, "the node is fresh", func() bool { return one.Fresh() == nil })
	put(t, open(t, o, nil), "k/1", "3")
	if n := len(listed()); n != 2 {
		t.Errorf("%d nodes are listed once it is back, want 2", n)
	}
}

// TestAnIdleProcessOfANodeThatWasFencedOrForgottenDoesNotGoOn: it was cut off, and taken for
// gone. One that is only fenced stays on the list, and may join again.
func TestAnIdleProcessOfANodeThatWasFencedOrForgottenDoesNotGoOn(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t)
	for i, how := range []struct {
		name   string
		do     func(s *postgres.Store, node string) error
		listed int
	}{{"fenced", (*postgres.Store).Fence, 2}, {"forgotten", (*postgres.Store).Forget, 1}} {
		t.Run(how.name, func(t *testing.T) {
			network := postgrestest.NewProxy(t, server)
			schema := fmt.Sprint("s", i)
			one := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "one"}, nil)
			two := open(t, postgres.Options{DSN: network.DSN(), Schema: schema, Node: "two"}, nil)
			if err := how.do(one, "two"); !errors.Is(err, store.ErrAlive) {
				t.Errorf("a node that is alive: %v, want ErrAlive", err)
			}
			put(t, two, "k/0", "1")
			network.Cut()
			eventually(t, "it is taken for gone", func() bool { return how.do(one, "two") == nil })
			if err := how.do(one, "two"); err != nil { // a second time changes nothing
				t.Error(err)
			}
			nodes, err := one.Nodes()
			if err != nil || len(nodes) != how.listed || how.listed == 2 && nodes[1].Live {
				t.Errorf("%+v, %v", nodes, err)
			}
			network.Heal()
			eventually(t, "it refuses everything", func() bool {
				err := two.Update(func(tx store.Tx) error { return tx.Set([]byte("k/1"), []byte("1")) })
				return err != nil && !errors.Is(err, store.ErrUnavailable)
			})
			if got := get(t, one, "k/1"); got != "" {
				t.Errorf("it has written %q", got)
			}
			put(t, open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "two"}, nil), "k/1", "2")
		})
	}
}
