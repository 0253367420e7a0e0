package limiter

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"
)

// tally holds sums over all keys, kept in step with the records by the same
// transactions, so that nobody has to count a million keys.
type tally struct {
	Keys map[Status]int64 `json:"keys"` // by recorded status
	// Counted is what all keys have used or reserved.
	Counted Amounts `json:"counted"`
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
	// Used is what all keys have used since the store was made, forgotten ones
	// included, requests in flight not.
	Used Amounts
	// Forgotten is what forgotten keys had used: a part of Used.
	Forgotten Amounts
	// ClockOff is how far the machine's clock is from the time that limits are
	// judged by, when it was set; 0 when it is believed.
	ClockOff time.Duration
	// Lockdown is the lockdown in force, or nil.
	Lockdown *LockedDown
}

// Stats returns the sums as they stand.
func (l *Limiter) Stats() Stats {
	t := l.sums.known() // whose map is replaced, never changed
	s := Stats{Keys: maps.Clone(t.Keys), Used: t.Counted, Forgotten: t.Forgotten}
	s.Used.add(s.Forgotten)
	for _, k := range l.everyActive() {
		k.mu.Lock()
		if !k.gone {
			s.Used.add(k.spent)
			s.Used.add(k.past)
			s.Used = s.Used.minus(k.counted)
		}
		k.mu.Unlock()
	}
	s.ClockOff, s.Lockdown = l.clock.doubt(), l.lockdown.State()
	s.Holds, s.Forfeited = l.holds.Load(), l.forfeited.Load()
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

// sums is the tally, in memory and of the batch that is being written.
type sums struct {
	mu      sync.Mutex // guards durable, which the committer alone changes
	durable tally
	next    tally
	changed bool
}

func (s *sums) begin() { s.changed = false }

// change returns the sums of this batch, for changing them.
func (s *sums) change(t *transaction) *tally {
	t.touch()
	if !s.changed {
		s.next, s.changed = s.durable, true
		s.next.Keys = maps.Clone(s.durable.Keys)
	}
	return &s.next
}

func (s *sums) finish(t *transaction) error {
	if !s.changed {
		return nil
	}
	v, err := json.Marshal(s.next)
	if err != nil {
		return err
	}
	return t.Set(metaTally, v)
}

func (s *sums) committed() {
	if s.changed {
		s.take(s.next)
	}
}

func (s *sums) take(t tally) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.durable = t
}

// known are the sums as they were committed last.
func (s *sums) known() tally {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable
}

// count moves a key from one status to another in the sums; "" is nowhere.
func (b *batch) count(from, to Status) {
	if from == to {
		return
	}
	t := b.sums.change(b.transaction)
	if from != "" {
		t.Keys[from]--
	}
	if to != "" {
		t.Keys[to]++
	}
}

func readTally(r Reader) (tally, error) {
	t := tally{Keys: make(map[Status]int64)}
	v, err := r.Get(metaTally)
	switch {
	case errors.Is(err, ErrNotFound):
		return t, nil
	case err != nil:
		return t, err
	}
	if err := json.Unmarshal(v, &t); err != nil {
		return t, fmt.Errorf("tally: %w: %w", errRecord, err)
	}
	return t, nil
}

// Interface guards
var _ participant = (*sums)(nil)
