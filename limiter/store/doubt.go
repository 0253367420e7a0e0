package store

import (
	"errors"
	"fmt"
)

// ErrDoubt is wrapped by errors about a store that may have lost something. The store
// stays closed until an operator decides.
var ErrDoubt = errors.New("the store may be older than what it had acknowledged")

func Doubt(format string, args ...any) error {
	return fmt.Errorf("%w: %s; put the newest store and its anchor in place, or count every remaining budget as spent with: caddy till repair --forfeit",
		ErrDoubt, fmt.Sprintf(format, args...))
}
