package commit

import (
	"bytes"
	"encoding/json"
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
//
// Where several nodes share the store, the number of keys is read and written within
// the transaction: only a transaction that runs alone changes it. The use of keys changes
// far more often, in transactions that run beside those of other nodes. So each node
// keeps a share in a row of its own: by how much its commits have changed that sum. A
// share may be negative; only the sum of all shares has a meaning.
type Sums struct {
	mu      sync.Mutex // guards durable, which the committer alone changes
	Durable Tally
	next    Tally
	changed bool

	// Of a shared store.
	node    string
	own     Share          // this node's share as of the last commit
	share   record.Amounts // what own.Counted will be after this batch
	counted bool           // whether this batch changes it
}

// Share is what one node adds to Tally.Counted. Each start of a node begins another
// session; the share of an ended session no longer changes.
type Share struct {
	Session string         `json:"session"`
	Counted record.Amounts `json:"counted"`
}

// shareName is what a node's share is called in the store, and shareTitle in errors.
const (
	shareName  = "tally"
	shareTitle = "a node's share of the tally"
)

// Begin implements Participant.
func (s *Sums) Begin(*Transaction) error {
	s.changed, s.counted = false, false
	return nil
}

// Change returns the sums of this batch for the caller to change, except for the use of
// keys, which Count changes.
func (s *Sums) Change(t *Transaction) (*Tally, error) {
	t.Touch()
	if s.changed {
		return &s.next, nil
	}
	if t.Shared() {
		next, err := ReadTally(t)
		if err != nil {
			return nil, err
		}
		s.next = next
	} else {
		s.next = s.Durable
		s.next.Keys = maps.Clone(s.Durable.Keys)
	}
	s.changed = true
	return &s.next, nil
}

// Count adds to what all keys have used or reserved.
func (s *Sums) Count(t *Transaction, change record.Amounts) error {
	if t.Shared() {
		t.Touch()
		if !s.counted {
			s.share, s.counted = s.own.Counted, true
		}
		s.share.Add(change)
		return nil
	}
	sums, err := s.Change(t)
	if err == nil {
		sums.Counted.Add(change)
	}
	return err
}

// Finish implements Participant.
func (s *Sums) Finish(t *Transaction) error {
	if s.counted {
		if err := record.SetJSON(t, record.NodeKey(s.node, shareName), Share{Session: s.own.Session, Counted: s.share}); err != nil {
			return err
		}
	}
	if !s.changed {
		return nil
	}
	return record.SetJSON(t, record.MetaTally, s.next)
}

// Committed implements Participant.
func (s *Sums) Committed() {
	if s.counted {
		s.own.Counted = s.share
	}
	if s.changed && s.node == "" {
		s.mu.Lock()
		s.Durable = s.next
		s.mu.Unlock()
	}
}

// Follow notes the sums over all nodes as they were read from a shared store.
func (s *Sums) Follow(t Tally) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Durable = t
}

// Known returns the sums as of the last commit, or, in a shared store, as they were
// read last.
func (s *Sums) Known() Tally {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Durable
}

// TakeShare begins the node's share for a new session, and adds the previous session's
// share to the tally: only one process at a time commits as this node. It is called
// before anything is counted.
func (s *Sums) TakeShare(t *Transaction, node, session string) error {
	s.node, s.own = node, Share{Session: session}
	var former Share
	if there, err := record.FindJSON(t, record.NodeKey(node, shareName), &former, shareTitle); err != nil || !there {
		return err
	}
	return s.fold(t, node, former)
}

// fold adds a share that no longer changes to the tally.
func (s *Sums) fold(t *Transaction, node string, share Share) error {
	sums, err := s.Change(t)
	if err != nil {
		return err
	}
	sums.Counted.Add(share.Counted)
	return t.Delete(record.NodeKey(node, shareName))
}

// Fold adds the shares of nodes that the store no longer lists to the tally, except
// those of nodes that have begun another session since the shares were read.
func (s *Sums) Fold(t *Transaction, unlisted map[string]Share) error {
	for node, share := range unlisted {
		var now Share
		there, err := record.FindJSON(t, record.NodeKey(node, shareName), &now, shareTitle)
		if err != nil {
			return err
		}
		if !there || now.Session != share.Session {
			continue
		}
		if err := s.fold(t, node, now); err != nil {
			return err
		}
	}
	return nil
}

// ReadTally reads the sums without the shares of nodes.
func ReadTally(r store.Reader) (Tally, error) {
	t := Tally{Keys: make(map[record.Status]int64)}
	_, err := record.FindJSON(r, record.MetaTally, &t, "tally")
	return t, err
}

// ReadShares reads the shares of all nodes.
func ReadShares(r store.Reader) (map[string]Share, error) {
	shares := make(map[string]Share)
	prefix, name := []byte(record.SpaceNodes), []byte("/"+shareName)
	err := r.Scan(prefix, nil, false, func(key, value []byte) (bool, error) {
		node, is := bytes.CutSuffix(key[len(prefix):], name)
		if !is {
			return true, nil
		}
		var share Share
		if err := json.Unmarshal(value, &share); err != nil {
			return false, fmt.Errorf("%s: %w: %w", shareTitle, record.ErrRecord, err)
		}
		shares[string(node)] = share
		return true, nil
	})
	return shares, err
}

// ReadAllSums reads the sums of a shared store, with the shares of all nodes.
func ReadAllSums(r store.Reader) (Tally, error) {
	t, err := ReadTally(r)
	if err != nil {
		return t, err
	}
	shares, err := ReadShares(r)
	for _, share := range shares {
		t.Counted.Add(share.Counted)
	}
	return t, err
}

// Interface guards
var _ Participant = (*Sums)(nil)
