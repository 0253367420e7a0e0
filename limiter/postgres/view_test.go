package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/postgres"
	"github.com/till-proxy/till/limiter/postgres/postgrestest"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// TestWhatBrowsesLeavesRoom holds as many views open as there may be of those that read much.
func TestWhatBrowsesLeavesRoom(t *testing.T) {
	t.Parallel()
	for _, conns := range []int{3, 4, 5, 6, 8} {
		t.Run(fmt.Sprint(conns, " connections"), func(t *testing.T) {
			t.Parallel()
			server, schema := ownSchema(t)
			s := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "one", MaxConns: conns}, nil)
			put(t, s, "k/1", "first")
			var browsing sync.WaitGroup
			began, goOn := make(chan struct{}, 20), make(chan struct{})
			for range cap(began) {
				browsing.Go(func() {
					err := store.Browse(s, func(r store.Reader) error {
						_, err := r.Get([]byte("k/1"))
						began <- struct{}{}
						<-goOn
						return err
					})
					if err != nil && !errors.Is(err, store.ErrUnavailable) {
						t.Error(err)
					}
				})
			}
			<-began
			if conns >= 6 { // the limiter's own work does not wait for others, either
				for range conns - 7 {
					<-began // there is no room for another one
				}
				for range 50 {
					err := update(func() error {
						return store.Upkeep(s, func(r store.Reader) error { _, err := r.Get([]byte("k/1")); return err })
					})
					if err != nil {
						t.Fatal(err)
					}
				}
			}
			for i := range 50 {
				value := fmt.Sprint(i)
				put(t, s, "k/1", value)
				if got := get(t, s, "k/1"); got != value {
					t.Errorf("the row is %q, want %q", got, value)
				}
			}
			close(goOn)
			browsing.Wait()
		})
	}
}

// child mints a child of a key on a node.
func child(t *testing.T, l *limiter.Limiter, parent token.Lookup, is func(k *record.Key)) token.Lookup {
	t.Helper()
	k, refusal := l.Find(t.Context(), parent)
	if refusal != nil {
		t.Fatal(refusal.Message)
	}
	_, lookup, err := token.MintKey()
	if err != nil {
		t.Fatal(err)
	}
	spec := k.Key().Child()
	is(spec)
	ask := &limiter.Ask{Addr: netip.MustParseAddr("192.0.2.1")}
	if _, err := l.Delegate(t.Context(), k, ask, spec, limiter.Birth{Lookup: lookup, Unlimited: true}); err != nil {
		t.Fatal(err)
	}
	return lookup
}

func delegating(n int64) func(k *record.Key) {
	return func(k *record.Key) { k.Delegate, k.Limit[record.Activations] = true, n }
}

// listings are what reads all keys.
var listings = map[string]func(ctx context.Context, l *limiter.Limiter) (keys int, err error){
	"a list": func(ctx context.Context, l *limiter.Limiter) (int, error) {
		page, err := l.List(ctx, limiter.Operator, limiter.Filter{Limit: 500})
		return len(page.Keys), err
	},
	"a list by status": func(ctx context.Context, l *limiter.Limiter) (int, error) {
		page, err := l.List(ctx, limiter.Operator, limiter.Filter{Limit: 500, Status: record.Active})
		return len(page.Keys), err
	},
	"stale keys": func(ctx context.Context, l *limiter.Limiter) (int, error) {
		l.SetStale(1, false)
		defer l.SetStale(0, false)
		page, err := l.Stale(ctx, limiter.Operator, "", 500, "")
		return len(page.Keys), err
	},
	"a count": func(ctx context.Context, l *limiter.Limiter) (int, error) {
		n, err := l.CountMatches(ctx, limiter.Operator, limiter.Filter{Status: record.Active})
		return int(n.Matched), err
	},
}

// listAll waits until a listing has all keys, of which so many have children: a count leaves
// out what was minted just now.
func listAll(t *testing.T, name string, l *limiter.Limiter, all, parents int) {
	t.Helper()
	if name == "stale keys" {
		all -= parents // these are in use
	}
	eventually(t, name+" has all keys", func() bool {
		n, err := listings[name](t.Context(), l)
		if err != nil && !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("%s: %v", name, err)
		}
		return err == nil && n == all
	})
}

