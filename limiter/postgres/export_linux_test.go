package postgres

import "time"

// SetMachineClock lets the machine's clock jump, as far as this package looks at it.
func SetMachineClock(by time.Duration) {
	boottime() // has measured
	m := *measured.Load()
	m.lead -= int64(by)
	measured.Store(&m)
}
