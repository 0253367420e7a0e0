package postgres_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/postgres"
	"github.com/till-proxy/till/limiter/postgres/postgrestest"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// pair are two limiters over one database.
type pair struct {
	t      *testing.T
	server *postgrestest.Server
	nodes  []*limiter.Limiter
}

// newPair opens two nodes, which reach the server at these addresses.
func newPair(t *testing.T, server *postgrestest.Server, dsn ...string) *pair {
	t.Helper()
	p := &pair{t: t, server: server}
	for i, name := range []string{"one", "two"} {
		p.nodes = append(p.nodes, newLimiter(t, postgres.Options{DSN: dsn[i%len(dsn)], Node: name}, filepath.Join(t.TempDir(), "shadow")))
	}
	return p
}

func newLimiter(t *testing.T, o postgres.Options, shadow string) *limiter.Limiter {
	t.Helper()
	o.Log = slog.New(slog.NewTextHandler(t.Output(), nil)).With("node", o.Node)
	var l *limiter.Limiter
	err := update(func() error {
		s, err := postgres.Open(context.Background(), o)
		if err != nil {
			return err
		}
		if l, err = limiter.Open(limiter.Options{Store: s, Clock: s.Clock(), Shadow: shadow, Logger: o.Log}); err != nil {
			return errors.Join(err, s.Close())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Log(err) // its database may be gone
		}
	})
	return l
}

func mint(t testing.TB, l *limiter.Limiter, n int64) token.Lookup {
	t.Helper()
	return mintAs(t, l, activations(n))
}

