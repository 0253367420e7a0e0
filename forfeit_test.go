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
	t.Cleanup(func() {
		if err := e.Destruct(); err != nil {
			t.Error(err)
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

func TestANodeSaysWhatOthersAreConfiguredOtherwise(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t)
	configured := func(e *engine, o storeOptions, common wire.CommonConfiguration) string {
		t.Helper()
		var said logged
		o.log, o.common = slog.New(slog.NewTextHandler(&said, nil)), common.String
		e.mustOpen(t, o)
		e.announce(o)
		e.announce(o)
		return said.String()
	}
	one, o1 := engineOnDatabase(t, server.DSN(), "one")
	two, o2 := engineOnDatabase(t, server.DSN(), "two")
	if said := configured(one, o1, wire.CommonConfiguration{"roles": "1", "retain": "1"}); strings.Contains(said, "otherwise") {
		t.Errorf("a node alone: %s", said)
	}
	said := configured(two, o2, wire.CommonConfiguration{"roles": "2", "retain": "1"})
	if strings.Count(said, `"one: roles"`) != 1 || strings.Contains(said, "retain") {
		t.Errorf("another node: %s", said)
	}
	if said := configured(two, o2, wire.CommonConfiguration{"roles": "1", "retain": "1"}); strings.Contains(said, "otherwise") {
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
	const patience = 2 * time.Minute
	open := func(e *engine, o storeOptions) *limiter.Limiter {
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
	doubted := func(e *engine, o storeOptions) {
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
	id := func(l *limiter.Limiter, lookup token.Lookup) string {
		t.Helper()
		k, refusal := l.Find(t.Context(), lookup)
		if refusal != nil {
			t.Fatal(refusal)
		}
		return k.Key().ID
	}

	l1 := open(one, o1)
	open(two, o2)
	used, revoked := mintIn(t, l1, 100), mintIn(t, l1, 100)
	for range 10 {
		if code := useIn(t, l1, used); code != "" {
			t.Fatal(code)
		}
	}
	if err := l1.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	usedID, revokedID := id(l1, used), id(l1, revoked)
	back := remember(t, server, network)
	l1, l2 := open(one, o1), open(two, o2)
	// A node that has not noticed yet that the server was away may lose touch for a moment.
	for n, deadline := 0, time.Now().Add(patience); n < 10; {
		switch code := useIn(t, l2, used); {
		case code == "":
			n++
		case code != record.CodeStoreUnavailable || time.Now().After(deadline):
			t.Fatal(code)
		}
	}
	minted := mintIn(t, l2, 5)
	for deadline := time.Now().Add(patience); ; {
		_, _, err := l1.Revoke(t.Context(), limiter.Operator, revokedID, "")
		if err == nil {
			break
		}
		if !errors.Is(err, store.ErrUnavailable) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	back()

	doubted(one, o1)
	doubted(two, o2)
	if _, err := one.forfeit(limiter.Caller{Name: "ci", Role: "ci"}, o1, false); !errors.Is(err, limiter.ErrForbidden) {
		t.Errorf("by another than the operator: %v", err)
	}
	would, err := one.forfeit(limiter.Operator, o1, true)
	if err != nil || would.Keys != 2 || would.Forfeited != 2 {
		t.Fatalf("a dry run: %+v, %v", would, err)
	}
	doubted(one, o1)
	done, err := one.forfeit(limiter.Operator, o1, false)
	if err != nil || done != would {
		t.Fatalf("the repair has done %+v, %v, and a dry run said %+v", done, err, would)
	}
	l1, l2 = open(one, o1), open(two, o2) // by itself
	for node, l := range map[string]*limiter.Limiter{"one": l1, "two": l2} {
		for name, lookup := range map[string]token.Lookup{"used": used, "revoked": revoked} {
			if code := useIn(t, l, lookup); code != record.CodeActivationsExhausted {
				t.Errorf("node %s, the key that was %s: %q", node, name, code)
			}
		}
		if code := useIn(t, l, minted); code != record.CodeKeyInvalid {
			t.Errorf("node %s, the key that was minted: %q", node, code)
		}
	}
	if _, err := l1.GrantMore(t.Context(), limiter.Operator, usedID, limiter.More{Activations: 20}); err != nil {
		t.Fatal(err)
	}
	n := 0
	for held := 0; held < 100; {
		before := n
		for _, l := range []*limiter.Limiter{l1, l2} {
			switch code := useIn(t, l, used); code {
			case "":
				n++
			case record.CodeActivationsExhausted, record.CodeBudgetHeld:
			default:
				t.Fatal(code)
			}
		}
		if held++; n > before {
			held = 0
		}
	}
	if n != 20 {
		t.Errorf("%d requests of 20 that were granted", n)
	}
	page, err := l2.Audit(t.Context(), limiter.Operator, audit.Filter{Action: "store.repair"})
	if err != nil || len(page.Entries) != 1 || !strings.Contains(string(page.Entries[0]), `"doubt":`) {
		t.Errorf("the audit log: %s, %v", page.Entries, err)
	}
	if _, err := l2.AuditVerify(t.Context(), limiter.Operator); err != nil {
		t.Error(err)
	}
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
			l, err := former.open(o, 0)
			if err != nil {
				t.Fatal(err)
			}
			key := mintIn(t, l, 100)
			if code := useIn(t, l, key); code != "" {
				t.Fatal(code)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			server.Exec(t, damage)

			e, o := engineOnDatabase(t, server.DSN(), "two")
			if _, err := e.open(o, 0); !errors.Is(err, store.ErrDoubt) {
				t.Fatalf("it is opened: %v", err)
			}
			would, err := e.forfeit(limiter.Operator, o, true)
			if err != nil || would.Keys != 1 || would.Forfeited != 1 {
				t.Fatalf("a dry run: %+v, %v", would, err)
			}
			if doubt := server.Exec(t, `SELECT coalesce(doubt, 'none') FROM till.state`); doubt[0] != "none" {
				t.Errorf("a dry run has told the other nodes: %q", doubt)
			}
			if done, err := e.forfeit(limiter.Operator, o, false); err != nil || done != would {
				t.Fatalf("the repair has done %+v, %v, and a dry run said %+v", done, err, would)
			}
			l = e.mustOpen(t, o)
			if code := useIn(t, l, key); code != record.CodeActivationsExhausted {
				t.Errorf("what was left of the key: %q", code)
			}
			if _, err := l.AuditVerify(t.Context(), limiter.Operator); err != nil {
				t.Error(err)
			}
		})
	}
}
