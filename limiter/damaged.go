package limiter

import (
	"errors"
	"sync"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// A record that cannot be decoded was changed by somebody, or written by a later version. What
// it is about is refused, since nobody knows what it allows; nothing else has to suffer for it.
// So whatever goes through many records leaves it out, says so once, and goes on.

// damaged remembers what was reported. Many records may be left out for one reason, which
// then has no record's name in it.
type damaged struct {
	mu       sync.Mutex
	reported map[string]bool
}

// maxReported bounds how much is remembered. Beyond that some is reported again.
const maxReported = 1024

// isDamaged reports whether an error is about one record alone. A store that contradicts what
// is known is in doubt as a whole.
func isDamaged(err error) bool {
	return errors.Is(err, record.ErrRecord) && !errors.Is(err, store.ErrDoubt)
}

// leaveOut reports whether an error is about one record alone, and logs that once. what says
// what goes on without it.
func (l *Limiter) leaveOut(what, id string, err error) bool {
	if !isDamaged(err) {
		return false
	}
	if l.damaged.first(what, err) {
		l.log.Error("a record cannot be read, and is left out: "+what, "id", id, "error", err)
	}
	return true
}

// first reports whether what a damaged record keeps from being done is not reported yet, and
// notes that it is.
func (d *damaged) first(what string, err error) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	reason := what + ": " + err.Error()
	known := d.reported[reason]
	if len(d.reported) >= maxReported {
		d.reported = nil
	}
	if d.reported == nil {
		d.reported = make(map[string]bool)
	}
	d.reported[reason] = true
	return !known
}

// apart does something with many at once, and, if the record of any of them cannot be read,
// with halves of them, down to the one that is left out.
func apart[T any](all []T, do func([]T) error, leftOut func(T, error)) error {
	err := do(all)
	switch {
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
