package postgres

import (
	"time"

	"golang.org/x/sys/unix"
)

// boottime is the time since the machine was started. It goes on while the machine
// sleeps, so a session cannot outlive its time that way.
func boottime() time.Duration {
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &at); err != nil {
		panic("reading CLOCK_BOOTTIME: " + err.Error()) // only a wrong pointer or number makes it fail
	}
	return time.Duration(at.Nano())
}
