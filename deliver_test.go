package till

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
)

// A webhook's goroutine asks the engine for the limiter; stopping the engine
// waits for that goroutine.
func TestAnEngineStopsWhileAWebhookLooksForTheStore(t *testing.T) {
	t.Parallel()
	there := httptest.NewServer(http.NotFoundHandler())
	defer there.Close()
	e := newEngine(t.TempDir(), nil)
	looking := make(chan struct{}, 1)
	e.hooks.limiter = func() *limiter.Limiter {
		select {
		case looking <- struct{}{}:
		default:
		}
		for e.hooks.mu.TryLock() { // until it is being stopped
			e.hooks.mu.Unlock()
			runtime.Gosched()
		}
		return e.current()
	}
	e.hooks.set([]*webhook{{url: there.URL, plain: true}}, slog.New(slog.DiscardHandler))
	<-looking
	stopped := make(chan error, 1)
	go func() { stopped <- e.Destruct() }()
	select {
	case err := <-stopped:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(5 * time.Minute):
		t.Fatal("the engine and its webhook wait for each other")
	}
}
