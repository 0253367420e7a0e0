package event

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// Hook is a webhook, as far as events concern it.
type Hook struct {
	// URL identifies the hook: messages wait for this address.
	URL string
	// Events are the events that it receives; none: all.
	Events []Name
}

func (h *Hook) wants(name Name) bool {
	return len(h.Events) == 0 || slices.Contains(h.Events, name)
}

type hookID [8]byte

func (id hookID) String() string { return hex.EncodeToString(id[:]) }

func hookIDOf(url string) hookID {
	sum := sha256.Sum256([]byte(url))
	return hookID(sum[:8])
}

// hook is a Hook with the state of its part of the outbox.
type hook struct {
	Hook
	id      hookID
	pending atomic.Int64
	dropped atomic.Int64 // by this process
}

func (o *Outbox) known() []*hook {
	if p := o.current.Load(); p != nil {
		return *p
	}
	return nil
}

// hookOf returns one of some hooks, or nil.
func hookOf(hooks []*hook, url string) *hook {
	if i := slices.IndexFunc(hooks, func(h *hook) bool { return h.URL == url }); i >= 0 {
		return hooks[i]
	}
	return nil
}

// wanted reports whether any hook wants an event.
func (o *Outbox) wanted(name Name) bool {
	return slices.ContainsFunc(o.known(), func(h *hook) bool { return h.wants(name) })
}

// pruneStep bounds the messages that one change drops.
const pruneStep = 1000

// SetHooks sets the webhooks, at start and after each reload. Messages for a webhook
// that is no longer there are dropped.
func (o *Outbox) SetHooks(hooks []Hook) error {
	before := o.known()
	now := make([]*hook, len(hooks))
	for i, spec := range hooks {
		now[i] = &hook{Hook: spec, id: hookIDOf(spec.URL)}
		if was := hookOf(before, spec.URL); was != nil {
			now[i].dropped.Store(was.dropped.Load())
		}
	}
	if o.cluster != nil {
		return o.replace(now)
	}
	known := make(map[hookID]*hook, len(now))
	for _, h := range now {
		known[h.id] = h
	}
	if len(before) == 0 && len(now) == 0 {
		var any bool
		if err := o.options.Store.View(func(r store.Reader) error {
			return r.Scan([]byte(record.SpaceOutbox), nil, false, func(_, _ []byte) (bool, error) {
				any = true
				return false, nil
			})
		}); err != nil || !any {
			return err
		}
	}
	for {
		more := false
		err := o.write.Do(func(t *commit.Transaction) error {
			more = false
			for _, h := range now { // no other goroutine has them yet
				h.pending.Store(0)
			}
			var gone [][]byte
			err := t.Scan([]byte(record.SpaceOutbox), nil, false, func(key, _ []byte) (bool, error) {
				if len(key) == postKeyLen {
					if h := known[hookID(key[len(record.SpaceOutbox):])]; h != nil {
						h.pending.Add(1)
						return true, nil
					}
				}
				gone = append(gone, slices.Clone(key))
				more = len(gone) == pruneStep
				return !more, nil
			})
			err = errors.Join(err, store.DeleteAll(t, gone))
			if err == nil && !more {
				t.Touch()
				o.hooks = now // everything posted from here on in this batch is for these
			}
			return err
		}, nil)
		if err != nil || !more {
			return err
		}
	}
}

// replace sets the webhooks between two batches, even while the store cannot be reached,
// because nobody would set them again. A batch of unknown outcome holds that up for as long
// as the database is away, and a reload or a stop must not wait so long: the webhooks are
// then set after that batch, and those of a later call after them. Another node may already
// know of more webhooks, so messages for those that are gone stay; see dropOrphans.
func (o *Outbox) replace(now []*hook) error {
	closed := make(chan error, 1)
	o.write.Look(func(store.Reader) error { return nil }, func(err error) {
		if !errors.Is(err, store.ErrClosed) {
			o.current.Store(&now)
			err = nil
		}
		closed <- err
	})
	patience := time.NewTimer(o.write.Patience())
	defer patience.Stop()
	select {
	case err := <-closed:
		return err
	case <-patience.C:
		return nil
	}
}

// HookState is a webhook and what waits for it.
type HookState struct {
	Hook
	Pending int64 // messages
	Dropped int64 // by this node since its start, because too many waited
}

// Hooks lists the webhooks.
func (o *Outbox) Hooks() ([]HookState, error) {
	hooks := o.known()
	states := make([]HookState, len(hooks))
	for i, h := range hooks {
		states[i] = HookState{h.Hook, h.pending.Load(), h.dropped.Load()}
	}
	if o.cluster == nil {
		return states, nil
	}
	err := o.options.Store.View(func(r store.Reader) error {
		common, err := readOutbox(r)
		for i, h := range hooks {
			if err == nil {
				states[i].Pending, err = common.of(r, h.id)
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the outbox: %w", err)
	}
	return states, nil
}

// keepOrphans is how long messages wait for a webhook that the delivering node does not
// know: other nodes may have a newer configuration. After that, the messages would no
// longer be delivered.
const keepOrphans = 3 * 24 * time.Hour

// dropOrphans drops old messages for webhooks that are no longer there.
func (o *Outbox) dropOrphans() error {
	before := o.options.Clock.Now().Add(-keepOrphans)
	known := make(map[hookID]bool)
	for _, h := range o.known() {
		known[h.id] = true
	}
	return o.prune([]byte(record.SpaceOutbox), func(key []byte) (gone, more bool) {
		if len(key) != postKeyLen {
			return true, true
		}
		at := int64(binary.BigEndian.Uint64(key[len(record.SpaceOutbox)+8:]))
		return !known[hookID(key[len(record.SpaceOutbox):])] && at < before.UnixNano(), true
	}, func(t *commit.Transaction, key []byte) error {
		if len(key) != postKeyLen {
			return nil
		}
		return o.move(t, hookID(key[len(record.SpaceOutbox):]), -1)
	})
}
