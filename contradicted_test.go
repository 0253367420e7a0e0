package till

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

// stranger changes rows of a database besides the nodes.
type stranger struct{}

func (stranger) Follows([]byte) bool    { return false }
func (stranger) Changed([][]byte) error { return nil }
func (stranger) Missed() error          { return nil }
func (stranger) Recalled([]byte)        {}
func (stranger) Stale(error)            {}

// takePart deletes a node's parts of all accounts.
func takePart(t *testing.T, c *storetest.Cluster, node string) {
	t.Helper()
	s := c.Node("stranger")
	if err := s.Join(stranger{}); err != nil {
		t.Fatal(err)
	}
	err := s.Update(func(tx store.Tx) error {
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
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestANodeThatARecordContradictsOpensAgainOnceAndThenStaysClosed(t *testing.T) {
	t.Parallel()
	cluster := storetest.NewCluster()
	dir := t.TempDir()
	e := newEngine(Place{Identity: dir, Dir: dir, Shared: true}, nil)
	t.Cleanup(func() {
		if err := e.Destruct(); err != nil {
			t.Error(err)
		}
	})
	var said bytes.Buffer
	o := storeOptions{log: slog.New(slog.NewTextHandler(&said, nil)), open: func(StoreOpening) (OpenedStore, error) {
		return OpenedStore{Store: cluster.Node("one"), Clock: cluster.Clock("one")}, nil
	}}
	l, err := e.open(o, 0)
	if err != nil {
		t.Fatal(err)
	}
	key := mintIn(t, l, 100)
	n := 0
	use := func() record.Code {
		l, err := e.open(o, 0)
		if err != nil {
			t.Fatal(err)
		}
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
		l, err := e.open(o, 0)
		if err != nil {
			t.Fatal(err)
		}
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
	other := cluster.Node("two")
	if err := other.Join(stranger{}); err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if behind, err := other.Settled(10 * time.Second); err != nil || len(behind) > 0 {
		t.Errorf("others wait for it: %q, %v", behind, err)
	}
	if said := said.String(); strings.Count(said, "is opened again, and what") != 2 || strings.Count(said, "until it is restarted") != 1 || strings.Contains(said, "it is tried again") {
		t.Errorf("it says: %s", said)
	}
	if n > 100 {
		t.Errorf("%d forwarded of 100", n)
	}
}
