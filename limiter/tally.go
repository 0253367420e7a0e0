package limiter

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// tally holds sums over all keys, kept in step with the records by the same
// transactions, so that nobody has to count a million keys.
type tally struct {
	Keys map[record.Status]int64 `json:"keys"` // by recorded status
	// Counted is what all keys have used or reserved.
	Counted record.Amounts `json:"counted"`
	// Forgotten is what forgotten keys had used, so that sums still agree.
	Forgotten record.Amounts `json:"forgotten"`
}

// sums is the tally, in memory and of the batch that is being written.
type sums struct {
	mu      sync.Mutex // guards durable, which the committer alone changes
	durable tally
	next    tally
	changed bool
}

func (s *sums) Begin() { s.changed = false }

// change returns the sums of this batch, for changing them.
func (s *sums) change(t *transaction) *tally {
	t.touch()
	if !s.changed {
		s.next, s.changed = s.durable, true
		s.next.Keys = maps.Clone(s.durable.Keys)
	}
	return &s.next
}

func (s *sums) Finish(t *transaction) error {
	if !s.changed {
		return nil
	}
	v, err := json.Marshal(s.next)
	if err != nil {
		return err
	}
	return t.Set(record.MetaTally, v)
}

func (s *sums) Committed() {
	if s.changed {
		s.mu.Lock()
		s.durable = s.next
		s.mu.Unlock()
	}
}

// known are the sums as they were committed last.
func (s *sums) known() tally {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable
}

func readTally(r store.Reader) (tally, error) {
	t := tally{Keys: make(map[record.Status]int64)}
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
var _ participant = (*sums)(nil)
