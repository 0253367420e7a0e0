package till

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

// takePart deletes a node's parts of all accounts.
func takePart(t *testing.T, c *storetest.Cluster, node string) {
	t.Helper()
	c.Write(t, func(tx store.Tx) error {
		var all [][]byte
		err := tx.Scan([]byte(record.SpaceParts), nil, false, func(key, _ []byte) (bool, error) {
			if bytes.HasSuffix(key, []byte(node)) {
				all = append(all, bytes.Clone(key))
			}
			return true, nil
		})
		for _, key := range all {
			err = errors.Join(err, tx.Delete(key))
		}
		return err
	})
}

// engineOnCluster returns the engine of node one of a database, and where it logs. A node that
// stands still for some seconds loses touch, and refuses like one that is contradicted, so its
// tests are in bubbles.
func engineOnCluster(t *testing.T, dir string) (*storetest.Cluster, *engine, storeOptions, *logged) {
	t.Helper()
	cluster, said := storetest.NewCluster(), new(logged)
	e := newEngine(Place{Identity: dir, Dir: dir, Shared: true}, nil)
	e.patience = patience
	t.Cleanup(func() {
		if err := e.Destruct(); err != nil {
			t.Error(err)
		}
	})
	return cluster, e, storeOptions{log: slog.New(slog.NewTextHandler(said, nil)), open: func(StoreOpening) (OpenedStore, error) {
		return OpenedStore{Store: cluster.Node("one"), Clock: cluster.Clock("one")}, nil
	}}, said
}

func TestANodeThatARecordContradictsOpensAgainOnceAndThenStaysClosed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) { opensAgainOnce(t, dir) })
}

func opensAgainOnce(t *testing.T, dir string) {
	cluster, e, o, said := engineOnCluster(t, dir)
	l := e.mustOpen(t, o)
	key := mintIn(t, l, 100)
	n := 0
	use := func() record.Code {
		l := e.mustOpen(t, o)
		code := useIn(t, l, key)
		if code == "" {
			n++
		}
		return code
	}
	contradict := func() {
		t.Helper()
		if code := use(); code != "" {
			t.Fatal(code)
		}
		takePart(t, cluster, "one")
		for range 200 { // until it asks for another block
			if code := use(); code == record.CodeStoreUnavailable {
				return
			} else if code != "" {
				t.Fatal(code)
			}
		}
		t.Fatal("it is not found")
	}
	registry := prometheus.NewRegistry()
	if err := registry.Register(e.metrics.doubts); err != nil {
		t.Fatal(err)
	}
	is := func(what string, want bool, times float64) {
		t.Helper()
		l := e.mustOpen(t, o)
		if is := l.Ready() == nil; is != want {
			t.Errorf("%s: ready %v, %v", what, is, l.Ready())
		}
		families, err := registry.Gather()
		if err != nil || len(families) != 1 || families[0].GetMetric()[0].GetCounter().GetValue() != times {
			t.Errorf("%s: counted %v, %v", what, families, err)
		}
	}

	contradict()
	is("the first time", true, 1)
	if code := use(); code != "" {
		t.Errorf("the first time: %q", code)
	}
	e.mu.Lock()
	e.doubted = e.doubted.Add(-doubtsApart)
	e.mu.Unlock()
	contradict()
	is("an hour later", true, 2)
	contradict()
	is("again within an hour", false, 3)
	for range 10 {
		if l, err := e.retry(o); err != nil || !errors.As(l.Failed(), new(*store.Contradiction)) || !strings.Contains(l.Ready().Error(), "until it is restarted") {
			t.Fatalf("it does not stay closed, or does not say why: %v", err)
		}
	}
	if l, err := e.retry(o); err != nil || !helpsInACluster(l.Failed().Error()) {
		t.Errorf("it does not say what helps: %v, %v", err, l.Failed())
	}
	for line := range strings.Lines(said.String()) {
		if strings.Contains(line, "contradict") && !helpsInACluster(line) {
			t.Errorf("it logs: %s", line)
		}
	}
	other := cluster.Bystander(t, "two")
	if behind, err := other.Settled(patience); err != nil || len(behind) > 0 {
		t.Errorf("others wait for it: %q, %v", behind, err)
	}
	if said := said.String(); strings.Count(said, "is opened again, and what") != 2 || strings.Count(said, "until it is restarted") != 1 || strings.Contains(said, "it is tried again") {
		t.Errorf("it says: %s", said)
	}
	if n > 100 {
		t.Errorf("%d forwarded of 100", n)
	}
}

// helpsInACluster reports whether an error says what to do about one node of several: a
// node has no anchor, and no newer store to be put in place.
func helpsInACluster(text string) bool {
	return !strings.Contains(text, "anchor") && strings.Contains(text, "who writes in the database besides till") && strings.Contains(text, "docs/cluster.md")
}

// asConfigured is a configuration with these settings.
type asConfigured storeOptions

func (asConfigured) putInForce(configuration) error { return nil }
func (asConfigured) takeOver()                      {}
func (c *asConfigured) storeOptions() storeOptions  { return storeOptions(*c) }

// TestANodeThatNobodyAsksOpensItsStoreAgain: without a request or a probe, it does so when
// it is due, as long as a configuration is in force.
func TestANodeThatNobodyAsksOpensItsStoreAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) { opensUnasked(t, dir) })
}

func opensUnasked(t *testing.T, dir string) {
	cluster, e, o, _ := engineOnCluster(t, dir)
	l, err := e.open(o, 0)
	if err != nil {
		t.Fatal(err)
	}
	key := mintIn(t, l, 100)
	if code := useIn(t, l, key); code != "" {
		t.Fatal(code)
	}
	takePart(t, cluster, "one")
	for n := 0; useIn(t, l, key) == ""; n++ {
		if n > 200 {
			t.Fatal("that a record contradicts it is not found")
		}
	}
	e.keepOpen()
	if l := e.current(); l != nil {
		t.Error("it is open, and no configuration is in force")
	}
	if err := e.enter((*asConfigured)(&o)); err != nil { // from here on the engine has a clock of its own, too
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); e.current() == nil; time.Sleep(10 * time.Millisecond) { // between two looks
		if e.keepOpen(); time.Now().After(deadline) {
			t.Fatal("it is not open again")
		}
	}
	if code := useIn(t, e.current(), key); code != "" {
		t.Errorf("once it is open again: %q", code)
	}
}
