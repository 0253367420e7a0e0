package postgres_test

import (
	"errors"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/postgres"
	"github.com/till-proxy/till/limiter/postgres/postgrestest"
	"github.com/till-proxy/till/limiter/store"
)

// failover is a node that has written to a server with a standby, over a network that
// leads to the one or the other.
type failover struct {
	primary, standby *postgrestest.Server
	network          *postgrestest.Proxy
	node             *postgres.Store
}

func newFailover(t *testing.T) *failover {
	primary := postgrestest.Start(t)
	f := &failover{primary: primary, standby: primary.Standby(t), network: postgrestest.NewProxy(t, primary)}
	f.node = open(t, postgres.Options{DSN: f.network.DSN(), Node: "one"}, nil)
	put(t, f.node, "k/1", "first")
	primary.CaughtUp(t, f.standby)
	return f
}

// promote puts the standby in the primary's place.
func (f *failover) promote(t *testing.T) {
	t.Helper()
	if err := f.primary.Kill(); err != nil {
		t.Fatal(err)
	}
	f.network.To(f.standby)
	f.network.Cut()
	f.network.Heal()
	// A standby that is only read is refused, and is no reason for doubt.
	if err := f.node.Update(func(store.Tx) error { t.Error("it runs"); return nil }); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Update on a standby: %v, want ErrUnavailable", err)
	}
	f.standby.Promote(t)
}

func TestANodeGoesOnWithAStandbyThatHasEverything(t *testing.T) {
	t.Parallel()
	f := newFailover(t)
	put(t, f.node, "k/1", "second")
	f.primary.CaughtUp(t, f.standby)
	f.promote(t)
	if got := get(t, f.node, "k/1"); got != "second" {
		t.Errorf("the row is %q", got)
	}
	put(t, f.node, "k/1", "third")
	eventually(t, "the node is fresh", func() bool { return f.node.Fresh() == nil })
}

func TestANodeDoubtsAStandbyThatLacksItsLastCommit(t *testing.T) {
	t.Parallel()
	f := newFailover(t)
	if err := f.standby.Kill(); err != nil { // it lags
		t.Fatal(err)
	}
	put(t, f.node, "k/1", "lost")
	if err := f.primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := f.standby.Start(); err != nil {
		t.Fatal(err)
	}
	f.promote(t)
	for start := time.Now(); ; {
		err := f.node.Update(func(store.Tx) error { t.Error("it runs"); return nil })
		if errors.Is(err, store.ErrDoubt) {
			break
		}
		if !errors.Is(err, store.ErrUnavailable) || time.Since(start) > eventuallyPatience {
			t.Fatalf("Update: %v, want ErrDoubt", err)
		}
	}
	if err := f.node.Fresh(); !errors.Is(err, store.ErrDoubt) {
		t.Errorf("Fresh: %v, want ErrDoubt", err)
	}
}
