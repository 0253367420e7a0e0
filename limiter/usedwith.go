package limiter

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

const (
	// maxSeen bounds how many models and addresses of a key are remembered.
	maxSeen = 16
	// maxSeenLen bounds one of them, in bytes.
	maxSeenLen = 128
)

// Seen is what a key was used for, so that operators can see what it does not need.
// It is not a budget: it is written with other commits, and may lose some seconds in
// a crash.
type Seen struct {
	Models []string `json:"models,omitempty"`
	Addrs  []string `json:"addrs,omitempty"`
	// MoreModels and MoreAddrs say that there were more than are remembered.
	MoreModels bool `json:"more_models,omitempty"`
	MoreAddrs  bool `json:"more_addrs,omitempty"`
}

// seenBy is what memory has seen of a key's use since the key was read.
type seenBy struct {
	Seen
	model string // the last one, which is nearly always the next one, too
	addr  netip.Addr
	addrs []netip.Addr // those behind Addrs, so that their text is not made again
	dirty bool         // not yet in the store
}

// note takes an admitted request into account.
func (s *seenBy) note(ask *Ask) {
	if ask.Addr != s.addr {
		s.addr = ask.Addr
		if len(s.addrs) < 2*maxSeen && !slices.Contains(s.addrs, ask.Addr) {
			s.addrs = append(s.addrs, ask.Addr)
			s.dirty = remember(&s.Addrs, &s.MoreAddrs, pinOf(ask.Addr)) || s.dirty
		}
	}
	for _, model := range ask.Models {
		if model != s.model {
			s.model = model
			s.dirty = remember(&s.Models, &s.MoreModels, model) || s.dirty
		}
	}
}

// remember adds to a list, and reports whether that changed anything.
func remember(list *[]string, more *bool, value string) bool {
	if len(value) > maxSeenLen {
		value = value[:maxSeenLen]
	}
	switch {
	case slices.Contains(*list, value):
		return false
	case len(*list) == maxSeen:
		changed := !*more
		*more = true
		return changed
	}
	*list = append(*list, value)
	return true
}

// take returns what is to be written; nil where nothing is.
func (s *seenBy) take() *Seen {
	if !s.dirty {
		return nil
	}
	s.dirty = false
	return s.clone()
}

func (s *Seen) clone() *Seen {
	c := *s
	c.Models, c.Addrs = slices.Clone(s.Models), slices.Clone(s.Addrs)
	return &c
}

// add takes over what another Seen has.
func (s *Seen) add(o *Seen) {
	for _, model := range o.Models {
		remember(&s.Models, &s.MoreModels, model)
	}
	for _, addr := range o.Addrs {
		remember(&s.Addrs, &s.MoreAddrs, addr)
	}
	s.MoreModels = s.MoreModels || o.MoreModels
	s.MoreAddrs = s.MoreAddrs || o.MoreAddrs
}

// seenKey stands before the hours of a key's history, at the hour 0, so that
// it goes with them.
func seenKey(id string) []byte { return record.HourKey(id, 0) }

func readSeen(r store.Reader, id string) (*Seen, error) {
	s := new(Seen)
	b, there, err := store.Find(r, seenKey(id))
	if there {
		err = json.Unmarshal(b, s)
	}
	if err != nil {
		return nil, fmt.Errorf("what key %s was used for: %w", id, err)
	}
	return s, nil
}

// writeSeen adds to what is in the store.
func writeSeen(tx store.Tx, id string, seen *Seen) error {
	if seen == nil {
		return nil
	}
	all, err := readSeen(tx, id)
	if err != nil {
		return err
	}
	all.add(seen)
	return record.SetJSON(tx, seenKey(id), all)
}

// seenOf is all that is known of a key, in the store and in memory.
func (c *cache) seenOf(r store.Reader, id string) (*Seen, error) {
	all, err := readSeen(r, id)
	if err != nil {
		return nil, err
	}
	if k := c.loaded(id); k != nil {
		k.mu.Lock()
		all.add(&k.seen.Seen)
		k.mu.Unlock()
	}
	return all, nil
}
