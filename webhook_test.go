package till

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/webhook"
)

// A webhook's goroutine asks the engine for the limiter; stopping the engine
// waits for that goroutine.
func TestAnEngineStopsWhileAWebhookLooksForTheStore(t *testing.T) {
	t.Parallel()
	there := httptest.NewServer(http.NotFoundHandler())
	defer there.Close()
	dir := t.TempDir()
	e := newEngine(Place{Identity: dir, Dir: dir}, nil)
	looking, stopping := make(chan struct{}), make(chan struct{})
	looks := sync.OnceFunc(func() { close(looking) })
	e.hooks = webhook.New(func() *limiter.Limiter {
		looks()
		<-stopping
		for range 100_000 { // while it is being stopped
			e.current()
		}
		return nil
	})
	hook, err := webhook.NewEndpoint(there.URL)
	if err != nil {
		t.Fatal(err)
	}
	e.hooks.Set([]*webhook.Endpoint{hook}, slog.New(slog.DiscardHandler))
	<-looking
	stopped := make(chan error, 1)
	go func() { close(stopping); stopped <- e.Destruct() }()
	select {
	case err := <-stopped:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(5 * time.Minute):
		t.Fatal("the engine and its webhook wait for each other")
	}
}
