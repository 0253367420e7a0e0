package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/till-proxy/till/limiter/store"
)

// KeyAccount is the account of a key: the 16 bytes of its ULID.
func KeyAccount(id string) (AccountID, error) {
	if len(id) != len(IDPrefix)+ulid.EncodedSize || id[:len(IDPrefix)] != IDPrefix {
		return AccountID{}, store.ErrNotFound
	}
	u, err := ulid.ParseStrict(id[len(IDPrefix):])
	if err != nil || u.String() != id[len(IDPrefix):] {
		return AccountID{}, store.ErrNotFound
	}
	return AccountID(u), nil
}

// KeyID is the id of the key that an account belongs to, unless it is a role's.
func (id AccountID) KeyID() string { return IDPrefix + ulid.ULID(id).String() }

// Bounded reports whether anything ends the key without further action.
func (k *Key) Bounded() bool {
	return k.Limit.limited() || !k.ExpiresAt.IsZero()
}

// LimitAttempts keeps the limit on attempts in step with the limit on activations.
func (k *Key) LimitAttempts() {
	k.Limit[Attempts] = NoLimit
	if k.Charge == ChargeSuccess && k.Limit[Activations] != NoLimit {
		k.Limit[Attempts] = 2 * k.Limit[Activations]
	}
}

// DueAt is when the key's time may be over and the sweeper looks at it again. Zero:
// never without further action.
//
// For an ended key it is when a child's remaining budget should go back, and when its
// children, if it has any, should end with it: at once.
func (k *Key) DueAt(lastUse time.Time, used, children bool) int64 {
	var at time.Time
	earlier := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if ends := k.graceEnds(); !ends.IsZero() {
		earlier(ends)
	}
	if k.EndedStatus != "" {
		if k.Attached() || children {
			earlier(k.EndedAt.Add(-time.Second)) // at once
		}
		return unixAfter(at)
	}
	if !k.SuspendedAt.IsZero() {
		return unixAfter(at) // it is judged when it is resumed
	}
	if !k.ExpiresAt.IsZero() {
		earlier(k.ExpiresAt)
	}
	if k.FirstUseWithin > 0 && !used {
		earlier(k.CreatedAt.Add(k.FirstUseWithin))
	}
	if k.IdleTimeout > 0 {
		since := slices.MaxFunc([]time.Time{k.CreatedAt, k.RevivedAt, lastUse}, time.Time.Compare)
		earlier(since.Add(k.IdleTimeout))
	}
	return unixAfter(at)
}

// unixAfter is the first whole second after a moment; 0 for the zero time.
func unixAfter(at time.Time) int64 {
	if at.IsZero() {
		return 0
	}
	return at.Unix() + 1
}

// ReadKey reads a key and its account.
func ReadKey(r store.Reader, id string) (*Key, Account, error) {
	var acct Account
	account, err := KeyAccount(id)
	if err != nil {
		return nil, acct, err
	}
	b, err := r.Get(RecordKey(id))
	if err != nil {
		return nil, acct, err
	}
	key, err := DecodeKey(b)
	if err != nil {
		return nil, acct, fmt.Errorf("key %s: %w", id, err)
	}
	if key.ID != id {
		return nil, acct, fmt.Errorf("key %s: %w: it says it is %q", id, ErrRecord, key.ID)
	}
	if b, err = r.Get(AccountKey(account)); err != nil {
		return nil, acct, fmt.Errorf("key %s: its account: %w", id, Missing(err))
	}
	if acct, err = DecodeAccount(b); err != nil {
		return nil, acct, fmt.Errorf("key %s: %w", id, err)
	}
	if acct.Version != key.Version {
		return nil, acct, store.Doubt("key %s is at version %d, and its budget was written for %d", id, key.Version, acct.Version)
	}
	return key, acct, nil
}

// FindAccount reads an account, and reports whether there is one.
func FindAccount(r store.Reader, id AccountID) (acct Account, there bool, err error) {
	b, there, err := store.Find(r, AccountKey(id))
	if there {
		acct, err = DecodeAccount(b)
	}
	return acct, there, err
}

// Missing is the error of reading a row without which another one makes no sense: if it is
// not there, the record is damaged. A store that could not be asked may still have it.
func Missing(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w: it is missing", ErrRecord)
	}
	return err
}

func DecodeKey(b []byte) (*Key, error) {
	key := new(Key)
	if err := json.Unmarshal(b, key); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	for _, limit := range key.Limit {
		if limit < NoLimit {
			return nil, fmt.Errorf("%w: a limit is below zero", ErrRecord)
		}
	}
	return key, nil
}
