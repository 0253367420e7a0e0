package limiter_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// TestVeryManyDamagedRecordsDoNotFloodTheLog: a later version may have written all of them, and
// each sweep goes through them again.
func TestVeryManyDamagedRecordsDoNotFloodTheLog(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	w := newWorld(t)
	w.Abandon()
	w.log = slog.New(slog.NewTextHandler(&log, nil))
	w.open(w.disk.Open())
	sweep := func() (lines int) {
		log.Reset()
		for i := range 2 * limiter.MaxReported {
			w.LeaveOut(fmt.Sprint("key ", i), fmt.Errorf("key %d: %w", i, record.ErrRecord))
		}
		return strings.Count(log.String(), "\n")
	}
	if n := sweep(); n != limiter.MaxReported || !strings.Contains(log.String(), "no more are reported") {
		t.Errorf("%d lines, want %d, the last of which says that there are more", n, limiter.MaxReported)
	}
	if n := sweep(); n != 0 {
		t.Errorf("again: %d lines", n)
	}
	w.clock.advance(2 * time.Hour)
	if n := sweep(); n != limiter.MaxReported {
		t.Errorf("hours later: %d lines", n)
	}
	w.clock.set(-365 * day)
	if _, err := w.RepairClock(limiter.Operator); err != nil {
		t.Fatal(err)
	}
	if n := sweep(); n != limiter.MaxReported {
		t.Errorf("once a clock that had run ahead is repaired: %d lines", n)
	}
}

// TestRequestsOfADamagedKeyAreLoggedOnce: whoever has the key can send as many as they like.
func TestRequestsOfADamagedKeyAreLoggedOnce(t *testing.T) {
	for which, inMemory := range map[string]bool{"that is in memory": true, "that is not": false} {
		t.Run(which, func(t *testing.T) {
			var log bytes.Buffer
			withNodes(t, 1, func(t *testing.T, c *nodes) {
				w := c.w[0]
				k := w.mint(activations(100))
				if inMemory {
					if code := k.use(); code != "" {
						t.Fatal(code)
					}
					c.sweep() // gives back, so that each request asks for more
				}
				row := rowsOf(t, k.id)["the account"][0]
				c.Write(t, func(tx store.Tx) error { return tx.Set(row, []byte("{")) })
				synctest.Wait()
				log.Reset()
				for range 20 {
					if code := k.use(); code != record.CodeStoreUnavailable {
						t.Fatalf("it answers %q", code)
					}
				}
				lines := strings.TrimSpace(log.String())
				if n := strings.Count(lines, "\n") + 1; n > 2 || !strings.Contains(lines, k.id[len(record.IDPrefix):]) {
					t.Errorf("%d lines: %s", n, lines)
				}
			}, func(w *world) { w.log = slog.New(slog.NewTextHandler(&log, nil)) })
		})
	}
}
