package event_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/commit/committest"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
)

const hookURL = "https://ops.example.com/till"

type transaction = committest.Transaction

// noon is a clock that stands still.
type noon struct{}

func (noon) Now() time.Time { return time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC) }

// sender is a process with an outbox.
type sender struct {
	*event.Outbox
	*committest.Committer
	happened []event.Name
}

func newSender(t *testing.T, s store.Store) *sender {
	t.Helper()
	w := new(sender)
	w.Outbox = event.NewOutbox(event.Options{
		Store: s, Clock: noon{}, Stopping: func() bool { return false },
		Happened: func(e event.Event) { w.happened = append(w.happened, e.Name) },
	})
	w.Committer = committest.Start(t, s, func(o *committest.Options) { o.Participants = []commit.Participant{w.Outbox} })
	w.Start(w.Writer())
	if err := w.SetHooks([]event.Hook{{URL: hookURL}}); err != nil {
		t.Fatal(err)
	}
	return w
}

// emit writes events in one transaction.
func (w *sender) emit(t *testing.T, n int, name event.Name) {
	t.Helper()
	err := w.Do(func(tx transaction) error {
		for range n {
			if err := w.Emit(tx, event.Event{Name: name, Key: &record.Key{ID: "key_1"}}); err != nil {
				return err
			}
		}
		return nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
}

func (w *sender) state(t *testing.T) event.HookState {
	t.Helper()
	hooks, err := w.Hooks()
	if err != nil || len(hooks) != 1 {
		t.Fatalf("%+v, %v", hooks, err)
	}
	return hooks[0]
}

func TestTheOutboxIsBounded(t *testing.T) {
	t.Parallel()
	w := newSender(t, storetest.NewDisk().Open())
	w.emit(t, 9_998, event.KeySuspended)
	w.emit(t, 4, event.KeySuspended)
	if s := w.state(t); s.Pending != 10_000 || s.Dropped != 2 {
		t.Errorf("%+v", s)
	}
	if len(w.happened) != 10_002 {
		t.Errorf("%d were reported here", len(w.happened))
	}
}

func TestAnEventOfAChangeThatFailsIsNeverHeardOf(t *testing.T) {
	t.Parallel()
	wrong := errors.New("wrong")
	w := newSender(t, storetest.NewDisk().Open())
	feed, err := w.Feeds.Subscribe("", everything{})
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	err = w.Do(func(tx transaction) error {
		return errors.Join(w.Emit(tx, event.Event{Name: event.KeyExpired, Key: new(record.Key)}), wrong)
	}, nil)
	if !errors.Is(err, wrong) {
		t.Fatal(err)
	}
	w.emit(t, 1, event.KeyRevoked)
	if e, err := feed.Next(t.Context(), time.Minute); err != nil || e.Name != event.KeyRevoked {
		t.Errorf("its reader hears first of %+v, %v", e, err)
	}
	if s := w.state(t); s.Pending != 1 || !slices.Equal(w.happened, []event.Name{event.KeyRevoked}) {
		t.Errorf("%d wait, and %q were reported", s.Pending, w.happened)
	}
}

// everything is a reader who sees all.
type everything struct{}

func (everything) MayRead() error         { return nil }
func (everything) Sees(*event.Event) bool { return true }

func FuzzOutboxRecord(f *testing.F) {
	f.Add([]byte("o/0123456701234567abcdefgh"), []byte(`{"event":"key_created","payload":{"type":"key_created"},"attempts":1,"next":5}`))
	f.Add([]byte("o/"), []byte(`null`))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		m, err := event.DecodeMessage(key, value)
		if err == nil && (len(m.ID) != len("msg_")+32 || len(m.Payload) > len(value)) {
			t.Errorf("%+v", m)
		}
	})
}
