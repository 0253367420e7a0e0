package limiter

import (
	"crypto/rand"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"
)

// ids makes the ids of keys and of admin tokens. Of two that are made one after the other
// in one millisecond of the clock, the second is greater, so lists keep the order of making.
// newIDs is its constructor: the zero value makes none.
type ids struct{ entropy ulid.LockedMonotonicReader }

func newIDs() ids {
	return ids{ulid.LockedMonotonicReader{MonotonicReader: ulid.Monotonic(rand.Reader, 0)}}
}

// next makes an id that begins with prefix and holds the time now.
func (i *ids) next(prefix string, now time.Time) (string, error) {
	id, err := ulid.New(ulid.Timestamp(now), &i.entropy)
	if err != nil {
		return "", fmt.Errorf("making an id: %w", err)
	}
	return prefix + id.String(), nil
}
