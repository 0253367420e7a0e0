package event

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// Where several nodes share a store, the readers of a feed hear of what happens on any
// of them: each commit leaves its events in a record for the other nodes, which is
// removed soon after. An observer hears only of what happens on its own node, so that
// each event is counted, and handled by Caddy, once.
//
//	n//events/<Unix nanoseconds, 8 bytes><random, 8 bytes>   sharedEvents, as JSON

const (
	// maxShared bounds the events of one commit that are left for other nodes.
	maxShared = 64
	// keepShared is how long they are kept: as long as a node may take to follow.
	keepShared = time.Minute
)

// sharedEvents are the events of one commit.
type sharedEvents struct {
	Events []Event `json:"events"`
	// More says that there were more, which are left out.
	More bool `json:"more,omitempty"`
}

// SharedPrefix begins the rows of events for other nodes.
var SharedPrefix = record.CommonKey("events/")

// share adds an event to those that this batch leaves for the readers of feeds on other
// nodes.
func (o *Outbox) share(t *commit.Transaction, e *Event) error {
	if !t.Shared() {
		return nil
	}
	if !t.Exclusive() {
		return fmt.Errorf("an event for other nodes: %w", store.ErrUndeclared)
	}
	t.Touch()
	if o.shared.More = len(o.shared.Events) == maxShared; !o.shared.More {
		o.shared.Events = append(o.shared.Events, *e)
	}
	return nil
}

// writeShared writes the events of this batch for other nodes.
func (o *Outbox) writeShared(t *commit.Transaction) error {
	if len(o.shared.Events) == 0 {
		return nil
	}
	v, err := json.Marshal(o.shared)
	if err != nil {
		return fmt.Errorf("events for other nodes: %w", err)
	}
	at := o.shared.Events[0].At.UnixNano()
	key := binary.BigEndian.AppendUint64(slices.Clone(SharedPrefix), uint64(max(at, 0)))
	return t.Set(append(key, rand.Text()[:8]...), v)
}

// Follow tells the readers of this node's feeds what has happened on other nodes. keys
// are the rows under SharedPrefix that those have written.
func (o *Outbox) Follow(keys [][]byte) error {
	var heard []sharedEvents
	missed := false
	err := o.options.Store.View(func(r store.Reader) error {
		for _, key := range keys {
			v, there, err := store.Find(r, key)
			if err != nil {
				return err
			}
			if !there {
				missed = true // it was removed before this node came to read it
				continue
			}
			var s sharedEvents
			if err := json.Unmarshal(v, &s); err != nil {
				o.leaveOut(key, fmt.Errorf("events of another node: %w: %w", record.ErrRecord, err))
				missed = true
				continue
			}
			heard = append(heard, s)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading events of other nodes: %w", err)
	}
	for _, s := range heard {
		for _, e := range s.Events {
			o.Feeds.publish(e)
		}
		missed = missed || s.More
	}
	if missed {
		o.Feeds.EndAll() // their readers connect again, and see how everything stands
	}
	return nil
}

// pruneShared removes the events for other nodes that are older than keepShared.
func (o *Outbox) pruneShared() error {
	before := o.options.Clock.Now().Add(-keepShared).UnixNano()
	return o.prune(SharedPrefix, func(key []byte) (gone, more bool) {
		at := key[len(SharedPrefix):]
		if len(at) < 8 {
			return true, true // of no commit
		}
		more = int64(binary.BigEndian.Uint64(at)) < before
		return more, more
	}, nil)
}
