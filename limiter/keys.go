package limiter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"
	"unicode"

	"github.com/oklog/ulid/v2"

	"github.com/till-proxy/till/limiter/store"
)

// What the administrative calls answer. A key that does not exist is
// ErrNotFound.
var (
	// ErrVersion says that the key is not at the version the caller named.
	ErrVersion = errors.New("the key has changed since it was read")
	// ErrDead says that only name and labels of an ended key can change.
	ErrDead = errors.New("the key has ended: only its name and labels can change; grant more to revive it")
	// ErrAlive says that a key must have ended to be forgotten.
	ErrAlive = errors.New("the key has not ended: revoke it first")
	// ErrFamily says that a key cannot be forgotten yet because of its children
	// or its parent.
	ErrFamily = errors.New("the budget of child keys has not gone back to where it came from yet: try again within a minute")
	// ErrRevoked says that a revoked key stays revoked.
	ErrRevoked = errors.New("the key was revoked, and that is for ever: mint another")
)

// InvalidError is a value that cannot be taken, and what to do about it.
type InvalidError struct {
	Field string // as in the management API
	Msg   string
}

func (e *InvalidError) Error() string { return e.Field + " " + e.Msg }

func invalid(field, format string, args ...any) error {
	return &InvalidError{Field: field, Msg: fmt.Sprintf(format, args...)}
}

func invalidIf(wrong bool, field, format string, args ...any) error {
	if wrong {
		return invalid(field, format, args...)
	}
	return nil
}

const (
	idPrefix       = "key_"
	maxText        = 512 // bytes of a name, owner, purpose, reason, label
	maxLabels      = 64
	maxMetadata    = 64
	maxTexts       = 16 << 10          // bytes of all text of a key: it is in memory, and in the audit log
	maxAmount      = math.MaxInt64 / 4 // sums of two can not overflow
	maxConcurrency = 1 << 20
)

// keyAccount is the account of a key: the 16 bytes of its ULID.
func keyAccount(id string) (accountID, error) {
	if len(id) != len(idPrefix)+ulid.EncodedSize || id[:len(idPrefix)] != idPrefix {
		return accountID{}, store.ErrNotFound
	}
	u, err := ulid.ParseStrict(id[len(idPrefix):])
	if err != nil || u.String() != id[len(idPrefix):] {
		return accountID{}, store.ErrNotFound
	}
	return accountID(u), nil
}

// Validate judges what an operator may choose, in a mint and in a change.
func (k *Key) Validate() error {
	for _, f := range KeyFields {
		if f.valid != nil {
			if err := f.valid(f.Name, k); err != nil {
				return err
			}
		}
	}
	if n := k.texts(); n > maxTexts {
		return invalid("key:", "name, labels, metadata, models, paths and all other text together may be %d bytes, got %d", maxTexts, n)
	}
	if err := k.Scope.Validate(); err != nil {
		return &InvalidError{Field: "scope:", Msg: err.Error()}
	}
	return nil
}

// texts is the length of all text that somebody chose for the key.
func (k *Key) texts() int {
	n := len(k.Name) + len(k.Owner) + len(k.Purpose)
	for _, pairs := range []map[string]string{k.Labels, k.Metadata} {
		for name, value := range pairs {
			n += len(name) + len(value)
		}
	}
	for _, list := range [][]string{k.Scope.Models, k.Scope.Paths, k.Scope.Methods} {
		for _, rule := range list {
			n += len(rule)
		}
	}
	return n
}

func validText(field, s string) error {
	if len(s) > maxText {
		return invalid(field, "must be at most %d bytes, got %d", maxText, len(s))
	}
	for _, r := range s {
		// Also those of one byte in Latin-1, which begin sequences in terminals,
		// and those that let text seem another.
		if unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp) {
			return invalid(field, "must not contain control characters")
		}
	}
	return nil
}

func validPairs(field string, pairs map[string]string, limit int) error {
	if len(pairs) > limit {
		return invalid(field, "may hold %d entries, got %d", limit, len(pairs))
	}
	for name, value := range pairs {
		if name == "" {
			return invalid(field, "must not have an entry without a name")
		}
		if err := errors.Join(validText(field, name), validText(field+"."+name, value)); err != nil {
			return err
		}
	}
	return nil
}

// Bounded reports whether anything ends the key by itself.
func (k *Key) Bounded() bool {
	return k.Limit.Limited() || !k.ExpiresAt.IsZero()
}

// attempts keeps the limit on attempts in step with that on activations.
func (k *Key) attempts() {
	k.Limit[Attempts] = NoLimit
	if k.Charge == ChargeSuccess && k.Limit[Activations] != NoLimit {
		k.Limit[Attempts] = 2 * k.Limit[Activations]
	}
}

