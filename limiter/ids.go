package limiter

import (
	"crypto/rand"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"
)

// ids makes the ids of keys and of admin tokens. Within a millisecond of its clock each
// is greater than the one before, so what one Limiter has made is listed in the order in
// which it was made. The zero value makes none; newIDs is its constructor.
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
