package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/till-proxy/till/limiter/postgres"
	"github.com/till-proxy/till/limiter/postgres/postgrestest"
	"github.com/till-proxy/till/limiter/store"
)

func TestAProcessThatWasKilledLeavesItsNameAtOnce(t *testing.T) {
	t.Parallel()
	server, schema, proxy := ownNetwork(t)
	f := &follower{}
	first := open(t, postgres.Options{DSN: proxy.DSN(), Schema: schema, Node: "one"}, f)
	put(t, first, "k/1", "first")
	proxy.Cut() // as when its process is gone
	second := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "one"}, nil)
	eventually(t, "it is the only node, and lives", func() bool {
		nodes, err := second.Nodes()
		return err == nil && len(nodes) == 1 && nodes[0].Live
	})
	put(t, second, "k/1", "second")
	// The first comes back: it was no kill, and two have one name.
	proxy.Heal()
	eventually(t, "the first is refused", func() bool {
		err := first.Update(func(tx store.Tx) error { return tx.Set([]byte("k/1"), []byte("first again")) })
		return err != nil && !errors.Is(err, store.ErrUnavailable)
	})
	err := first.Update(func(tx store.Tx) error { return tx.Set([]byte("k/1"), []byte("first again")) })
	if err == nil || !strings.Contains(err.Error(), "another process has taken this node's name") {
		t.Errorf("Update of the first: %v", err)
	}
	if err := first.Fresh(); err == nil {
		t.Error("the first is fresh")
	}
	if got := get(t, second, "k/1"); got != "second" {
		t.Errorf("the row is %q", got)
	}
}

func TestANameWhoseConnectionIsHalfOpenIsFreeOnceItsSessionHasExpired(t *testing.T) {
	t.Parallel()
	server, schema, proxy := ownNetwork(t)
	first := open(t, postgres.Options{DSN: proxy.DSN(), Schema: schema, Node: "one"}, nil)
	put(t, first, "k/1", "first")
	defer proxy.Heal() // or the first would not close quickly
	proxy.Hold()
	second := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "one"}, nil)
	if err := first.Fresh(); err == nil {
		t.Error("two have one name, and both are fresh")
	}
	put(t, second, "k/1", "second")
}

func TestANameOfALivingProcessIsRefused(t *testing.T) {
	t.Parallel()
	dsn, schema := postgrestest.Schema(t)
	open(t, postgres.Options{DSN: dsn, Schema: schema, Node: "one"}, nil)
	if err := join(postgres.Options{DSN: dsn, Schema: schema, Node: "one"}); err == nil || !strings.Contains(err.Error(), "a process with this name is alive") {
		t.Errorf("Join: %v", err)
	}
}

// TestALivingProcessKeepsItsNameOverALostConnection: the server may hold the former one, and
// the lock of the name with it, for longer than the process needs to connect again.
func TestALivingProcessKeepsItsNameOverALostConnection(t *testing.T) {
	t.Parallel()
	server, schema := ownSchema(t)
	named := server.DSN() + "&application_name=" + schema // the connection that listens
	first := open(t, postgres.Options{DSN: server.DSN(), Listen: named, Schema: schema, Node: "one"}, nil)
	former, err := pgconn.Connect(t.Context(), server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer former.Close(context.Background())
	// The lock goes from the process to this connection.
	held := "FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND a.application_name = '" + schema + "'"
	lock := server.Exec(t, "SELECT (l.classid::int8 << 32) | l.objid::int8 "+held)
	if len(lock) != 1 {
		t.Fatalf("the process holds the locks %q", lock)
	}
	var got sync.WaitGroup
	got.Go(func() {
		if _, err := former.Exec(t.Context(), "SELECT pg_advisory_lock("+lock[0]+")").ReadAll(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "it waits for the lock, or has got it from a connection that was lost", func() bool {
		return server.Exec(t, "SELECT count(*) FROM pg_locks WHERE pid = "+fmt.Sprint(former.PID())+" AND locktype = 'advisory'")[0] == "1"
	})
	server.Exec(t, "SELECT pg_terminate_backend(pid) "+held)
	got.Wait()
	renewed := func() {
		t.Helper()
		now := server.Exec(t, "SELECT now()")[0]
		eventually(t, "the session is renewed", func() bool {
			return server.Exec(t, "SELECT seen > '"+now+"' FROM "+schema+".session")[0] == "t"
		})
	}
	renewed() // over another connection
	if err := former.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	renewed()
	renewed()
	if err := join(postgres.Options{DSN: server.DSN(), Schema: schema, Node: "one"}); err == nil || !strings.Contains(err.Error(), "a process with this name is alive") {
		t.Errorf("Join of a second process: %v", err)
	}
	put(t, first, "k/1", "first")
}
