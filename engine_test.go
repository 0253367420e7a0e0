package till

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
	"github.com/till-proxy/till/token"
)

// patience bounds every wait. It only decides when a hang is reported.
const patience = 5 * time.Minute

// engineOn returns an engine over a simulated disk.
func engineOn(t *testing.T, disk *storetest.Disk) (*engine, storeOptions) {
	t.Helper()
	dir := t.TempDir()
	e := newEngine(Place{Identity: dir, Dir: dir}, nil)
	e.patience = patience
	t.Cleanup(func() {
		if err := e.Destruct(); err != nil {
			t.Log(err)
		}
	})
	return e, storeOptions{log: slog.New(slog.DiscardHandler), open: func(StoreOpening) (OpenedStore, error) { return OpenedStore{Store: disk.Open()}, nil }}
}

// failIn lets the disk of a limiter fail, and the limiter learn of it.
func failIn(t *testing.T, disk *storetest.Disk, l *limiter.Limiter) {
	t.Helper()
	disk.FailAt(1, false)
	if err := l.Ping(t.Context()); err == nil {
		t.Fatal("the store has not failed")
	}
}

// engineOnBadger returns an engine over a new directory.
func engineOnBadger(t *testing.T) (*engine, storeOptions) {
	t.Helper()
	at := &BadgerStore{Path: filepath.Join(t.TempDir(), "store")}
	e := newEngine(at.Place(), nil)
	e.patience = patience
	return e, storeOptions{log: slog.New(slog.DiscardHandler), open: func(with StoreOpening) (OpenedStore, error) {
		s, err := at.OpenStore(with)
		if err == nil {
			s.Store.(*store.Badger).ClosePatience = patience
		}
		return s, err
	}}
}

