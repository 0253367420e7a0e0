package till

import (
	"fmt"
	"testing"
	"time"
)

// TestOneKeysCountsSpeakForItAlone, and those of several for the upstream. What is
// noted stays small.
func TestOneKeysCountsSpeakForItAlone(t *testing.T) {
	t.Parallel()
	c := new(counting)
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for i := range pausedKeys - 1 {
		id := fmt.Sprint("key_", i)
		if !c.pause(id, now.Add(countAbsent)) || c.pause(id, now.Add(countAbsent)) || !c.pausing(id, now) {
			t.Fatalf("%s is not paused once", id)
		}
		if c.pausing("other", now) {
			t.Fatalf("%d keys speak for all", i+1)
		}
	}
	c.pause("last", now.Add(countPause))
	if !c.pausing("other", now) {
		t.Errorf("%d keys do not speak for the upstream", pausedKeys)
	}
	now = now.Add(countPause)
	if c.pausing("other", now) || c.pausing("last", now) || !c.pausing("key_0", now) {
		t.Error("a minute later")
	}
	now = now.Add(countAbsent)
	if c.pausing("key_0", now) || len(c.paused) != 0 {
		t.Errorf("an hour later %d are noted", len(c.paused))
	}
}

// TestNothingIsCountedWhereRequestsGoSeveralWays: by one of them the credential might
// go unprotected.
func TestNothingIsCountedWhereRequestsGoSeveralWays(t *testing.T) {
	t.Parallel()
	c := new(counting)
	first, second, third := new(Transport), new(Transport), new(Transport)
	c.reached(first, []byte(`{"tls":{}}`))
	c.reached(second, []byte(`{"tls":{}}`))
	if c.transport.Load() != second {
		t.Error("two that are alike")
	}
	c.reached(third, []byte(`{"tls":{"insecure_skip_verify":true}}`))
	if c.transport.Load() != nil {
		t.Error("one is another")
	}
	c.reached(first, []byte(`{"tls":{}}`))
	if c.transport.Load() != nil {
		t.Error("it is forgotten")
	}
}
