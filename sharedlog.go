package till

import (
	"cmp"
	"context"
	"log/slog"
	"sync/atomic"
)

// sharedLog is the logger of everything that outlives a configuration. It writes to the
// logger of the configuration that started last, because the previous one's file may be
// closed by then.
type sharedLog struct {
	to atomic.Pointer[slog.Handler]
}

func newSharedLog(first *slog.Logger) *sharedLog {
	first = cmp.Or(first, slog.New(slog.DiscardHandler))
	s := new(sharedLog)
	s.follow(first)
	return s
}

// follow sends everything that is logged from now on to another logger.
func (s *sharedLog) follow(l *slog.Logger) {
	h := l.Handler()
	s.to.Store(&h)
}

func (s *sharedLog) logger() *slog.Logger { return slog.New(s) }

func (s *sharedLog) now() slog.Handler { return *s.to.Load() }

// Enabled implements slog.Handler.
func (s *sharedLog) Enabled(ctx context.Context, level slog.Level) bool {
	return s.now().Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (s *sharedLog) Handle(ctx context.Context, r slog.Record) error { return s.now().Handle(ctx, r) }

// WithAttrs implements slog.Handler. The result keeps the current logger.
func (s *sharedLog) WithAttrs(attrs []slog.Attr) slog.Handler { return s.now().WithAttrs(attrs) }

// WithGroup implements slog.Handler. The result keeps the current logger.
func (s *sharedLog) WithGroup(name string) slog.Handler { return s.now().WithGroup(name) }

// Interface guard
var _ slog.Handler = (*sharedLog)(nil)
