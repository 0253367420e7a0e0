package admin

import (
	"log/slog"
	"testing"

	"github.com/till-proxy/till/limiter"
)

// world is a management API over a limiter.
type world struct{ *World }

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldAt(t, nil)
}

// newWorldAt is a world with a clock of its own.
func newWorldAt(t *testing.T, clock limiter.Clock) *world {
	t.Helper()
	w := &world{newBase(t, clock)}
	w.noConsole, w.sealKeyNamed = ErrNoConsole, ErrSealKeyNamed
	w.handler = NewHandler(backend{w.World}, limiter.Operator, slog.New(slog.DiscardHandler))
	return w
}
