package commit

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// Tally holds sums over all keys, which the same transactions keep in step with the
// records, so that a million keys never have to be counted.
type Tally struct {
	Keys map[record.Status]int64 `json:"keys"` // by recorded status
	// Counted is what all keys have used or reserved.
	Counted record.Amounts `json:"counted"`
	// Forgotten is what forgotten keys had used, so that the sums still agree.
	Forgotten record.Amounts `json:"forgotten"`
}

// Sums holds the tally in memory, and that of the batch being written.
type Sums struct {
	mu      sync.Mutex // guards durable, which the committer alone changes
	Durable Tally
	next    Tally
	changed bool
}

func (s *Sums) Begin() { s.changed = false }

// Change returns the sums of this batch, to be changed.
func (s *Sums) Change(t *Transaction) *Tally {
	t.Touch()
	if !s.changed {
		s.next, s.changed = s.Durable, true
		s.next.Keys = maps.Clone(s.Durable.Keys)
	}
	return &s.next
}

func (s *Sums) Finish(t *Transaction) error {
	if !s.changed {
		return nil
	}
	v, err := json.Marshal(s.next)
	if err != nil {
		return err
	}
	return t.Set(record.MetaTally, v)
}

func (s *Sums) Committed() {
	if s.changed {
		s.mu.Lock()
		s.Durable = s.next
		s.mu.Unlock()
	}
}

// Known returns the sums as of the last commit.
func (s *Sums) Known() Tally {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Durable
}

func ReadTally(r store.Reader) (Tally, error) {
	t := Tally{Keys: make(map[record.Status]int64)}
	v, err := r.Get(record.MetaTally)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return t, nil
	case err != nil:
		return t, err
	}
	if err := json.Unmarshal(v, &t); err != nil {
		return t, fmt.Errorf("tally: %w: %w", record.ErrRecord, err)
	}
	return t, nil
}

// Interface guards
var _ Participant = (*Sums)(nil)
