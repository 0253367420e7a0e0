package record

import (
	"encoding/json"
	"fmt"

	"github.com/till-proxy/till/limiter/store"
)

// FindJSON reads a row that is JSON into v, and reports whether there is one. what names
// the row in the error if it is damaged.
func FindJSON(r store.Reader, key []byte, v any, what string) (there bool, err error) {
	b, there, err := store.Find(r, key)
	if there {
		if err = json.Unmarshal(b, v); err != nil {
			err = fmt.Errorf("%s: %w: %w", what, ErrRecord, err)
		}
	}
	return there, err
}

// SetJSON writes a row as JSON.
func SetJSON(tx store.Tx, key []byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return tx.Set(key, b)
}
