package postgres_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter/postgres"
	"github.com/till-proxy/till/limiter/store"
)

// TestANodeThatHasVouchedForAServerNeverGoesBack: other nodes may write to the new server
// from then on, and the former one lacks nothing that this node knows of.
func TestANodeThatHasVouchedForAServerNeverGoesBack(t *testing.T) {
	t.Parallel()
	f := newFailover(t)
	f.failOver(t)
	f.network.Lead(f.primary)
	err := f.node.Update(func(store.Tx) error { t.Error("it runs"); return nil })
	if !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Update on the former server: %v, want ErrUnavailable", err)
	}
	if err := join(postgres.Options{DSN: f.network.DSN(), Node: "one", After: f.node}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("the store that follows this one joins on the former server: %v, want ErrUnavailable", err)
	}
	f.network.Lead(f.standby)
	put(t, f.node, "k/1", "second")
	if got := f.standby.Exec(t, "SELECT convert_from(v, 'UTF8') FROM till.kv WHERE k = 'k/1'")[0]; got != "second" {
		t.Errorf("the row is %q", got)
	}
}

// TestANodeGoesBackToAServerThatWasRestarted: all nodes look again at what it has.
func TestANodeGoesBackToAServerThatWasRestarted(t *testing.T) {
	t.Parallel()
	f := newFailover(t)
	f.failOver(t)
	if err := errors.Join(f.primary.Kill(), f.primary.Start()); err != nil {
		t.Fatal(err)
	}
	f.network.Lead(f.primary)
	put(t, f.node, "k/1", "second")
	if n := len(f.primary.Exec(t, "SELECT 1 FROM till.kv WHERE v = 'second'")); n != 1 {
		t.Error("what it has written is not there")
	}
	eventually(t, "the node is fresh", func() bool { return f.node.Fresh() == nil })
}

// TestWhatAServerThatWasLeftSaysIsNoReasonForDoubt: it lacks what was committed since, and may
// be in doubt itself.
func TestWhatAServerThatWasLeftSaysIsNoReasonForDoubt(t *testing.T) {
	t.Parallel()
	for name, pooled := range map[string]bool{"direct": false, "through a pooler": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFailover(t)
			o := postgres.Options{DSN: f.network.DSN(), Node: "two"}
			if pooled {
				o.DSN = f.network.Pooler(t, f.primary)
			}
			two := open(t, o, nil)
			put(t, two, "k/2", "first")
			f.primary.CaughtUp(t, f.standby)
			f.standby.Promote(t)
			read := func() error {
				return two.View(func(r store.Reader) error { _, err := r.Get([]byte("k/2")); return err })
			}
			// A pooler whose login at a server broke off refuses for a moment.
			lead := func() {
				f.network.Lead(f.standby)
				eventually(t, "the node reads from the new server", func() bool { return read() == nil })
			}
			lead()
			put(t, two, "k/2", "second")
			f.primary.Exec(t, "UPDATE till.state SET doubt = 'it lacks a commit'")
			f.network.Lead(f.primary)
			eventually(t, "the node has found the former server", func() bool {
				err := read()
				return err != nil && strings.Contains(err.Error(), "has left this server")
			})
			o.After = two
			for what, err := range map[string]error{
				"Update": two.Update(func(store.Tx) error { t.Error("it runs"); return nil }),
				"View":   read(),
				"Join":   join(o),
			} {
				if !errors.Is(err, store.ErrUnavailable) {
					t.Errorf("%s: %v, want ErrUnavailable", what, err)
				}
			}
			lead()
			if got := get(t, two, "k/2"); got != "second" {
				t.Errorf("the row is %q", got)
			}
		})
	}
}

// TestANodeGoesOnWithTheNewestCopyOnceItWasRestarted: the node has vouched for a server that
// lacks a commit of another one, and what others have written there is not known.
func TestANodeGoesOnWithTheNewestCopyOnceItWasRestarted(t *testing.T) {
	t.Parallel()
	f := newFailover(t)
	two, network := f.second(t)
	f.primary.CaughtUp(t, f.standby)
	f.standby.Lag(t)
	network.Cut() // or it would learn of the commit by renewing its session just then
	put(t, f.node, "k/1", "second")
	f.standby.Promote(t)
	network.To(f.standby)
	network.Heal()
	f.vouchesAs(t, "two")
	f.network.Lead(f.standby)
	eventually(t, "the node is told that a commit is missing", func() bool { return errors.Is(two.Fresh(), store.ErrDoubt) })
	network.Lead(f.primary)
	eventually(t, "the node has seen that it is there", two.Healed)
	o := postgres.Options{DSN: network.DSN(), Node: "two", After: two}
	if err := join(o); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "restart it") {
		t.Errorf("Join: %v, want that it is to be restarted", err)
	}
	if err := errors.Join(f.primary.Kill(), f.primary.Start()); err != nil {
		t.Fatal(err)
	}
	if got := get(t, open(t, o, nil), "k/1"); got != "second" {
		t.Errorf("the row is %q", got)
	}
}

