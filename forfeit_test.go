package till

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/postgres"
	"github.com/till-proxy/till/limiter/postgres/postgrestest"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// engineOnDatabase returns the engine of a node.
func engineOnDatabase(t *testing.T, dsn, node string) (*engine, storeOptions) {
	t.Helper()
	dir := t.TempDir()
	e := newEngine(Place{Identity: dir, Dir: dir, Shared: true}, nil)
	e.patience = patience
	t.Cleanup(func() {
		if err := e.Destruct(); err != nil {
			t.Log(err) // it may have been out of touch for as long as it waits
		}
	})
	log := slog.New(slog.NewTextHandler(t.Output(), nil)).With("node", node)
	options := postgres.Options{DSN: dsn, Node: node, Witness: e.place.File("witness"), Log: log}
	return e, storeOptions{
		log: log,
		open: func(with StoreOpening) (OpenedStore, error) {
			options := options
			options.After, _ = with.After.(*postgres.Store)
			s, err := postgres.Open(t.Context(), options)
			if err != nil {
				return OpenedStore{}, err
			}
			return OpenedStore{Store: s, Clock: s.Clock()}, nil
		},
		doubted: func(_ StoreOpening, why string, look bool) (limiter.Doubted, commit.Clock, error) {
			open, options := postgres.OpenRepair, options
			options.Doubt = why
			if look {
				open = postgres.OpenDoubted
			}
			s, err := open(t.Context(), options)
			if err != nil {
				return nil, nil, err
			}
			return s, s.Clock(), nil
		},
	}
}

// A node may lose touch with a database for a moment at any time: its machine was busy, or its
// connection has just ended. Until it has found it again it refuses what it cannot know. The
// functions below wait for that.

// until repeats what a node without touch cannot do.
func until(t *testing.T, do func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err := do()
		if err == nil {
			return
		}
		if !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrStale) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// inTouch opens the store of a node, and waits until the node has touch with it.
func inTouch(t *testing.T, e *engine, o storeOptions) *limiter.Limiter {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		l, err := e.open(o, 0)
		if err == nil && l.Ready() == nil && l.Ping(t.Context()) == nil {
			return l
		}
		if time.Now().After(deadline) {
			t.Fatalf("the store is not open: %v", err)
		}
	}
}

// inDoubt waits until a node refuses the store because of a doubt.
func inDoubt(t *testing.T, e *engine, o storeOptions) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		l, err := e.open(o, 0)
		if l != nil {
			err = l.Failed()
		}
		if errors.Is(err, store.ErrDoubt) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it is not in doubt: %v", err)
		}
	}
}

// useInTouch is useIn once the node has touch.
func useInTouch(t *testing.T, l *limiter.Limiter, lookup token.Lookup) record.Code {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if code := useIn(t, l, lookup); code != record.CodeStoreUnavailable || time.Now().After(deadline) {
			return code
		}
	}
}

// forfeits repairs a store of so many keys, which all lose what is left of them, and looks
// at what a dry run has left.
func forfeits(t *testing.T, e *engine, o storeOptions, keys int64, afterDryRun func()) {
	t.Helper()
	var would, done limiter.Repaired
	until(t, func() (err error) {
		would, err = e.forfeit(limiter.Operator, o, true)
		return err
	})
	if would.Keys != keys || would.Forfeited != keys {
		t.Fatalf("a dry run: %+v", would)
	}
	afterDryRun()
	until(t, func() (err error) {
		if done, err = e.forfeit(limiter.Operator, o, false); done == would {
			return nil // its store may not have been opened at once
		}
		return err
	})
	if done != would {
		t.Fatalf("the repair has done %+v, and a dry run said %+v", done, would)
	}
}

