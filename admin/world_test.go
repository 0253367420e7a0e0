package admin

import (
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/commit"
)

// world is a management API over a limiter.
type world struct{ *admintest.World }

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldAt(t, nil)
}

// newWorldAt makes a world with its own clock.
func newWorldAt(t *testing.T, clock commit.Clock) *world {
	t.Helper()
	return serving(admintest.New(t, clock))
}

func serving(of *admintest.World) *world {
	w := &world{of}
	w.NoConsole, w.SealKeyNamed = ErrNoConsole, ErrSealKeyNamed
	w.Handler = described(of.T, NewHandler(admintest.Backend{Of: w.World}, limiter.Operator, slog.New(slog.DiscardHandler)))
	return w
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
