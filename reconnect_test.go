package till

import (
	"errors"
	"testing"

	"github.com/till-proxy/till/limiter"
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
	k, refusal := first.Find(t.Context(), lookup)
	if refusal != nil {
		t.Fatal(refusal.Message)
	}
	var running limiter.Grant
	if refusal := k.Reserve(t.Context(), &limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/v1/x"}, &running); refusal != nil {
		t.Fatal(refusal.Message)
	}

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