func mintAs(t testing.TB, l *limiter.Limiter, is func(k *record.Key)) token.Lookup {
	t.Helper()
	var lookup token.Lookup
	err := update(func() (err error) {
		lookup, err = tryMint(l, is)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lookup
}

func activations(n int64) func(k *record.Key) {
	return func(k *record.Key) { k.Limit[record.Activations] = n }
}

func tryMint(l *limiter.Limiter, is func(k *record.Key)) (token.Lookup, error) {
	_, lookup, err := token.MintKey()
	if err != nil {
		return lookup, err
	}
	spec := &record.Key{Upstream: "openai", Custody: record.CustodyHeld, Limit: record.NoLimits()}
	is(spec)
	_, err = l.Mint(limiter.Operator, spec, limiter.Birth{Lookup: lookup, Unlimited: true})
	return lookup, err
}

// use forwards one request, or returns why not.
func use(l *limiter.Limiter, lookup token.Lookup) record.Code {
	k, refusal := l.Find(context.Background(), lookup)
	if refusal != nil {
		return refusal.Code
	}
	var g limiter.Grant
	ask := limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/v1/x"}
	if refusal := k.Reserve(context.Background(), &ask, &g); refusal != nil {
		return refusal.Code
	}
	g.Settle(record.Amounts{record.Activations: 1})
	return ""
}

// forward forwards one request. A node that has lost touch for a moment, as on a machine that
// does much else, refuses it until then.
func forward(t *testing.T, l *limiter.Limiter, lookup token.Lookup) {
	t.Helper()
	eventually(t, "a request is forwarded", func() bool {
		code := use(l, lookup)
		if code != "" && code != record.CodeStoreUnavailable {
			t.Fatal(code)
		}
		return code == ""
	})
}

// use forwards so many requests on each node, and returns how many those were in all.
func (p *pair) use(lookup token.Lookup, times int) (n int64) {
	p.t.Helper()
	for range times {
		for _, l := range p.nodes {
			forward(p.t, l, lookup)
			n++
		}
	}
	return n
}

// drain uses a key on both nodes until each has refused it finally.
func (p *pair) drain(lookup token.Lookup) int64 {
	p.t.Helper()
	return drain(p.t, lookup, p.nodes...)
}

// drain uses a key on nodes until each has refused it finally. A node that is ready may
// still lose touch for a moment, if what follows the others is late to connect.
func drain(t *testing.T, lookup token.Lookup, nodes ...*limiter.Limiter) (n int64) {
	t.Helper()
	over := make([]bool, len(nodes))
	for deadline := time.Now().Add(eventuallyPatience); slices.Contains(over, false); {
		if time.Now().After(deadline) {
			t.Fatalf("it is not spent after %d requests", n)
		}
		for i, l := range nodes {
			switch code := use(l, lookup); code {
			case "":
				n++
			case record.CodeActivationsExhausted:
				over[i] = true
			case record.CodeBudgetHeld, record.CodeStoreUnavailable:
			default:
				t.Fatalf("after %d requests: %s", n, code)
			}
		}
	}
	return n
}

// shortcoming takes something away from nodes, and gives it back.
type shortcoming struct {
	begin, end func()
}

// TestRequestsAreRefusedWhileTheDatabaseLacksSomethingAndNothingIsLost: what needs the
// database gets 503 and no other answer; afterwards the budget is what it was.
func TestRequestsAreRefusedWhileTheDatabaseLacksSomethingAndNothingIsLost(t *testing.T) {
	t.Parallel()
	const (
		user  = "app"
		limit = 300
	)
	over := func(p *postgrestest.Proxy) string { return p.As(user, "secret") }
	for name, prepare := range map[string]func(t *testing.T, s *postgrestest.Server, network *postgrestest.Proxy) shortcoming{
		"gone": func(t *testing.T, _ *postgrestest.Server, network *postgrestest.Proxy) shortcoming {
			return shortcoming{network.Cut, network.Heal}
		},
		"silent": func(t *testing.T, _ *postgrestest.Server, network *postgrestest.Proxy) shortcoming {
			return shortcoming{network.Hold, network.Heal}
		},
		"crashed": func(t *testing.T, s *postgrestest.Server, _ *postgrestest.Proxy) shortcoming {
			return shortcoming{
				func() {
					if err := s.Kill(); err != nil {
						t.Error(err)
					}
				},
				func() {
					if err := s.Start(); err != nil {
						t.Error(err)
					}
				},
			}
		},
		"read-only": func(t *testing.T, s *postgrestest.Server, network *postgrestest.Proxy) shortcoming {
			reload := func(to string) func() {
				return func() {
					s.Exec(t, "ALTER SYSTEM SET default_transaction_read_only = "+to)
					s.Exec(t, "SELECT pg_reload_conf()")
					eventually(t, "new connections are read-only: "+to, func() bool {
						return s.Exec(t, "SHOW default_transaction_read_only")[0] == to
					})
					network.Cut()
					network.Heal()
				}
			}
			return shortcoming{reload("on"), reload("off")}
		},
		"out of connections": func(t *testing.T, s *postgrestest.Server, network *postgrestest.Proxy) shortcoming {
			return shortcoming{
				func() {
					s.Exec(t, "ALTER ROLE "+user+" CONNECTION LIMIT 0")
					network.Cut()
					network.Heal()
				},
				func() { s.Exec(t, "ALTER ROLE "+user+" CONNECTION LIMIT -1") },
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := postgrestest.Start(t)
			server.Exec(t, "CREATE ROLE "+user+" LOGIN PASSWORD 'secret'; GRANT CREATE ON DATABASE postgres TO "+user)
			network := postgrestest.NewProxy(t, server)
			p := newPair(t, server, over(network))
			k := mint(t, p.nodes[0], limit)
			unused := mint(t, p.nodes[0], 1)
			n := p.use(k, 20)
			lack := prepare(t, server, network)
			lack.begin()
			for _, l := range p.nodes {
				if code := use(l, unused); code != record.CodeStoreUnavailable {
					t.Errorf("a key that needs the database: %q, want %s", code, record.CodeStoreUnavailable)
				}
				if _, err := tryMint(l, activations(1)); err == nil {
					t.Error("a key was minted")
				}
				// A key in use goes on with what its node has, until that is used or
				// the node has lost touch.
				eventually(t, "a key in use is refused", func() bool {
					switch code := use(l, k); code {
					case "":
						n++
						return false
					case record.CodeStoreUnavailable:
						return true
					default:
						t.Fatal(code)
						return true
					}
				})
				if l.Failed() != nil {
					t.Errorf("it does not heal by itself: %v", l.Failed())
				}
			}
			lack.end()
			for _, l := range p.nodes {
				eventually(t, "the node is ready", func() bool { return l.Ready() == nil && l.Ping(t.Context()) == nil })
			}
			if n += p.drain(k); n != limit {
				t.Errorf("%d requests of %d", n, limit)
			}
			if n := p.drain(unused); n != 1 {
				t.Errorf("%d requests of 1", n)
			}
		})
	}
}

// TestNodesWorkThroughAPooler: each transaction may get another connection, and no
// notification arrives.
func TestNodesWorkThroughAPooler(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t)
	p := newPair(t, server, postgrestest.Pooler(t, server))
	k, other := mint(t, p.nodes[0], 100), mint(t, p.nodes[0], 100)
	forward(t, p.nodes[1], other)
	if n := p.drain(k); n != 100 {
		t.Errorf("%d requests of 100", n)
	}
	live, refusal := p.nodes[0].Find(t.Context(), other)
	if refusal != nil {
		t.Fatal(refusal)
	}
	if _, _, err := p.nodes[0].Revoke(t.Context(), limiter.Operator, live.Key().ID, ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other node has followed", func() bool { return len(p.nodes[0].Pending()) == 0 })
	eventually(t, "the other node refuses the key", func() bool {
		code := use(p.nodes[1], other)
		if code != record.CodeKeyRevoked && code != record.CodeStoreUnavailable {
			t.Fatalf("on the other node: %q", code)
		}
		return code == record.CodeKeyRevoked
	})
}
