package record

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/till-proxy/till/limiter/store"
)

// rows is a store of a few rows; one that is nil cannot be read now.
type rows map[string][]byte

var errAway = errors.New("the database is away")

// Get implements store.Reader.
func (r rows) Get(key []byte) ([]byte, error) {
	switch v, is := r[string(key)]; {
	case !is:
		return nil, store.ErrNotFound
	case v == nil:
		return nil, errAway
	default:
		return v, nil
	}
}

// Scan implements store.Reader.
func (rows) Scan([]byte, []byte, bool, func(key, value []byte) (bool, error)) error {
	return errors.New("nothing is scanned")
}

// TestOnlyWhatIsNotThereIsDamaged: a database that is away for a moment must cost no key its
// requests.
func TestOnlyWhatIsNotThereIsDamaged(t *testing.T) {
	t.Parallel()
	const parent, child = "key_01M86CH3M0D7699WF51GHGBEE1", "key_01M86CH3M0D7699WF51GHGBEE2"
	record := func(k *Key) []byte {
		v, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	account, err := KeyAccount(child)
	if err != nil {
		t.Fatal(err)
	}
	k := &Key{ID: child, Parent: parent, Depth: 1, Limit: NoLimits()}
	for name, read := range map[string]struct {
		row []byte
		fn  func(r store.Reader) error
	}{
		"an account": {AccountKey(account), func(r store.Reader) error { _, _, err := ReadKey(r, child); return err }},
		"a parent":   {RecordKey(parent), func(r store.Reader) error { return CheckAncestry(r, k) }},
	} {
		r := rows{string(RecordKey(child)): record(k)}
		if err := read.fn(r); !errors.Is(err, ErrRecord) || errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s is not there: %v", name, err)
		}
		r[string(read.row)] = nil
		if err := read.fn(r); !errors.Is(err, errAway) || errors.Is(err, ErrRecord) {
			t.Errorf("%s cannot be read now: %v", name, err)
		}
	}
	if _, _, err := ReadKey(rows{}, child); !errors.Is(err, store.ErrNotFound) || errors.Is(err, ErrRecord) {
		t.Errorf("no key: %v", err)
	}
}
