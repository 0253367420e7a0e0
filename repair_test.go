package till

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
	"github.com/till-proxy/till/token"
)

// successor ends an engine, as its server's end does, and returns the next server's.
func (e *engine) successor(t *testing.T) *engine {
	t.Helper()
	if err := e.Destruct(); err != nil {
		t.Fatal(err)
	}
	next := newEngine(e.place, nil)
	next.patience = patience
	t.Cleanup(func() {
		if err := next.Destruct(); err != nil {
			t.Error(err)
		}
	})
	return next
}

func TestAStoreInDoubtIsOpenedOnlyByARepair(t *testing.T) {
	t.Parallel()
	disk := storetest.NewDisk()
	e, o := engineOn(t, disk)
	l := e.mustOpen(t, o)
	lookup := mintIn(t, l, 100)
	useIn(t, l, lookup)
	if _, err := e.forfeit(limiter.Operator, o, false); !errors.Is(err, errInOrder) {
		t.Errorf("repairing a store in order: %v", err)
	}
	if code := useIn(t, l, lookup); code != "" {
		t.Errorf("after a repair that was refused: %q", code)
	}
	next := e.successor(t)
	if err := os.Remove(filepath.Join(e.place.Dir, "anchor")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := next.open(o, 0); !errors.Is(err, store.ErrDoubt) {
			t.Fatalf("without its anchor: %v", err)
		}
	}
	would, err := next.forfeit(limiter.Operator, o, true)
	if err != nil || would.Keys != 1 || would.Forfeited != 1 {
		t.Errorf("a dry run: %+v, %v", would, err)
	}
	if _, err := next.retry(o); !errors.Is(err, store.ErrDoubt) {
		t.Fatalf("after a dry run: %v", err)
	}
	done, err := next.forfeit(limiter.Operator, o, false)
	if err != nil || done.Keys != 1 || done.Forfeited != 1 {
		t.Fatalf("%+v, %v", done, err)
	}
	if code := useIn(t, next.mustOpen(t, o), lookup); code != record.CodeActivationsExhausted {
		t.Errorf("after the repair: %q", code)
	}
}

// TestADoubtThatIsFoundInUseStandsUntilARepairHasEnded: opening the store would not find it,
// as that reads no account.
func TestADoubtThatIsFoundInUseStandsUntilARepairHasEnded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ imagine, fails bool }{
		"a dry run":                          {imagine: true},
		"a dry run that cannot open it":      {imagine: true, fails: true},
		"a repair that fails before it acts": {fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := storetest.NewDisk()
			e, o := engineOn(t, disk)
			l := e.mustOpen(t, o)
			damaged, other := mintIn(t, l, 100), mintIn(t, l, 100)
			id, err := record.KeyAccount(findIn(t, l, damaged).Key().ID)
			if err != nil {
				t.Fatal(err)
			}
			s := disk.Open()
			var row []byte
			err = s.View(func(r store.Reader) error {
				v, err := r.Get(record.AccountKey(id))
				row = slices.Clone(v)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, lookup := range []token.Lookup{damaged, other} {
				if code := useIn(t, l, lookup); code != "" {
					t.Fatal(code)
				}
			}
			next := e.successor(t)
			err = s.Update(func(tx store.Tx) error { return tx.Set(record.AccountKey(id), row) }) // it goes back
			if err != nil {
				t.Fatal(err)
			}
			if code := useIn(t, next.mustOpen(t, o), damaged); code != record.CodeStoreUnavailable {
				t.Fatalf("the key whose account went back: %q", code)
			}
			asked := o
			if c.fails {
				asked.open = func(StoreOpening) (OpenedStore, error) { return OpenedStore{}, store.ErrNoSpace }
			}
			if _, err := next.forfeit(limiter.Operator, asked, c.imagine); (err != nil) != c.fails {
				t.Fatal(err)
			}
			if l, err = next.retry(o); err != nil || !errors.Is(l.Failed(), store.ErrDoubt) {
				t.Errorf("afterwards it is open: %v, %v", err, l.Failed())
			}
			if code := useIn(t, l, other); code != record.CodeStoreUnavailable {
				t.Errorf("afterwards the other key: %q", code)
			}
			if done, err := next.forfeit(limiter.Operator, o, false); err != nil || done.Keys != 2 || done.Forfeited != 2 {
				t.Fatalf("the repair: %+v, %v", done, err)
			}
			l = next.mustOpen(t, o)
			for _, lookup := range []token.Lookup{damaged, other} {
				if code := useIn(t, l, lookup); code != record.CodeActivationsExhausted {
					t.Errorf("after the repair: %q", code)
				}
			}
		})
	}
}

// TestARepairThatOutlastsItsServerLeavesTheStoreToTheNext: nothing waits for it longer than
// closingTime.
func TestARepairThatOutlastsItsServerLeavesTheStoreToTheNext(t *testing.T) {
	t.Parallel()
	for name, imagine := range map[string]bool{"a repair": false, "a dry run": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				at := Place{Identity: dir, Dir: dir, Shared: true}
				e := newEngine(at, nil)
				cluster := storetest.NewCluster()
				answers := make(chan struct{})
				o := storeOptions{
					log: slog.New(slog.DiscardHandler),
					open: func(StoreOpening) (OpenedStore, error) {
						return OpenedStore{Store: cluster.Node("one"), Clock: cluster.Clock("one")}, nil
					},
					doubted: func(StoreOpening, string, bool) (limiter.Doubted, commit.Clock, error) {
						<-answers
						return nil, nil, store.ErrUnavailable
					},
				}
				mintIn(t, e.mustOpen(t, o), 1)
				cluster.Failover(1)
				synctest.Wait()
				repaired := make(chan struct{})
				go func() {
					defer close(repaired)
					if _, err := e.forfeit(limiter.Operator, o, imagine); !errors.Is(err, store.ErrUnavailable) {
						t.Errorf("the repair: %v", err)
					}
				}()
				synctest.Wait()
				if err := e.Destruct(); !errors.Is(err, errOpening) {
					t.Errorf("the end of the server: %v", err)
				}
				close(answers)
				<-repaired
				next := newEngine(at, nil)
				if err := next.claim(); err != nil {
					t.Error(err)
				}
				other := cluster.Node("one")
				joined := make(chan error, 1)
				go func() { joined <- other.Join(store.Bystander{}) }()
				synctest.Wait()
				select {
				case err := <-joined:
					if !errors.Is(err, store.ErrDoubt) {
						t.Errorf("the next server's session: %v", err)
					}
				default:
					t.Error("the session of the former server has not ended")
					cluster.Kill("one")
					<-joined
				}
				if err := errors.Join(other.Close(), next.Destruct()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