// TestTheConnectionThatListensLeavesTheFormerServer: it still works there, and another
// connection of the node has found the standby in its place.
func TestTheConnectionThatListensLeavesTheFormerServer(t *testing.T) {
	t.Parallel()
	f := newFailover(t)
	f.standby.Promote(t)
	f.network.To(f.standby)
	eventually(t, "the node writes to the standby", func() bool {
		f.primary.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'till' AND pid NOT IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')")
		put(t, f.node, "k/1", "second")
		return len(f.standby.Exec(t, "SELECT 1 FROM till.kv WHERE v = 'second'")) == 1
	})
	now := f.standby.Exec(t, "SELECT now()")[0]
	eventually(t, "the session is renewed on the standby", func() bool {
		return f.standby.Exec(t, "SELECT seen > '"+now+"' FROM till.session")[0] == "t"
	})
	eventually(t, "the node is fresh", func() bool { return f.node.Fresh() == nil })
}

// TestTheLogSaysThatANodeHasLeftTheServer: another reason was there before, and was logged.
func TestTheLogSaysThatANodeHasLeftTheServer(t *testing.T) {
	t.Parallel()
	f := newFailover(t)
	var logged buffer
	open(t, postgres.Options{DSN: f.network.DSN(), Node: "two", Log: slog.New(slog.NewTextHandler(&logged, nil))}, nil)
	says := func(text string) func() bool {
		return func() bool { return strings.Contains(logged.String(), text) }
	}
	f.primary.CaughtUp(t, f.standby)
	f.standby.Promote(t)
	f.network.Lead(f.standby)
	f.vouchesAs(t, "two")
	f.network.Cut()
	eventually(t, "the log says that there is no connection", says("the connection to the database is lost"))
	f.network.To(f.primary)
	f.network.Heal()
	eventually(t, "the log says why", says(`msg="the server of the database is not used: it is tried again" error="this node has left this server`))
}

// TestTheStoreThatFollowsKnowsTheServerThatWasUsedLast: it leaves that one for another, too,
// and never goes back.
func TestTheStoreThatFollowsKnowsTheServerThatWasUsedLast(t *testing.T) {
	t.Parallel()
	f := newFailover(t)
	o := postgres.Options{DSN: f.network.DSN(), Node: "one", After: f.node}
	f.failOver(t)
	if err := errors.Join(f.node.Close(), f.primary.Kill(), f.primary.Start()); err != nil {
		t.Fatal(err)
	}
	f.network.Lead(f.primary)
	next := open(t, o, nil)
	f.network.Lead(f.standby)
	err := next.Update(func(store.Tx) error { t.Error("it runs"); return nil })
	if !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Update: %v, want ErrUnavailable", err)
	}
}

// TestAStoreThatHasVouchedAndNotJoinedBindsTheOneAfterIt: the other nodes may go on with the
// server that it has vouched for.
func TestAStoreThatHasVouchedAndNotJoinedBindsTheOneAfterIt(t *testing.T) {
	t.Parallel()
	f := newFailover(t)
	f.second(t)
	o := postgres.Options{DSN: f.network.DSN(), Node: "one", After: f.node}
	f.primary.CaughtUp(t, f.standby)
	f.standby.Promote(t)
	if err := f.node.Close(); err != nil {
		t.Fatal(err)
	}
	f.standby.Exec(t, "UPDATE till.session SET expires = now() + interval '1 h' WHERE name = 'two'") // which does not come
	f.network.Lead(f.standby)
	joined := make(chan error)
	go func() { joined <- join(o) }()
	f.vouches(t)
	f.network.Cut()
	if err := <-joined; err == nil {
		t.Fatal("it has joined before the other node has vouched")
	}
	f.network.To(f.primary)
	f.network.Heal()
	if err := join(o); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("the next one joins on the former server: %v, want ErrUnavailable", err)
	}
}
