package postgres_test

import (
	"errors"
	"testing"

	"github.com/till-proxy/till/limiter/postgres"
	"github.com/till-proxy/till/limiter/postgres/postgrestest"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

// loseCommits takes the server back to before the last commit of a node.
func loseCommits(t *testing.T, server *postgrestest.Server, node string) {
	t.Helper()
	server.Exec(t, "UPDATE till.node SET batch = batch - 1 WHERE name = '"+node+"'")
}

func doubts(s store.Shared) func() bool {
	return func() bool { return errors.Is(s.Fresh(), store.ErrDoubt) }
}

func TestADoubtOfOneNodeClosesAll(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t)
	one := open(t, postgres.Options{DSN: server.DSN(), Node: "one"}, nil)
	two := open(t, postgres.Options{DSN: server.DSN(), Node: "two"}, nil)
	put(t, one, "k/1", "lost")
	loseCommits(t, server, "one")
	nothing := func(store.Tx) error { t.Error("it runs"); return nil }
	if err := update(func() error { return one.Update(nothing) }); !errors.Is(err, store.ErrDoubt) {
		t.Fatalf("Update: %v, want ErrDoubt", err)
	}
	eventually(t, "the other node doubts it, too", doubts(two))
	if err := two.Update(nothing); !errors.Is(err, store.ErrDoubt) {
		t.Errorf("Update on the other node: %v, want ErrDoubt", err)
	}
	// The other node may have found it out by itself, before the first could tell.
	eventually(t, "the doubt is in the database", func() bool {
		return server.Exec(t, "SELECT doubt IS NOT NULL FROM till.state")[0] == "t"
	})
	if err := join(postgres.Options{DSN: server.DSN(), Node: "three"}); !errors.Is(err, store.ErrDoubt) {
		t.Errorf("a new node: %v, want ErrDoubt", err)
	}
	if two.Healed() {
		t.Error("it counts as healed")
	}
}

func TestADatabaseThatHasEverythingAgainIsNotDoubted(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t)
	network := postgrestest.NewProxy(t, server)
	one := open(t, postgres.Options{DSN: network.DSN(), Node: "one"}, nil)
	put(t, one, "k/1", "1")
	older := server.Standby(t)
	server.CaughtUp(t, older)
	older.Promote(t)
	put(t, one, "k/1", "2")
	network.Lead(older)
	eventually(t, "the node doubts the copy", doubts(one))
	network.Lead(server)
	eventually(t, "the node knows that the newest is back", one.Healed)
}

func TestARepairLetsAllNodesBeginAgain(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t)
	disk := storetest.NewDisk().Files()
	options := func(node string) postgres.Options {
		return postgres.Options{DSN: server.DSN(), Node: node, Disk: disk, Witness: "witness-" + node}
	}
	one, two := open(t, options("one"), nil), open(t, options("two"), nil)
	put(t, one, "k/1", "lost")
	if _, err := postgres.OpenRepair(t.Context(), options("one")); !errors.Is(err, postgres.ErrCertain) {
		t.Fatalf("a repair of what is in order: %v", err)
	}
	loseCommits(t, server, "one")
	eventually(t, "one doubts it", doubts(one))
	eventually(t, "the other does, too", doubts(two))
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}

	look, err := postgres.OpenDoubted(t.Context(), options("one"))
	if err != nil {
		t.Fatal(err)
	}
	if look.Why() == "" {
		t.Error("it does not say why")
	}
	if err := look.Update(func(tx store.Tx) error { return tx.Set([]byte("k/1"), []byte("looked")) }); err == nil {
		t.Error("what only looks writes")
	}
	if err := look.Close(); err != nil {
		t.Fatal(err)
	}

	former, err := postgres.OpenRepair(t.Context(), options("one"))
	if err != nil {
		t.Fatal(err)
	}
	defer former.Close()
	r, err := postgres.OpenRepair(t.Context(), options("one")) // the former was cut off
	if err != nil {
		t.Fatal(err)
	}
	set := func(value string) func(store.Tx) error {
		return func(tx store.Tx) error { return tx.Set([]byte("k/1"), []byte(value)) }
	}
	if err := former.Update(set("former")); err == nil {
		t.Error("a repair goes on after another has begun")
	}
	if err := r.Update(set("page")); err != nil {
		t.Fatal(err)
	}
	if two.Healed() {
		t.Error("a repair counts before its end")
	}
	if err := r.Finish(set("repaired")); err != nil {
		t.Fatal(err)
	}
	if err := r.Update(set("too late")); err == nil {
		t.Error("a repair goes on after its end")
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other node can begin again", two.Healed)
	if err := two.Close(); err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"one", "two"} {
		s := open(t, options(node), nil)
		if got := get(t, s, "k/1"); got != "repaired" {
			t.Errorf("%s reads %q", node, got)
		}
		put(t, s, "k/"+node, "1")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		open(t, options(node), nil) // and its witness agrees
	}
}

// TestANodeThatHasSeenARepairDoubtsACopyOfBefore: its numbers of commits are void, but
// not the repair itself.
func TestANodeThatHasSeenARepairDoubtsACopyOfBefore(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t)
	o := postgres.Options{DSN: server.DSN(), Node: "one", Disk: storetest.NewDisk().Files(), Witness: "witness"}
	s := open(t, o, nil)
	server.Exec(t, "UPDATE till.state SET generation = 7")
	eventually(t, "a session that was begun before ends", doubts(s))
	eventually(t, "and the next can begin", s.Healed)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, o, nil).Close(); err != nil {
		t.Fatal(err)
	}
	server.Exec(t, "UPDATE till.state SET generation = 6")
	if err := join(o); !errors.Is(err, store.ErrDoubt) {
		t.Errorf("Join: %v, want ErrDoubt", err)
	}
}
