package limiter

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// damaged remembers which damaged records were reported, and for what. A record that cannot be
// decoded was changed by somebody, or written by a later version. Whatever it describes is
// refused, since nobody knows what it allows, but nothing else has to suffer for it. So code
// that goes through many records leaves it out, says so once, and goes on. Many may be left
// out for one reason, which then has no record's name in it.
type damaged struct {
	log   *slog.Logger
	clock commit.TimeSource

	mu       sync.Mutex
	reported map[string]bool
	since    time.Time
}

// maxReported bounds how much is reported in reportAnew; after that, all may be reported again.
const (
	maxReported = 1024
	reportAnew  = time.Hour
)

// isDamaged reports whether an error is about one record alone. A store that contradicts what
// is known is in doubt as a whole.
func isDamaged(err error) bool {
	return errors.Is(err, record.ErrRecord) && !errors.Is(err, store.ErrDoubt)
}

// leaveOut reports whether an error is about one record alone, and logs that once. what names
// the work that goes on without that record.
func (d *damaged) leaveOut(what, id string, err error) bool {
	if !isDamaged(err) {
		return false
	}
	if d.reports(what, err) {
		d.log.Error("a record cannot be read, and is left out: "+what, "id", id, "error", err)
	}
	return true
}

// reports reports whether to log that a damaged record keeps something from being done, and
// notes that this was logged.
func (d *damaged) reports(what string, err error) bool {
	switch d.note(what+": "+err.Error(), d.clock.Now()) {
	case maxReported:
		d.log.Error("so many records cannot be read that no more are reported for an hour: a later version may have written them", "error", err)
		return false
	case 0:
		return false
	}
	return true
}

// note returns how many were reported with this one; 0: it is not to be reported.
func (d *damaged) note(reason string, now time.Time) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.reported == nil || len(d.reported) >= maxReported && now.Sub(d.since).Abs() >= reportAnew { // or the clock had run ahead
		d.reported, d.since = make(map[string]bool), now
	}
	if d.reported[reason] || len(d.reported) >= maxReported {
		return 0
	}
	d.reported[reason] = true
	return len(d.reported)
}

// apart calls do with all at once and, if the record of any of them cannot be read, with
// halves of them, down to the one that is left out. It also halves what is too much for one
// commit; one that is too much by itself is an error.
func apart[T any](all []T, do func([]T) error, leftOut func(T, error)) error {
	err := do(all)
	switch {
	case len(all) > 1 && errors.Is(err, store.ErrTooBig):
	case !isDamaged(err):
		return err
	case len(all) == 1:
		leftOut(all[0], err)
		return nil
	}
	half := len(all) / 2
	if err := apart(all[:half], do, leftOut); err != nil {
		return err
	}
	return apart(all[half:], do, leftOut)
}
