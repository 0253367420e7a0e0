package limiter

import (
	"bytes"
	"slices"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// batch is the transaction that several changes are written in, together with
// everything that is kept in step with them.
type batch struct {
	*commit.Transaction
	clock       commit.TimeSource
	mark        *commit.ClockMark
	log         *audit.Log
	onces       *onces
	outbox      *event.Outbox
	revocations *revocations
	sums        *commit.Sums
	node        string // whose parts of accounts are written; "": there is only one

	reindex bool // write every index entry, as there is none yet
}

// participants lists the batch's participants, in the order in which they finish.
func (b *batch) participants() []commit.Participant {
	return []commit.Participant{b.mark, b.log, b.onces, b.revocations, b.sums, b.outbox}
}

// offline is a batch in a store that no Limiter has open.
func offline(tx store.Tx, clock commit.TimeSource) (*batch, error) {
	b := &batch{
		Transaction: &commit.Transaction{Tx: tx}, clock: clock, log: new(audit.Log), revocations: new(revocations),
		sums: &commit.Sums{Durable: commit.Tally{Keys: make(map[record.Status]int64)}},
	}
	return b, b.log.Begin(b.Transaction)
}

// setAccount replaces an account's record (nil: none), and updates the sums and
// the index to match.
func (b *batch) setAccount(id record.AccountID, forRole bool, rec *record.Account) error {
	key := record.AccountKey(id)
	var counted record.Amounts
	var after []byte
	if rec != nil {
		counted, after = rec.Counted(), rec.Encode()
	}
	var former *record.Account
	before, _, err := store.Find(b, key)
	if err != nil {
		return err
	}
	change := counted
	if before != nil {
		old, err := record.DecodeAccount(before)
		if err != nil {
			return err
		}
		change = change.Minus(old.Counted())
		former = &old
	}
	if !forRole {
		if err := b.indexUse(id, former, rec); err != nil {
			return err
		}
	}
	if !forRole && change != (record.Amounts{}) {
		if err := b.sums.Count(b.Transaction, change); err != nil {
			return err
		}
	}
	switch {
	case after == nil:
		return b.Delete(key)
	case bytes.Equal(before, after) && b.Shared():
		return nil // only a look at the other nodes' parts
	}
	return b.Set(key, after)
}

// audit adds an entry to the log, and marks the call that caused it as done.
func (b *batch) audit(e *act) error {
	if err := b.log.Add(b.Transaction, b.clock.Now(), &e.Entry); err != nil || e.once == nil {
		return err
	}
	if e.inForce {
		return b.onceIfFree(e.once, e.Key)
	}
	return b.once(e.once, e.Key)
}

// index updates a key's index entries from old to key; either may be nil.
func (b *batch) index(old, key *record.Key) error {
	var before, after [][]byte
	if old != nil && !b.reindex {
		before = indexKeys(old)
	}
	if key != nil {
		after = indexKeys(key)
	}
	return b.moveIndexes(before, after)
}

// indexUse updates an account's index entry from old to rec; either may be nil.
func (b *batch) indexUse(id record.AccountID, old, rec *record.Account) error {
	var before, after [][]byte
	if old != nil && !b.reindex {
		before = [][]byte{lastUseKey(id, old.Last)}
	}
	if rec != nil {
		after = [][]byte{lastUseKey(id, rec.Last)}
	}
	return b.moveIndexes(before, after)
}

func (b *batch) moveIndexes(before, after [][]byte) error {
	for _, key := range before {
		if !among(after, key) {
			if err := b.Delete(key); err != nil {
				return err
			}
		}
	}
	for _, key := range after {
		if !among(before, key) {
			if err := b.Set(key, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

func among(keys [][]byte, key []byte) bool {
	return slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) })
}
