package till

import (
	"fmt"
	"testing"
	"time"
)

// TestOneKeysCountsSpeakForItAlone, and those of several keys for the upstream. The
// record stays small.
func TestOneKeysCountsSpeakForItAlone(t *testing.T) {
	t.Parallel()
	c := new(vendorCount)
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for i := range pausedKeys - 1 {
		id := fmt.Sprint("key_", i)
		if !c.pause(id, now.Add(countAbsent)) || c.pause(id, now.Add(countAbsent)) || !c.isPaused(id, now) {
			t.Fatalf("%s is not paused once", id)
		}
		if c.isPaused("other", now) {
			t.Fatalf("%d keys speak for all", i+1)
		}
	}
	c.pause("last", now.Add(countPause))
	if !c.isPaused("other", now) {
		t.Errorf("%d keys do not speak for the upstream", pausedKeys)
	}
	now = now.Add(countPause)
	if c.isPaused("other", now) || c.isPaused("last", now) || !c.isPaused("key_0", now) {
		t.Error("a minute later")
	}
	now = now.Add(countAbsent)
	if c.isPaused("key_0", now) || len(c.paused) != 0 {
		t.Errorf("an hour later %d are noted", len(c.paused))
	}
}

// TestNothingIsCountedWhereRequestsGoSeveralWays: by one of them the credential might
// travel unencrypted.
func TestNothingIsCountedWhereRequestsGoSeveralWays(t *testing.T) {
	t.Parallel()
	c := new(vendorCount)
	first, second, third := new(Transport), new(Transport), new(Transport)
	c.addTransport(first, []byte(`{"tls":{}}`))
	c.addTransport(second, []byte(`{"tls":{}}`))
	if c.transport.Load() != second {
		t.Error("two that are alike")
	}
	c.addTransport(third, []byte(`{"tls":{"insecure_skip_verify":true}}`))
	if c.transport.Load() != nil {
		t.Error("one is another")
	}
	c.addTransport(first, []byte(`{"tls":{}}`))
	if c.transport.Load() != nil {
		t.Error("it is forgotten")
	}
}