// TestThreeConnectionsSufficeForListsOfKeysBelowOthers: none of these keys is in the node's
// memory, and what a key is depends on those above it.
func TestThreeConnectionsSufficeForListsOfKeysBelowOthers(t *testing.T) {
	t.Parallel()
	dsn, schema := postgrestest.Schema(t)
	node := func(name string) *limiter.Limiter {
		return newLimiter(t, postgres.Options{DSN: dsn, Schema: schema, Node: name, MaxConns: 3}, filepath.Join(t.TempDir(), "shadow"))
	}
	b := node("two") // it leads
	a := node("one")
	root := mintAs(t, a, delegating(100))
	child(t, a, child(t, a, root, delegating(50)), activations(10))
	for name := range listings {
		listAll(t, name, b, 3, 2)
	}
	j, err := b.RevokeMany(limiter.Operator, limiter.Filter{Status: record.Active}, false, "")
	if err != nil {
		t.Fatal(err)
	}
	if done, err := b.Await(t.Context(), limiter.Operator, j.Number); err != nil || done.Matched == 0 {
		t.Errorf("%+v, %v", done, err)
	}
	page, err := b.List(t.Context(), limiter.Operator, limiter.Filter{Status: record.Revoked})
	if err != nil || len(page.Keys) != 3 {
		t.Errorf("%d are revoked, %v", len(page.Keys), err)
	}
}

func TestAListOfManyKeysTakesFewRoundTrips(t *testing.T) {
	t.Parallel()
	server := postgrestest.Shared(t)
	proxy := postgrestest.NewProxy(t, server)
	c := newCluster(t, proxy.DSN(), server.DSN())
	const alone, children = 250, 50
	for range alone {
		mint(t, c.nodes[1], 1)
	}
	root := mintAs(t, c.nodes[1], delegating(1000))
	for range children {
		child(t, c.nodes[1], root, func(k *record.Key) { k.Delegate = false; activations(1)(k) })
	}
	const all = alone + children + 1
	for name := range listings {
		// What the node reads meanwhile on its own is counted, too, and may now and then be
		// more. So most listings have to take few.
		var trips []int
		for range 5 {
			proxy.Trips()
			listAll(t, name, c.nodes[0], all, 1)
			eventually(t, "no transaction runs", proxy.Idle)
			trips = append(trips, slices.Max(append(proxy.Trips().Views, 0)))
		}
		slices.Sort(trips)
		if trips[0] == 0 || trips[2] > 20 {
			t.Errorf("%s of %d keys took so many round trips, five times: %v", name, all, trips)
		}
	}
}

// TestLargeRowsAreFetchedInSeveralRoundTrips: each has to end in time, whatever a line carries.
func TestLargeRowsAreFetchedInSeveralRoundTrips(t *testing.T) {
	t.Parallel()
	server, schema := ownSchema(t)
	network := postgrestest.NewProxy(t, server)
	s := open(t, postgres.Options{DSN: network.DSN(), Schema: schema, Node: "one"}, nil)
	writer := open(t, postgres.Options{DSN: server.DSN(), Schema: schema, Node: "two"}, nil)
	const large, size = 60, 100_000
	var keys [][]byte
	want := make(map[string]string)
	for i := range 3 * large {
		key := fmt.Sprintf("k/%03d", i)
		switch keys = append(keys, []byte(key)); i % 3 {
		case 0:
			want[key] = strings.Repeat(key, size/len(key))
		case 1:
			want[key] = key
		default: // there is none
			continue
		}
		put(t, writer, key, want[key])
	}
	rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	views := func(read func(r store.Reader) error) (trips int) {
		t.Helper()
		eventually(t, "no transaction runs", network.Idle)
		network.Trips()
		if err := update(func() error { return s.View(read) }); err != nil {
			t.Fatal(err)
		}
		eventually(t, "no transaction runs", network.Idle)
		return slices.Max(append(network.Trips().Views, 0))
	}
	all := func(r store.Reader) error {
		if err := store.Fetch(r, keys...); err != nil {
			return err
		}
		for _, key := range keys {
			value, _, err := store.Find(r, key)
			if err != nil || string(value) != want[string(key)] {
				return fmt.Errorf("row %s has %d bytes, %w", key, len(value), err)
			}
		}
		return nil
	}
	few := views(func(r store.Reader) error { return store.Fetch(r, []byte("k/001"), []byte("k/002")) })
	if trips := views(all); trips < few+5 || trips > few+8 {
		t.Errorf("6 MB took %d round trips, and two small rows %d", trips, few)
	}
	again := views(func(r store.Reader) error { // it does not keep all of them
		if err := errors.Join(all(r), store.Fetch(r, []byte("k/none"))); err != nil {
			return err
		}
		_, err := r.Get([]byte("k/000"))
		return err
	})
	if trips := views(all); again != trips+2 {
		t.Errorf("a row after 6 MB of others took %d round trips, want 1", again-trips-1)
	}
}
