package limiter_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
)

// watcher notes what happens.
type watcher struct {
	mu   sync.Mutex
	said []string
}

func (w *watcher) Committed(time.Duration, int) {}

func (w *watcher) Happened(e event.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	line := string(e.Name)
	if e.Name == event.KeyThreshold {
		line = fmt.Sprintf("%d%% of %s, %d of %d", e.Percent, e.Kind, e.Used, e.Limit)
	}
	w.said = append(w.said, line)
}

func (w *watcher) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	said := w.said
	w.said = nil
	return said
}

func TestThresholdsAreToldOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	seen := &watcher{}
	w.observe = seen
	w.restart()
	k := w.mint(func(k *record.Key) {
		k.Limit[record.Activations], k.Limit[record.Tokens] = 10, 1001
	})
	use := func(tokens int64) []string {
		t.Helper()
		g, refusal := k.ask(bound(record.Tokens, tokens))
		if refusal != nil {
			t.Fatal(refusal)
		}
		g.Settle(record.Amounts{record.Activations: 1, record.Tokens: tokens})
		if err := w.Ping(ctx); err != nil {
			t.Fatal(err)
		}
		return seen.take()
	}
	if got := seen.take(); !slices.Equal(got, []string{"key_created"}) {
		t.Errorf("minting tells %q", got)
	}
	for i, want := range [][]string{
		{}, {}, {},
		{"50% of tokens, 501 of 1001"},
		{"50% of activations, 5 of 10"},
		{},
		{"80% of tokens, 801 of 1001"},
	} {
		n := []int64{1, 0, 499, 1, 0, 0, 300}[i]
		if got := use(n); !slices.Equal(got, want) {
			t.Errorf("request %d tells %q, want %q", i, got, want)
		}
	}
	w.restart()
	if got := use(0); !slices.Equal(got, []string{"80% of activations, 8 of 10"}) {
		t.Errorf("after a restart: %q", got)
	}
	if _, err := w.GrantMore(ctx, limiter.Operator, k.id, limiter.More{Activations: 10}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if got := use(0); len(got) > 0 && got[0] != "50% of activations, 10 of 20" {
			t.Errorf("after a grant: %q", got)
		}
	}
	if got := use(200); !slices.Equal(got, []string{"100% of tokens, 1001 of 1001", "key_exhausted"}) {
		t.Errorf("the end: %q", got)
	}
	if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, ""); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Revoke(ctx, limiter.Operator, k.id, "again"); err != nil {
		t.Fatal(err)
	}
	if got := seen.take(); !slices.Equal(got, []string{"key_revoked"}) {
		t.Errorf("revoking twice tells %q", got)
	}
}
