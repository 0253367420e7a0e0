package webhook

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
	"github.com/till-proxy/till/token"
)

// setClock stands still until it is set.
type setClock struct{ ran atomic.Int64 }

func (c *setClock) Now() (time.Time, time.Duration) {
	ran := time.Duration(c.ran.Load())
	return time.Date(2001, 11, 24, 9, 0, 0, 0, time.UTC).Add(ran), ran
}

func (c *setClock) advance(d time.Duration) { c.ran.Add(int64(d)) }

// receiver is a webhook, with the limiter whose messages it gets.
type receiver struct {
	*sender
	t       *testing.T
	clock   *setClock
	limiter *limiter.Limiter
	answers atomic.Int64 // its status
	got     atomic.Int64 // requests

	close    bool          // the store is closed when one comes
	received chan struct{} // closed then
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{t: t, clock: new(setClock), received: make(chan struct{})}
	r.answers.Store(http.StatusNoContent)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		r.got.Add(1)
		if r.close {
			if err := r.limiter.Close(); err != nil {
				t.Error(err)
			}
			close(r.received)
		}
		w.WriteHeader(int(r.answers.Load()))
	}))
	t.Cleanup(server.Close)
	hook, err := NewEndpoint(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hook.SetSecrets([]string{"a secret of the receiver"}); err != nil {
		t.Fatal(err)
	}
	disk := storetest.NewDisk()
	r.limiter, err = limiter.Open(limiter.Options{
		Store: disk.Open(), Disk: disk.Files(), Shadow: "shadow", Anchor: "anchor", Clock: r.clock, Patience: time.Minute,
		Hooks: []event.Hook{{URL: hook.URL, Events: []event.Name{event.KeyCreated}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.limiter.Close(); err != nil && !errors.Is(err, store.ErrClosed) {
			t.Error(err)
		}
	})
	r.sender = &sender{all: New(func() *limiter.Limiter { return r.limiter }), client: hook.client(), hook: hook, log: slog.New(slog.DiscardHandler)}
	return r
}

// happen causes an event.
func (r *receiver) happen() {
	r.t.Helper()
	_, lookup, err := token.MintKey()
	if err != nil {
		r.t.Fatal(err)
	}
	spec := &record.Key{Upstream: "openai", Custody: record.CustodyHeld, Limit: record.NoLimits()}
	if _, err := r.limiter.Mint(limiter.Operator, spec, limiter.Birth{Lookup: lookup, Unlimited: true}); err != nil {
		r.t.Fatal(err)
	}
}

// send delivers what is due, also if the receiver has just failed.
func (r *receiver) send() {
	r.mu.Lock()
	r.pause = time.Time{}
	r.mu.Unlock()
	r.round(r.t.Context())
}

// TestAMessageIsAsOldAsTheStoreSays: the machine's clock may be days ahead of the one that
// events have their time from, as that of a database or one that was not set.
func TestAMessageIsAsOldAsTheStoreSays(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	r.happen()
	r.send()
	if r.state.Delivered != 1 || r.state.GivenUp != 0 {
		t.Errorf("%+v", r.state)
	}
}

// TestAMessageThatWaitedWhileTheServerWasOffIsSent however long that was.
func TestAMessageThatWaitedWhileTheServerWasOffIsSent(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	r.happen()
	r.clock.advance(4 * 24 * time.Hour)
	r.send()
	if r.state.Delivered != 1 || r.state.GivenUp != 0 {
		t.Errorf("%+v", r.state)
	}
}

func TestAMessageIsGivenUpAfterThreeDaysOfFailures(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	r.answers.Store(http.StatusInternalServerError)
	r.happen()
	r.happen()
	r.send()
	r.clock.advance(3*24*time.Hour - time.Minute)
	r.send()
	if r.state.GivenUp != 0 || r.got.Load() != 2 {
		t.Errorf("after less: %+v", r.state)
	}
	r.clock.advance(2 * time.Minute)
	long := time.Now().Add(-giveUp)
	r.state.FailingSince = &long // so the second message would have been sent as well
	r.send()
	if r.state.GivenUp != 2 || r.got.Load() != 2 {
		t.Errorf("%+v", r.state)
	}
	r.answers.Store(http.StatusNoContent)
	r.happen()
	r.send()
	if r.state.Delivered != 1 {
		t.Errorf("a new message: %+v", r.state)
	}
}

// TestAReloadGivesAWebhookAnotherLogWhileItSends is for the race detector.
func TestAReloadGivesAWebhookAnotherLogWhileItSends(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	r.happen()
	reloaded := make(chan struct{})
	r.all.limiter = func() *limiter.Limiter {
		go func() {
			defer close(reloaded)
			<-r.received
			r.mu.Lock()
			defer r.mu.Unlock()
			r.log = slog.New(slog.DiscardHandler)
		}()
		return r.limiter
	}
	r.close = true // so that it cannot be noted that it was sent
	r.send()
	<-reloaded
}
