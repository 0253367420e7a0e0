package limiter

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// A database that nodes share has gone back in time: its last commits are lost. The
// living nodes know how many commits those were, but not which, and nodes that are gone
// cannot say. So any account may have used more than its record says, and any living key
// may have been revoked: a repair spends every budget, and suspends the keys that no
// budget stops. A key that was minted in the lost time is no longer known, and its string
// is refused.

// Doubted is a store that several nodes share, and that none of them uses because it
// has lost commits.
type Doubted interface {
	store.Store
	// Why says how a node found that out.
	Why() string
	// Finish is the last Update of a repair. It ends the doubt, and makes every node
	// that is still running open the store again rather than go on from memory.
	Finish(fn func(store.Tx) error) error
}

// ForfeitShared does for a database of several nodes what Forfeit does for the store of
// one. It may be cut off at any point and run again.
func ForfeitShared(s Doubted, by Caller, roles map[string]record.Role, now time.Time, log *slog.Logger) (Repaired, error) {
	if err := onlyOperator(by); err != nil {
		return Repaired{}, err
	}
	r := rebuild{store: s, now: now, by: by, action: audit.ActStoreRepair, forfeit: true, shared: true, roles: roles, why: s.Why(), log: log}
	if err := errors.Join(r.begin(), r.records()); err != nil {
		return r.done.Repaired, err
	}
	// The accounts hold the sums of the parts. Nodes begin again without parts.
	if err := r.each(record.SpaceParts, nothingBeside, wipe); err != nil {
		return r.done.Repaired, fmt.Errorf("folding the parts of nodes: %w", err)
	}
	err := s.Finish(func(tx store.Tx) error {
		b, err := offline(tx, stopped(now))
		if err != nil {
			return err
		}
		return errors.Join(r.finish(b), forgetNodes(tx))
	})
	if err == nil {
		log.Warn("the database was repaired: remaining budgets count as spent",
			"keys", r.done.Keys, "forfeited", r.done.Forfeited, "suspended", r.done.Suspended, "tokens_revoked", r.done.Tokens)
	}
	return r.done.Repaired, err
}

// forgetNodes deletes the records that each node keeps for itself: its session, without
// which its shadow file is not believed, and its share of the tally, which has just been
// counted again. Common records stay.
func forgetNodes(tx store.Tx) error {
	var own [][]byte
	err := tx.Scan([]byte(record.SpaceNodes), nil, false, func(key, _ []byte) (bool, error) {
		if !bytes.HasPrefix(key, record.CommonKey("")) {
			own = append(own, bytes.Clone(key))
		}
		return true, nil
	})
	return errors.Join(err, store.DeleteAll(tx, own))
}

// ImagineForfeit says what Forfeit or ForfeitShared would do, and changes nothing.
func ImagineForfeit(s store.Store, by Caller, roles map[string]record.Role, now time.Time) (Repaired, error) {
	if err := onlyOperator(by); err != nil {
		return Repaired{}, err
	}
	r := rebuild{store: imagined{s}, now: now, by: by, forfeit: true, imagine: true, roles: roles}
	err := errors.Join(r.begin(), r.records())
	return r.done.Repaired, err
}

// imagined is a store whose transactions change nothing.
type imagined struct{ store.Store }

// Update implements store.Store.
func (i imagined) Update(fn func(store.Tx) error) error {
	return i.View(func(r store.Reader) error { return fn(&draft{Reader: r, writes: make(map[string][]byte)}) })
}

// draft is a transaction that reads what it has written, except in scans, and is never
// committed.
type draft struct {
	store.Reader
	writes map[string][]byte // nil: deleted
}

// Get implements store.Reader.
func (d *draft) Get(key []byte) ([]byte, error) {
	value, written := d.writes[string(key)]
	switch {
	case !written:
		return d.Reader.Get(key)
	case value == nil:
		return nil, store.ErrNotFound
	}
	return value, nil
}

// Fetch implements store.Fetcher.
func (d *draft) Fetch(keys [][]byte) error { return store.Fetch(d.Reader, keys...) }

// Set implements store.Tx.
func (d *draft) Set(key, value []byte) error {
	d.writes[string(key)] = append([]byte{}, value...)
	return nil
}

// Delete implements store.Tx.
func (d *draft) Delete(key []byte) error {
	d.writes[string(key)] = nil
	return nil
}

// Interface guards
var (
	_ store.Tx      = (*draft)(nil)
	_ store.Fetcher = (*draft)(nil)
	_ store.Store   = imagined{}
)
