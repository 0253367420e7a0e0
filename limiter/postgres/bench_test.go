package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/postgres"
	"github.com/till-proxy/till/limiter/postgres/postgrestest"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// cluster is some limiters, each a node of its own, over one database.
type cluster struct {
	t      testing.TB
	schema string
	nodes  []*limiter.Limiter
}

// newCluster opens a node for each address of the shared server.
func newCluster(t testing.TB, dsns ...string) *cluster {
	t.Helper()
	_, schema := postgrestest.Schema(t)
	c := &cluster{t: t, schema: schema}
	for i, dsn := range dsns {
		shadow := filepath.Join(t.TempDir(), "shadow")
		var l *limiter.Limiter
		err := update(func() error {
			s, err := postgres.Open(context.Background(), postgres.Options{DSN: dsn, Schema: schema, Node: "node-" + strconv.Itoa(i)})
			if err != nil {
				return err
			}
			if l, err = limiter.Open(limiter.Options{Store: s, Clock: s.Clock(), Shadow: shadow, Patience: time.Minute}); err != nil {
				return errors.Join(err, s.Close())
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
		c.nodes = append(c.nodes, l)
	}
	return c
}

// mint mints a key on the first node.
func (c *cluster) mint(limit int64) token.Lookup {
	c.t.Helper()
	return mint(c.t, c.nodes[0], limit)
}

// find finds a key on a node.
func (c *cluster) find(node int, lookup token.Lookup) *limiter.Live {
	c.t.Helper()
	k, refusal := c.nodes[node].Find(context.Background(), lookup)
	if refusal != nil {
		c.t.Fatal(refusal.Message)
	}
	return k
}

var oneRequest = limiter.Ask{
	Bound:  record.Amounts{record.Activations: 1},
	Method: "POST", Path: "/v1/chat/completions", Addr: netip.MustParseAddr("192.0.2.1"),
}

// spend admits and settles one request.
func spend(k *limiter.Live) *record.Refusal {
	g := new(limiter.Grant)
	if refusal := k.Reserve(context.Background(), &oneRequest, g); refusal != nil {
		return refusal
	}
	g.Settle(record.Amounts{record.Activations: 1})
	return nil
}

// commits is how many transactions all nodes have committed that wrote something.
func (c *cluster) commits() int64 {
	c.t.Helper()
	return c.number(`SELECT sum(batch) FROM ` + c.schema + `.node`)
}

// transactions is how many transactions there were in the whole database, for whatever
// purpose. The server learns of some only a second later.
func (c *cluster) transactions() int64 {
	c.t.Helper()
	return c.number(`SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()`)
}

func (c *cluster) number(sql string) int64 {
	c.t.Helper()
	n, err := strconv.ParseInt(postgrestest.Shared(c.t).Exec(c.t, sql)[0], 10, 64)
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// BenchmarkHotKey is one key that all nodes use, as fast as they can. Beside the rate
// it reports the transactions for a thousand activations, and how long the slowest
// hundredth of the requests took.
func BenchmarkHotKey(b *testing.B) {
	for _, nodes := range []int{1, 2, 4, 8} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			c := newCluster(b, slices.Repeat([]string{postgrestest.Shared(b).DSN()}, nodes)...)
			lookup := c.mint(1 << 40)
			const each = 8 // requests at a time on each node
			for i := range nodes {
				k := c.find(i, lookup)
				for range 1000 {
					if refusal := spend(k); refusal != nil {
						b.Fatal(refusal.Message)
					}
				}
			}
			took := make([][]time.Duration, nodes*each)
			var made atomic.Int64
			before := c.commits()
			b.ResetTimer()
			var wg sync.WaitGroup
			for i := range took {
				k := c.find(i%nodes, lookup)
				wg.Go(func() {
					for made.Add(1) <= int64(b.N) {
						began := time.Now()
						if refusal := spend(k); refusal != nil {
							b.Error(refusal.Message)
							return
						}
						took[i] = append(took[i], time.Since(began))
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			all := slices.Concat(took...)
			slices.Sort(all)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "activations/s")
			b.ReportMetric(float64(c.commits()-before)*1000/float64(b.N), "commits/1000")
			b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
		})
	}
}

// BenchmarkColdKeys is the first request of each of many keys, all at once, on a node
// that has none of them in memory.
func BenchmarkColdKeys(b *testing.B) {
	dsn := postgrestest.Shared(b).DSN()
	c := newCluster(b, dsn, dsn)
	lookups := make([]token.Lookup, b.N)
	parallel(256, b.N, func(i int) { lookups[i] = c.mint(1000) })
	took := make([]time.Duration, b.N)
	before := c.commits()
	b.ResetTimer()
	parallel(256, b.N, func(i int) {
		began := time.Now()
		if refusal := spend(c.find(1, lookups[i])); refusal != nil {
			b.Error(refusal.Message)
		}
		took[i] = time.Since(began)
	})
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "keys/s")
	b.ReportMetric(float64(c.commits()-before)*1000/float64(b.N), "commits/1000")
	b.ReportMetric(float64(took[b.N*99/100].Microseconds()), "p99-µs")
}

// BenchmarkUnknownKeys is a flood of requests with strings that no key has.
func BenchmarkUnknownKeys(b *testing.B) {
	c := newCluster(b, postgrestest.Shared(b).DSN())
	before := c.transactions()
	b.ResetTimer()
	parallel(256, b.N, func(i int) {
		if _, refusal := c.nodes[0].Find(context.Background(), token.Lookup{byte(i), byte(i >> 8), byte(i >> 16), byte(i >> 24)}); refusal == nil || refusal.Code != record.CodeKeyInvalid {
			b.Errorf("an unknown key: %+v", refusal)
		}
	})
	b.StopTimer()
	time.Sleep(1100 * time.Millisecond) // the server's count is as old
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
	b.ReportMetric(float64(c.transactions()-before)*1000/float64(b.N), "transactions/1000")
}

// BenchmarkSlowKey is a request of a key that has no budget reserved, beside what the
// same database needs for as many commits of one row.
func BenchmarkSlowKey(b *testing.B) {
	c := newCluster(b, postgrestest.Shared(b).DSN())
	lookups := make([]token.Lookup, b.N)
	parallel(64, b.N, func(i int) { lookups[i] = c.mint(1000) })
	keys := make([]*limiter.Live, b.N)
	parallel(64, b.N, func(i int) { keys[i] = c.find(0, lookups[i]) })
	bare, err := pgconn.Connect(context.Background(), postgrestest.Shared(b).DSN())
	if err != nil {
		b.Fatal(err)
	}
	defer bare.Close(context.Background())
	run := func(sql string) {
		if _, err := bare.Exec(context.Background(), sql).ReadAll(); err != nil {
			b.Fatal(err)
		}
	}
	run("CREATE TABLE " + c.schema + ".bare (n int); INSERT INTO " + c.schema + ".bare VALUES (0)")
	took, alone := make([]time.Duration, b.N), make([]time.Duration, b.N)
	b.ResetTimer()
	for i, k := range keys {
		began := time.Now()
		if refusal := spend(k); refusal != nil {
			b.Fatal(refusal.Message)
		}
		took[i] = time.Since(began)
		began = time.Now()
		run("BEGIN; SELECT n FROM " + c.schema + ".bare FOR UPDATE")
		run("UPDATE " + c.schema + ".bare SET n = n + 1; COMMIT")
		alone[i] = time.Since(began)
	}
	b.StopTimer()
	slices.Sort(took)
	slices.Sort(alone)
	for _, at := range []int{50, 99} {
		b.ReportMetric(float64(took[b.N*at/100].Microseconds()), fmt.Sprintf("p%d-µs", at))
		b.ReportMetric(float64(alone[b.N*at/100].Microseconds()), fmt.Sprintf("bare-p%d-µs", at))
	}
}

// parallel calls fn with every number below all, many at a time.
func parallel(many, all int, fn func(i int)) {
	var next atomic.Int64
	var running sync.WaitGroup
	for range min(many, all) {
		running.Go(func() {
			for i := int(next.Add(1)) - 1; i < all; i = int(next.Add(1)) - 1 {
				fn(i)
			}
		})
	}
	running.Wait()
}
