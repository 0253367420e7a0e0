package till

import (
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

func TestAStoreThatIsReachedInAnotherWayIsOpenedAgain(t *testing.T) {
	t.Parallel()
	disk := storetest.NewDisk()
	e, o := engineOn(t, disk)
	way, refused := "first password", false
	opened := 0
	var after store.Store
	open := o.open
	o.way = func() string { return way }
	o.open = func(with StoreOpening) (OpenedStore, error) {
		if refused {
			return OpenedStore{}, errors.New("password authentication failed")
		}
		opened++
		after = with.After
		return open(with)
	}
	first := e.mustOpen(t, o)
	lookup := mintIn(t, first, 10)
	running := admitted(t, findIn(t, first, lookup))

	if err := e.reconnect(o); err != nil || opened != 1 || e.current() != first {
		t.Fatalf("in the same way: opened %d times, %v", opened, err)
	}
	way, refused = "wrong password", true
	if err := e.reconnect(o); !errors.Is(err, errNotReached) || e.current() != first {
		t.Errorf("in a way that does not lead there: %v", err)
	}
	if code := useIn(t, first, lookup); code != "" {
		t.Errorf("the store that stays open refuses: %s", code)
	}
	way, refused = "second password", false
	if err := e.reconnect(o); err != nil {
		t.Fatal(err)
	}
	second := e.current()
	if second == nil || second == first || opened != 3 { // once to try it
		t.Fatalf("opened %d times, and the limiter is %p after %p", opened, second, first)
	}
	if after == nil {
		t.Error("the store that was opened again is not told which one it follows")
	}
	running.Settle(record.Amounts{record.Activations: 1})
	used := 2
	for useIn(t, second, lookup) == "" {
		used++
	}
	if code := useIn(t, second, lookup); code != record.CodeActivationsExhausted || used != 10 {
		t.Errorf("%d of 10 were used, and then %q", used, code)
	}
}

// TestWhatRunsIsCutIfANodeTakesLongToOpenItsStoreAgain: nobody could tell it that a key was
// revoked.
func TestWhatRunsIsCutIfANodeTakesLongToOpenItsStoreAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		cluster := storetest.NewCluster()
		e := newEngine(Place{Identity: dir, Dir: dir, Shared: true}, nil)
		answers, silent := make(chan struct{}), false
		o := storeOptions{log: slog.New(slog.DiscardHandler), open: func(StoreOpening) (OpenedStore, error) {
			if silent {
				<-answers
			}
			return OpenedStore{Store: cluster.Node("one"), Clock: cluster.Clock("one")}, nil
		}}
		l := e.mustOpen(t, o)
		running := admitted(t, findIn(t, l, mintIn(t, l, 1)))
		e.mu.Lock()
		e.failed, e.nextTry = errReopen, time.Time{}
		e.mu.Unlock()
		silent = true
		opened := make(chan struct{})
		go func() {
			defer close(opened)
			e.mustOpen(t, o)
		}()
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if cut := running.Cut(); cut != nil {
			t.Errorf("after 6 s it was cut: %v", cut)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if running.Cut() == nil {
			t.Error("after 8 s it goes on")
		}
		close(answers)
		<-opened
		running.Settle(record.Amounts{record.Activations: 1})
		if err := e.current().Failed(); err != nil {
			t.Errorf("once it is open: %v", err)
		}
		if err := e.Destruct(); err != nil {
			t.Error(err)
		}
	})
}
