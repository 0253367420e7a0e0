package limiter

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/till-proxy/till/token"
)

// Scrubbed returns a logger whose lines hold no key: names and reasons are chosen by
// people, who may paste a key into them.
func Scrubbed(log *slog.Logger) *slog.Logger {
	if _, done := log.Handler().(scrubber); done {
		return log
	}
	return slog.New(scrubber{log.Handler()})
}

type scrubber struct{ slog.Handler }

// Handle implements slog.Handler.
func (s scrubber) Handle(ctx context.Context, r slog.Record) error {
	clean := slog.NewRecord(r.Time, r.Level, token.Scrub(r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		clean.AddAttrs(scrubAttr(a))
		return true
	})
	return s.Handler.Handle(ctx, clean)
}

// WithAttrs implements slog.Handler.
func (s scrubber) WithAttrs(attrs []slog.Attr) slog.Handler {
	clean := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		clean[i] = scrubAttr(a)
	}
	return scrubber{s.Handler.WithAttrs(clean)}
}

// WithGroup implements slog.Handler.
func (s scrubber) WithGroup(name string) slog.Handler { return scrubber{s.Handler.WithGroup(name)} }

// scrubAttr removes keys from a value that is written as text. Other values, such as
// errors, stay as they are if they hold no key.
func scrubAttr(a slog.Attr) slog.Attr {
	switch v := a.Value.Resolve(); v.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(token.Scrub(v.String()))
	case slog.KindAny:
		if text := fmt.Sprint(v.Any()); token.Scrub(text) != text {
			a.Value = slog.StringValue(token.Scrub(text))
		}
	case slog.KindGroup:
		group := make([]slog.Attr, 0, len(v.Group()))
		for _, inner := range v.Group() {
			group = append(group, scrubAttr(inner))
		}
		a.Value = slog.GroupValue(group...)
	}
	return a
}