// due is when the key's time may be over: when the sweeper looks at it again.
// Zero: never by itself.
//
// Of an ended key it is when a child's rest should go back, and when children,
// if it has any, should end with it: at once.
func (k *Key) due(lastUse time.Time, used, children bool) int64 {
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
		if k.attached() || children {
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
		since := k.CreatedAt
		for _, t := range []time.Time{k.RevivedAt, lastUse} {
			if t.After(since) {
				since = t
			}
		}
		earlier(since.Add(k.IdleTimeout))
	}
	return unixAfter(at)
}

// unixAfter is the first whole second after a moment; 0 of none.
func unixAfter(at time.Time) int64 {
	if at.IsZero() {
		return 0
	}
	return at.Unix() + 1
}

// readKey reads a key and its account.
func readKey(r store.Reader, id string) (*Key, accountRecord, error) {
	var acct accountRecord
	account, err := keyAccount(id)
	if err != nil {
		return nil, acct, err
	}
	b, err := r.Get(recordKey(id))
	if err != nil {
		return nil, acct, err
	}
	key, err := decodeKey(b)
	if err != nil {
		return nil, acct, fmt.Errorf("key %s: %w", id, err)
	}
	if key.ID != id {
		return nil, acct, fmt.Errorf("key %s: %w: it says it is %q", id, errRecord, key.ID)
	}
	if b, err = r.Get(accountKey(account)); err != nil {
		return nil, acct, fmt.Errorf("key %s: its account: %w", id, errors.Join(errRecord, err))
	}
	if acct, err = decodeAccount(b); err != nil {
		return nil, acct, fmt.Errorf("key %s: %w", id, err)
	}
	if acct.Version != key.Version {
		return nil, acct, doubt("key %s is at version %d, and its budget was written for %d", id, key.Version, acct.Version)
	}
	return key, acct, nil
}

func decodeKey(b []byte) (*Key, error) {
	key := new(Key)
	if err := json.Unmarshal(b, key); err != nil {
		return nil, fmt.Errorf("%w: %w", errRecord, err)
	}
	for _, limit := range key.Limit {
		if limit < NoLimit {
			return nil, fmt.Errorf("%w: a limit is below zero", errRecord)
		}
	}
	return key, nil
}

// writeKey writes a key in place of old (nil for a new one), with everything
// that must agree with it: its account, the time index, the tally, and the entry
// of the audit log (nil: none). One that a job is to end ends along with it.
func writeKey(b *batch, old, key *Key, acct *accountRecord, entry *AuditEntry) error {
	key.Judged = max(key.Judged, b.revocations.next)
	children := false
	if key.Delegate && key.EndedStatus != "" {
		n, err := countChildren(b, key.ID)
		if err != nil {
			return err
		}
		children = n > 0
	}
	key.Due = key.due(fromNanos(acct.Last), acct.First != 0, children)
	var from Status
	if old != nil {
		from = old.recorded()
		if old.Due != 0 && old.Due != key.Due {
			if err := b.Delete(dueKey(old.Due, key.ID)); err != nil {
				return err
			}
		}
	}
	if key.Due != 0 {
		if err := b.Set(dueKey(key.Due, key.ID), nil); err != nil {
			return err
		}
	}
	if err := writeStrings(b, old, key); err != nil {
		return err
	}
	account, err := keyAccount(key.ID)
	if err != nil {
		return err
	}
	acct.Version = key.Version
	if err := b.setAccount(account, false, acct); err != nil {
		return err
	}
	record, err := json.Marshal(key)
	if err != nil {
		return err
	}
	if err := b.Set(recordKey(key.ID), record); err != nil {
		return err
	}
	b.count(from, key.recorded())
	if err := b.index(old, key); err != nil {
		return err
	}
	if entry != nil {
		if err := b.audit(entry); err != nil {
			return err
		}
	}
	if j := b.revocations.pending(key); j != nil && old != nil {
		return b.endKey(key.clone(), key, acct, j.ending(b.clock.Now()))
	}
	return nil
}

// viewNow is the key after something was done to it.
func (l *Limiter) viewNow(id string) (View, error) {
	k, err := l.load(id)
	if err != nil {
		return View{}, err
	}
	return k.View(), nil
}

// Get returns one key.
func (l *Limiter) Get(_ context.Context, by Caller, id string) (View, error) {
	k, err := l.reach(by, KeysRead, id)
	if err != nil {
		return View{}, err
	}
	return k.View(), nil
}
