package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/till-proxy/till/limiter/postgres/postgrestest"
)

// goalNodes is the goal for the CPU time of a request on a node that shares its store
// with others, relative to stock Caddy; goalTransactions is the goal for the
// transactions of a thousand requests of a busy key.
const (
	goalNodes        = 1.25
	goalTransactions = 40
)

// fleet is some Caddy processes that are loaded at once with one key, with their
// measurements, one value for each round.
type fleet struct {
	sides    []*side
	requests int
	cpu      []time.Duration // of the processes alone, without the database
	p50, p99 []time.Duration
}

// startFleet starts processes that open one store in the database together.
func startFleet(dir, name, to, dsn, site string) (*fleet, error) {
	f := &fleet{}
	for i := range *nodes {
		s, err := startSide(dir, name+"-"+strconv.Itoa(i), to, dsn, site)
		if err == nil {
			f.sides = append(f.sides, s)
			s.key = f.sides[0].key
			err = s.warmUp()
		}
		if err != nil {
			f.end()
			return nil, err
		}
	}
	return f, nil
}

func (f *fleet) end() {
	for _, s := range f.sides {
		end(s.cmd)
	}
}

// reportNodes measures nodes beside as many processes of stock Caddy, and beside a till
// with a store of its own. Any process that has only a part of the load takes more CPU
// time for each request, so one stock process is no measure for two nodes. Stock Caddy
// opens a store in the database, too: Badger's memory would let it collect garbage far
// less often than a node.
func reportNodes(w io.Writer, dir, to string, till *side) (err error) {
	server, err := postgrestest.New()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Remove()) }()
	stock, err := startFleet(dir, "plain", to, server.DSN(), plainProxy(to))
	if err != nil {
		return err
	}
	defer stock.end()
	f, err := startFleet(dir, "node", to, server.DSN(), "till")
	if err != nil {
		return err
	}
	defer f.end()
	if *profiles != "" {
		return errors.Join(till.profile(*profiles), f.sides[0].profile(*profiles))
	}
	database, err := pgconn.Connect(context.Background(), server.DSN())
	if err != nil {
		return err
	}
	defer database.Close(context.Background())
	before, err := transactions(database)
	if err != nil {
		return err
	}
	measure := []func() error{stock.measure, till.measureLoad, f.measure}
	for i := range *rounds {
		for _, side := range measure {
			if err := side(); err != nil {
				return err
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", i+1, *rounds)
		slices.Reverse(measure)
	}
	after, err := transactions(database)
	if err != nil {
		return err
	}
	return f.report(w, stock, till, float64(after-before)*1000/float64(f.requests))
}

// measure loads all of them at once, with as many connections together as a side has.
func (f *fleet) measure() error {
	cpu, took, errs := make([]time.Duration, len(f.sides)), make([][]time.Duration, len(f.sides)), make([]error, len(f.sides))
	var loads sync.WaitGroup
	for i, s := range f.sides {
		loads.Go(func() {
			var err error
			cpu[i], errs[i] = s.spends(func() error {
				took[i], err = s.load(max(1, *parallel/len(f.sides)), *length, body)
				return err
			})
		})
	}
	loads.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	var sum time.Duration
	for _, d := range cpu {
		sum += d
	}
	n := len(all)
	f.requests += n
	f.cpu = append(f.cpu, sum/time.Duration(n))
	f.p50 = append(f.p50, all[n/2])
	f.p99 = append(f.p99, all[n*99/100])
	return nil
}

// transactions returns how many transactions the nodes have committed or rolled back,
// for whatever purpose.
func transactions(database *pgconn.PgConn) (int64, error) {
	time.Sleep(1100 * time.Millisecond) // the server's count may be a second behind
	results, err := database.Exec(context.Background(),
		"SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()").ReadAll()
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(results[0].Rows[0][0]), 10, 64)
}

func (f *fleet) report(w io.Writer, stock *fleet, till *side, per1000 float64) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%d rounds of %s each, in turn; %d connections, %d CPUs, %s; %d nodes and as many stock\nprocesses, each group loaded at once.\nMedians over the rounds; in brackets the rounds' range.\n\n",
		*rounds, *length, *parallel, runtime.NumCPU(), runtime.Version(), len(f.sides))
	fmt.Fprintf(&b, "%-16s %9s %9s %9s   %s\n", "", "stock", "till", "nodes", "nodes / stock")
	ratios := func(of, to []time.Duration) []float64 { return row{till: of, stock: to}.ratios() }
	for _, r := range []struct {
		name               string
		stock, till, nodes []time.Duration
	}{{"CPU a request", stock.cpu, till.cpu, f.cpu}, {"latency p50", stock.p50, till.p50, f.p50}, {"latency p99", stock.p99, till.p99, f.p99}} {
		all := ratios(r.nodes, r.stock)
		fmt.Fprintf(&b, "%-16s %9s %9s %9s   %.3f (%.3f to %.3f)\n", r.name, short(median(r.stock)), short(median(r.till)), short(median(r.nodes)),
			median(all), slices.Min(all), slices.Max(all))
	}
	fmt.Fprintf(&b, "\nBeside till with a store of its own, a node takes %.3f × the CPU time.\n", median(ratios(f.cpu, till.cpu)))
	fmt.Fprintf(&b, "The database had %.1f transactions for 1,000 requests, with those of the time between rounds.\n", per1000)
	judge(&b, "CPU a request on a node", median(ratios(f.cpu, stock.cpu)), goalNodes)
	fmt.Fprintf(&b, "Goal for transactions, at most %d for 1,000 requests: %s with %.1f.\n", goalTransactions, verdict(per1000 <= goalTransactions), per1000)
	_, err := io.WriteString(w, b.String())
	return err
}