// mustOpen opens the engine's store, or returns the limiter that has it open.
func (e *engine) mustOpen(t *testing.T, o storeOptions) *limiter.Limiter {
	t.Helper()
	l, err := e.open(o, 0)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// retry lets the engine try again as if the time between two attempts had passed.
func (e *engine) retry(o storeOptions) (*limiter.Limiter, error) {
	e.mu.Lock()
	e.nextTry = time.Time{}
	e.mu.Unlock()
	return e.open(o, 0)
}

// mintIn mints a key with n activations.
func mintIn(t *testing.T, l *limiter.Limiter, n int64) token.Lookup {
	t.Helper()
	_, lookup, err := token.MintKey()
	if err != nil {
		t.Fatal(err)
	}
	spec := &record.Key{Upstream: "openai", Custody: record.CustodyHeld, Limit: record.NoLimits()}
	spec.Limit[record.Activations] = n
	until(t, func() error {
		_, err := l.Mint(limiter.Operator, spec, limiter.Birth{Lookup: lookup})
		return err
	})
	return lookup
}

// findIn returns a key as requests find it.
func findIn(t *testing.T, l *limiter.Limiter, lookup token.Lookup) *limiter.Live {
	t.Helper()
	k, refusal := l.Find(t.Context(), lookup)
	if refusal != nil {
		t.Fatal(refusal)
	}
	return k
}

// admitted is a request of a key that runs from then on.
func admitted(t *testing.T, k *limiter.Live) *limiter.Grant {
	t.Helper()
	running := new(limiter.Grant)
	ask := &limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/v1/x"}
	if refusal := k.Reserve(t.Context(), ask, running); refusal != nil {
		t.Fatal(refusal)
	}
	return running
}

// useIn forwards one request, or returns why not.
func useIn(t *testing.T, l *limiter.Limiter, lookup token.Lookup) record.Code {
	t.Helper()
	k, refusal := l.Find(t.Context(), lookup)
	if refusal != nil {
		return refusal.Code
	}
	var g limiter.Grant
	if refusal := k.Reserve(t.Context(), &limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/v1/x"}, &g); refusal != nil {
		return refusal.Code
	}
	g.Settle(record.Amounts{record.Activations: 1})
	return ""
}

func TestAFailedStoreIsOpenedAgainOnceItWorks(t *testing.T) {
	t.Parallel()
	disk := storetest.NewDisk()
	e, o := engineOn(t, disk)
	l := e.mustOpen(t, o)
	lookup := mintIn(t, l, 100)
	forwarded := int64(0)
	if useIn(t, l, lookup) == "" {
		forwarded++
	}
	disk.FailAt(1, false)
	for range 1000 {
		if useIn(t, l, lookup) == "" {
			forwarded++
		}
	}
	if err := l.Ping(t.Context()); err == nil || l.Failed() == nil {
		t.Fatal("the store has not failed")
	}
	if l, _ := e.retry(o); l != nil && useIn(t, l, lookup) == "" {
		t.Error("admitted on a disk that still fails")
	}
	disk.Heal()
	if l, _ = e.retry(o); l == nil {
		t.Fatal("the store was not opened again")
	}
	for useIn(t, l, lookup) == "" {
		forwarded++
	}
	if code := useIn(t, l, lookup); code != record.CodeActivationsExhausted || forwarded > 100 || forwarded < 36 {
		t.Errorf("%d forwarded of 100, then %q", forwarded, code)
	}
}

func TestARevocationWhileTheStoreCannotBeOpenedHoldsAndCutsWhatRuns(t *testing.T) {
	t.Parallel()
	disk := storetest.NewDisk()
	e, o := engineOn(t, disk)
	l := e.mustOpen(t, o)
	k := findIn(t, l, mintIn(t, l, 100))
	running := admitted(t, k)
	failIn(t, disk, l)
	var err error
	for range 3 { // it fails to open repeatedly
		if l, err = e.retry(o); err != nil || l.Failed() == nil {
			t.Fatalf("a store that still fails: %v", err)
		}
	}
	_, cut, err := l.Revoke(t.Context(), limiter.Operator, k.Key().ID, "")
	if err == nil || cut != 1 || running.Cut() == nil {
		t.Errorf("revoking: %d cut, %v", cut, err)
	}
	disk.Heal()
	if l, err = e.retry(o); err != nil || l.Failed() != nil {
		t.Fatalf("a store that works again: %v", err)
	}
	running.Settle(record.Amounts{record.Activations: 1})
	view, err := l.Get(limiter.Operator, k.Key().ID)
	if err != nil || view.Status != record.Revoked || view.InFlight != 0 || view.Used[record.Activations] != 1 {
		t.Errorf("afterwards: %s, %d in flight, %v used, %v", view.Status, view.InFlight, view.Used, err)
	}
}

func TestAStoreWhoseAnchorComesBackOpensByItself(t *testing.T) {
	t.Parallel()
	disk := storetest.NewDisk()
	e, o := engineOn(t, disk)
	l := e.mustOpen(t, o)
	lookup := mintIn(t, l, 100)
	anchor := filepath.Join(e.place.Dir, "anchor")
	failIn(t, disk, l)
	disk.Heal()
	if err := os.Rename(anchor, anchor+".away"); err != nil { // its volume was unmounted
		t.Fatal(err)
	}
	l, err := e.retry(o)
	if err != nil || !errors.Is(l.Failed(), store.ErrDoubt) {
		t.Fatalf("without its anchor: %v", err)
	}
	if code := useIn(t, l, lookup); code != record.CodeStoreUnavailable {
		t.Errorf("without its anchor: %q", code)
	}
	if err := os.Rename(anchor+".away", anchor); err != nil {
		t.Fatal(err)
	}
	if l, err = e.retry(o); err != nil || l.Failed() != nil {
		t.Fatalf("with its anchor: %v", err)
	}
	if code := useIn(t, l, lookup); code != "" {
		t.Errorf("with its anchor: %q", code)
	}
}

// TestAStoreWhoseDirectoryIsGoneIsNotMadeAnew: where its volume is no longer mounted, the
// directory is missing or empty.
func TestAStoreWhoseDirectoryIsGoneIsNotMadeAnew(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		empty bool
		want  string
	}{
		"missing": {want: " is gone: put it back"},
		"empty":   {empty: true, want: " is empty: put back what was in it"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := storetest.NewDisk()
			e, o := engineOn(t, disk)
			l := e.mustOpen(t, o)
			lookup := mintIn(t, l, 100)
			failIn(t, disk, l)
			disk.Heal()
			if err := os.Rename(e.place.Dir, e.place.Dir+".old"); err != nil {
				t.Fatal(err)
			}
			if test.empty {
				if err := os.Mkdir(e.place.Dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			l, err := e.retry(o)
			if err != nil || l.Failed() == nil || !strings.Contains(l.Failed().Error(), e.place.Dir+test.want) {
				t.Errorf("without its directory: %v, %v", err, l.Failed())
			}
			if entries, err := os.ReadDir(e.place.Dir); len(entries) > 0 || errors.Is(err, os.ErrNotExist) == test.empty {
				t.Errorf("another one was made: %v, %v", entries, err)
			}
			if err := errors.Join(os.RemoveAll(e.place.Dir), os.Rename(e.place.Dir+".old", e.place.Dir)); err != nil {
				t.Fatal(err)
			}
			if l, err = e.retry(o); err != nil || l.Failed() != nil {
				t.Fatalf("with its directory: %v, %v", err, l.Failed())
			}
			if code := useIn(t, l, lookup); code != "" {
				t.Errorf("with its directory: %q", code)
			}
		})
	}
}

func TestNobodyWaitsLongForADiskThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	disk := storetest.NewDisk()
	e, o := engineOn(t, disk)
	hangs := make(chan struct{})
	answers := o.open
	o.open = func(with StoreOpening) (OpenedStore, error) {
		<-hangs
		return answers(with)
	}
	for range 2 { // the caller that opens it, and a later one
		if l, err := e.open(o, 10*time.Millisecond); l != nil || !errors.Is(err, errOpening) {
			t.Errorf("while it is being opened: %v, %v", l, err)
		}
	}
	close(hangs)
	e.mustOpen(t, o)
}

// TestAStoreThatNobodyCanLockIsNoReasonToWait: a server that waits for it would answer 503
// for ever.
func TestAStoreThatNobodyCanLockIsNoReasonToWait(t *testing.T) {
	t.Parallel()
	if err := fmt.Errorf("opening: %w", store.ErrNoLocks); !misconfigured(err) {
		t.Error("the server starts without it")
	}
}

// TestAReadOnlyPlaceSaysWhatTheUnitNeeds: under init/till.service every place is
// read-only that the unit does not name, and in a container that was started so.
func TestAReadOnlyPlaceSaysWhatTheUnitNeeds(t *testing.T) {
	t.Parallel()
	readOnly := fmt.Errorf("opening: %w", &fs.PathError{Op: "open", Path: "/mnt/other-volume/till.anchor.new", Err: syscall.EROFS})
	if err := explainReadOnly(readOnly); !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), "till.anchor.new") || !strings.Contains(err.Error(), "ReadWritePaths=") || misconfigured(err) {
		t.Errorf("it says %v", err)
	}
	if err := explainReadOnly(readOnly); !strings.Contains(err.Error(), "a container") || !strings.Contains(err.Error(), "volume") {
		t.Errorf("in a container with a read-only root it says %v", err)
	}
	if err := explainReadOnly(fs.ErrPermission); err != fs.ErrPermission {
		t.Errorf("another error becomes %v", err)
	}
}
