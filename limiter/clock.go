package limiter

import "time"

// Clock tells the time to everything that judges expiry, idleness and rates.
// One clock is injected into the Limiter, so that tests decide what time it is.
type Clock interface {
	Now() time.Time
}

// SystemClock is the machine's clock.
type SystemClock struct{}

// Now returns the current time, with its monotonic reading.
func (SystemClock) Now() time.Time { return time.Now() }