func TestANodeSaysWhatOthersAreConfiguredOtherwise(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t)
	configured := func(e *engine, o storeOptions, common wire.CommonConfiguration) string {
		t.Helper()
		var said logged
		o.log, o.common = slog.New(slog.NewTextHandler(&said, nil)), common.String
		inTouch(t, e, o)
		e.announce(o)
		e.announce(o)
		return said.String()
	}
	one, o1 := engineOnDatabase(t, server.DSN(), "one")
	two, o2 := engineOnDatabase(t, server.DSN(), "two")
	if said := configured(one, o1, wire.CommonConfiguration{"roles": "1", "retain": "1"}); strings.Contains(said, "differently") {
		t.Errorf("a node alone: %s", said)
	}
	said := ""
	// A node whose session has just expired is not compared.
	for deadline := time.Now().Add(patience); !strings.Contains(said, "differently") && time.Now().Before(deadline); {
		said = configured(two, o2, wire.CommonConfiguration{"roles": "2", "retain": "1"})
	}
	if strings.Count(said, `"one: roles"`) != 1 || strings.Contains(said, "retain") {
		t.Errorf("another node: %s", said)
	}
	if said := configured(two, o2, wire.CommonConfiguration{"roles": "1", "retain": "1"}); strings.Contains(said, "differently") {
		t.Errorf("once they are the same: %s", said)
	}
}

// TestNodesOpenADatabaseThatWentBackOnlyAfterARepair loses requests, a revocation, and a
// mint, in each of the ways there are.
func TestNodesOpenADatabaseThatWentBackOnlyAfterARepair(t *testing.T) {
	t.Parallel()
	for name, remember := range map[string]func(*testing.T, *postgrestest.Server, *postgrestest.Proxy) (back func()){
		"a failover to a standby that lags": func(t *testing.T, primary *postgrestest.Server, network *postgrestest.Proxy) func() {
			standby := primary.Standby(t)
			primary.CaughtUp(t, standby)
			if err := standby.Kill(); err != nil { // it lags from here on
				t.Fatal(err)
			}
			return func() {
				if err := errors.Join(primary.Kill(), standby.Start()); err != nil {
					t.Fatal(err)
				}
				standby.Promote(t)
				network.Lead(standby)
			}
		},
		"a base backup that is restored": func(t *testing.T, s *postgrestest.Server, _ *postgrestest.Proxy) func() {
			return s.Backup(t)
		},
		"a copy of its files, from a stop": func(t *testing.T, s *postgrestest.Server, _ *postgrestest.Proxy) func() {
			if err := s.Kill(); err != nil {
				t.Fatal(err)
			}
			restore := s.Backup(t)
			if err := s.Start(); err != nil {
				t.Fatal(err)
			}
			return restore
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opensOnlyAfterARepair(t, remember)
		})
	}
}

