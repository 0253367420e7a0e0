package till

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

// logged is what is logged, by goroutines that run on while it is looked at.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestWhatOutlivesAConfigurationLogsWhereTheNextOneWants(t *testing.T) {
	t.Parallel()
	var before, after bytes.Buffer
	shared := newSharedLog(slog.New(slog.NewTextHandler(&before, nil)))
	log := shared.logger()
	log.Info("first")
	shared.follow(slog.New(slog.NewTextHandler(&after, &slog.HandlerOptions{Level: slog.LevelWarn})))
	log.Warn("second")
	log.Info("third") // the next logger discards this level
	if got := before.String(); !strings.Contains(got, "first") || strings.Contains(got, "second") {
		t.Errorf("the first logger has %q", got)
	}
	if got := after.String(); !strings.Contains(got, "second") || strings.Contains(got, "third") {
		t.Errorf("the second logger has %q", got)
	}
}
