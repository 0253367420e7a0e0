package limiter

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
)

// tally holds sums over all keys, kept in step with the records by the same
// transactions, so that nobody has to count a million keys.
type tally struct {
	Keys map[Status]int64 `json:"keys"` // by recorded status
	// Forgotten is what forgotten keys had used, so that sums still agree.
	Forgotten Amounts `json:"forgotten"`
}

// Stats describes the limiter as a whole.
type Stats struct {
	// Keys counts keys by recorded status. An end that nobody has noticed
	// yet is recorded within a minute.
	Keys map[Status]int64
	// Holds counts requests in flight.
	Holds int64
	// Forfeited counts activations that a crash made count as used since
	// this start, at most: some of them were.
	Forfeited int64
	// Forgotten is what forgotten keys had used.
	Forgotten Amounts
	// Failure is why the store refuses everything; empty while it works.
	Failure string
}

// Stats returns the sums as they stand.
func (l *Limiter) Stats() Stats {
	l.tallyMu.Lock()
	s := Stats{Keys: maps.Clone(l.tally.Keys), Forgotten: l.tally.Forgotten}
	l.tallyMu.Unlock()
	if s.Keys == nil {
		s.Keys = map[Status]int64{}
	}
	s.Holds, s.Forfeited = l.holds.Load(), l.forfeited.Load()
	if err := l.committer.failed.Load(); err != nil {
		s.Failure = (*err).Error()
	}
	return s
}

// recorded is the status that a record has by itself, without its account.
func (k *Key) recorded() Status {
	switch {
	case k.EndedStatus != "":
		return k.EndedStatus
	case !k.SuspendedAt.IsZero():
		return Suspended
	default:
		return Active
	}
}

// count moves a key from one status to another in the tally; "" is nowhere.
func count(tx Tx, from, to Status, forgotten Amounts) (tally, error) {
	var t tally
	b, err := tx.Get(metaTally)
	switch {
	case err == nil:
		if err := json.Unmarshal(b, &t); err != nil {
			return t, fmt.Errorf("tally: %w: %w", errRecord, err)
		}
	case !errors.Is(err, ErrNotFound):
		return t, err
	}
	if t.Keys == nil {
		t.Keys = make(map[Status]int64)
	}
	if from != "" {
		t.Keys[from]--
	}
	if to != "" {
		t.Keys[to]++
	}
	for k, n := range forgotten {
		t.Forgotten[k] += n
	}
	if b, err = json.Marshal(&t); err != nil {
		return t, err
	}
	return t, tx.Set(metaTally, b)
}