// opensOnlyAfterARepair has a database that remember remembers, and takes back.
func opensOnlyAfterARepair(t *testing.T, remember func(*testing.T, *postgrestest.Server, *postgrestest.Proxy) (back func())) {
	server := postgrestest.Start(t)
	network := postgrestest.NewProxy(t, server)
	one, o1 := engineOnDatabase(t, network.DSN(), "one")
	two, o2 := engineOnDatabase(t, network.DSN(), "two")
	id := func(l *limiter.Limiter, lookup token.Lookup) string {
		t.Helper()
		for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			k, refusal := l.Find(t.Context(), lookup)
			if refusal == nil {
				return k.Key().ID
			}
			if refusal.Code != record.CodeStoreUnavailable || time.Now().After(deadline) {
				t.Fatal(refusal)
			}
		}
	}

	l1 := inTouch(t, one, o1)
	inTouch(t, two, o2)
	used, revoked := mintIn(t, l1, 100), mintIn(t, l1, 100)
	for range 10 {
		if code := useInTouch(t, l1, used); code != "" {
			t.Fatal(code)
		}
	}
	until(t, func() error { return l1.Ping(t.Context()) })
	usedID, revokedID := id(l1, used), id(l1, revoked)
	back := remember(t, server, network)
	l1, l2 := inTouch(t, one, o1), inTouch(t, two, o2)
	for range 10 {
		if code := useInTouch(t, l2, used); code != "" {
			t.Fatal(code)
		}
	}
	minted := mintIn(t, l2, 5)
	until(t, func() error {
		_, _, err := l1.Revoke(t.Context(), limiter.Operator, revokedID, "")
		return err
	})
	back()

	inDoubt(t, one, o1)
	inDoubt(t, two, o2)
	if _, err := one.forfeit(limiter.Caller{Name: "ci", Role: "ci"}, o1, false); !errors.Is(err, limiter.ErrForbidden) {
		t.Errorf("by another than the operator: %v", err)
	}
	forfeits(t, one, o1, 2, func() { inDoubt(t, one, o1) })
	l1, l2 = inTouch(t, one, o1), inTouch(t, two, o2) // by itself
	for node, l := range map[string]*limiter.Limiter{"one": l1, "two": l2} {
		for name, lookup := range map[string]token.Lookup{"used": used, "revoked": revoked} {
			if code := useInTouch(t, l, lookup); code != record.CodeActivationsExhausted {
				t.Errorf("node %s, the key that was %s: %q", node, name, code)
			}
		}
		if code := useInTouch(t, l, minted); code != record.CodeKeyInvalid {
			t.Errorf("node %s, the key that was minted: %q", node, code)
		}
	}
	until(t, func() error {
		_, err := l1.GrantMore(t.Context(), limiter.Operator, usedID, limiter.More{Activations: 20})
		return err
	})
	n := 0
	over := [2]bool{} // refused finally
	for deadline := time.Now().Add(patience); !over[0] || !over[1]; {
		if time.Now().After(deadline) {
			t.Fatalf("it is not spent after %d requests", n)
		}
		for i, l := range []*limiter.Limiter{l1, l2} {
			switch code := useIn(t, l, used); code {
			case "":
				n++
			case record.CodeActivationsExhausted:
				over[i] = true
			case record.CodeBudgetHeld, record.CodeStoreUnavailable:
			default:
				t.Fatal(code)
			}
		}
	}
	if n != 20 {
		t.Errorf("%d requests of 20 that were granted", n)
	}
	until(t, func() error {
		page, err := l2.Audit(t.Context(), limiter.Operator, audit.Filter{Action: "store.repair"})
		if err == nil && (len(page.Entries) != 1 || !strings.Contains(string(page.Entries[0]), `"doubt":`)) {
			t.Errorf("the audit log: %s", page.Entries)
		}
		return err
	})
	until(t, func() error {
		_, err := l2.AuditVerify(t.Context(), limiter.Operator)
		return err
	})
}

// TestADatabaseThatContradictsItselfIsOpenedByARepair: it lacks no commit, so no node has
// said that it doubts the database. Whoever reads what is damaged must have a way out.
func TestADatabaseThatContradictsItselfIsOpenedByARepair(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]string{
		"the last entry of the audit log is missing": `DELETE FROM till.kv WHERE k = (SELECT k FROM till.kv WHERE k >= 'u/' AND k < 'u0' ORDER BY k DESC LIMIT 1)`,
		"the last entry of the audit log is changed": `UPDATE till.kv SET v = v || '\x20' WHERE k = (SELECT k FROM till.kv WHERE k >= 'u/' AND k < 'u0' ORDER BY k DESC LIMIT 1)`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := postgrestest.Start(t)
			former, o := engineOnDatabase(t, server.DSN(), "one")
			l := inTouch(t, former, o)
			key := mintIn(t, l, 100)
			if code := useInTouch(t, l, key); code != "" {
				t.Fatal(code)
			}
			if err := l.Close(); err != nil {
				t.Log(err) // what it could not give back in time is lost as well
			}
			server.Exec(t, damage)

			e, o := engineOnDatabase(t, server.DSN(), "two")
			inDoubt(t, e, o)
			forfeits(t, e, o, 1, func() {
				if doubt := server.Exec(t, `SELECT coalesce(doubt, 'none') FROM till.state`); doubt[0] != "none" {
					t.Errorf("a dry run has told the other nodes: %q", doubt)
				}
			})
			l = inTouch(t, e, o)
			if code := useInTouch(t, l, key); code != record.CodeActivationsExhausted {
				t.Errorf("what was left of the key: %q", code)
			}
			until(t, func() error {
				_, err := l.AuditVerify(t.Context(), limiter.Operator)
				return err
			})
		})
	}
}
