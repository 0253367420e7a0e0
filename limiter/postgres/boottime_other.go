//go:build !linux

package postgres

import "time"

var started = time.Now()

// boottime is the time since the process was started. If the machine sleeps meanwhile,
// that time may not count.
func boottime() time.Duration { return time.Since(started) }
