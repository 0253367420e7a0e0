package event

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// The outbox holds the messages that are yet to be delivered to webhooks. A message
// is written in the transaction of the act that it reports, one for each webhook that
// wants the event, and deleted once it was delivered: so each is delivered at least
// once, even over a crash. Its id and its text never change.
//
//	o/<hook, 8 bytes><Unix nanoseconds, 8 bytes><random, 8 bytes>   postRecord

const (
	// leadAgain is how often a node that delivers for all looks whether it still does.
	leadAgain = time.Second
	// pruneStep bounds what one change drops.
	pruneStep = 1000
)

// maxPosts bounds the messages that wait for one webhook. Further ones are dropped
// and counted.
const maxPosts = 10_000

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

// Message is an event on its way to a webhook.
type Message struct {
	// ID is the same for each attempt, and for each hook that receives the same
	// event.
	ID       string
	Event    Name
	Payload  []byte
	At       time.Time // of the event
	Attempts int       // that have failed

	key []byte
}

// postRecord is a message in the store.
type postRecord struct {
	Event    Name            `json:"event"`
	Payload  json.RawMessage `json:"payload"`
	Attempts int             `json:"attempts,omitempty"`
	Next     int64           `json:"next,omitempty"` // Unix nanoseconds of the next attempt
}

const postKeyLen = len(record.SpaceOutbox) + 8 + 16

func outboxPrefix(id hookID) []byte { return append([]byte(record.SpaceOutbox), id[:]...) }

// message is what a record of the outbox says.
func message(key, value []byte) (Message, postRecord, error) {
	var rec postRecord
	if len(key) != postKeyLen {
		return Message{}, rec, fmt.Errorf("outbox: %w", record.ErrRecord)
	}
	if err := json.Unmarshal(value, &rec); err != nil {
		return Message{}, rec, fmt.Errorf("outbox: %w: %w", record.ErrRecord, err)
	}
	event := key[len(record.SpaceOutbox)+8:]
	return Message{
		ID: "msg_" + hex.EncodeToString(event), Event: rec.Event, Payload: rec.Payload, Attempts: rec.Attempts,
		At: time.Unix(0, int64(binary.BigEndian.Uint64(event))), key: slices.Clone(key),
	}, rec, nil
}

// Options is what an outbox works with.
type Options struct {
	Store store.Store
	Clock commit.TimeSource
	// Posted is called when a message was put into the outbox. Default: none.
	Posted func()
	// Happened is called with each event of this node, once that is durable. Default:
	// none.
	Happened func(Event)
	// Stopping reports whether long work is to end.
	Stopping func() bool
}

// Outbox is what memory knows of the outbox, and what the batch being written does to
// it, with the events that are reported once that is durable.
//
// Where several nodes share the store, they keep in a record what memory cannot know:
// how many messages wait for each webhook, and the moment of the latest. One node
// delivers the messages of all, so all must be configured with the same webhooks.
type Outbox struct {
	Feeds   Feeds
	options Options
	write   commit.Writer
	cluster store.Shared // the store, if several nodes share it; otherwise nil

	current atomic.Pointer[[]*hook]
	last    uint64 // moment of the latest message

	hooks  []*hook // after this batch
	next   uint64
	posts  []posted
	events []report

	common *outboxRecord // of a shared store, after this batch; nil until it is needed
	moved  bool          // common has changed
	shared sharedEvents  // for the readers of other nodes' feeds
}

// NewOutbox returns an outbox without webhooks. Start is called before anything else.
func NewOutbox(o Options) *Outbox {
	cluster, _ := o.Store.(store.Shared)
	return &Outbox{options: o, cluster: cluster}
}

// Start lets the outbox write. The outbox is one of the writer's participants.
func (o *Outbox) Start(w commit.Writer) { o.write = w }

// outboxRecord is what nodes have in common of the outbox.
type outboxRecord struct {
	Last    uint64           `json:"last"`    // moment of the latest message
	Pending map[string]int64 `json:"pending"` // messages, by the hook's id
}

var outboxKey = record.CommonKey("outbox")

// posted is one message that came or went in a batch, or one that was dropped, which
// is counted, too.
type posted struct {
	hook    *hook
	pending int64
	dropped int64
}

// report is an event that is reported once its batch is durable.
type report struct {
	Event
	observe bool
}

// Begin implements commit.Participant.
func (o *Outbox) Begin(*commit.Transaction) error {
	o.hooks, o.next = o.known(), o.last
	clear(o.events)
	o.posts, o.events = o.posts[:0], o.events[:0]
	o.common, o.moved, o.shared = nil, false, sharedEvents{}
	return nil
}

// read reads what nodes have in common.
func (o *Outbox) read(t *commit.Transaction) (err error) {
	if o.common == nil {
		if o.common, err = readOutbox(t); err == nil {
			o.next = max(o.next, o.common.Last)
		}
	}
	return err
}

func readOutbox(r store.Reader) (*outboxRecord, error) {
	rec := new(outboxRecord)
	v, err := r.Get(outboxKey)
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return nil, err
	default:
		if err := json.Unmarshal(v, rec); err != nil {
			return nil, fmt.Errorf("outbox: %w: %w", record.ErrRecord, err)
		}
	}
	if rec.Pending == nil {
		rec.Pending = make(map[string]int64)
	}
	return rec, nil
}

// of is how many messages wait for a hook; those that nobody has counted yet are
// counted.
func (c *outboxRecord) of(r store.Reader, id hookID) (n int64, err error) {
	n, known := c.Pending[id.String()]
	if known {
		return n, nil
	}
	err = r.Scan(outboxPrefix(id), nil, false, func(_, _ []byte) (bool, error) {
		n++
		return true, nil
	})
	if err == nil {
		c.Pending[id.String()] = n
	}
	return n, err
}

// move counts a message that comes or goes, before that is written.
func (o *Outbox) move(t *commit.Transaction, id hookID, change int64) error {
	if err := o.read(t); err != nil {
		return err
	}
	n, err := o.common.of(t, id)
	if err == nil {
		o.common.Pending[id.String()], o.moved = max(n+change, 0), true
	}
	return err
}

// Finish implements commit.Participant.
func (o *Outbox) Finish(t *commit.Transaction) error {
	if err := o.writeShared(t); err != nil || !o.moved {
		return err
	}
	o.common.Last = o.next
	v, err := json.Marshal(o.common)
	if err != nil {
		return err
	}
	return t.Set(outboxKey, v)
}

// Committed implements commit.Participant.
func (o *Outbox) Committed() {
	o.last = o.next
	if !slices.Equal(o.hooks, o.known()) {
		hooks := o.hooks
		o.current.Store(&hooks)
	}
	came := false
	for _, p := range o.posts {
		p.hook.pending.Add(p.pending)
		p.hook.dropped.Add(p.dropped)
		came = came || p.pending > 0
	}
	if came && o.options.Posted != nil {
		o.options.Posted()
	}
	for i := range o.events {
		o.spread(o.events[i].Event, o.events[i].observe)
	}
}

// Emit has an event of this transaction reported once that is durable, and queues it for
// webhooks.
func (o *Outbox) Emit(t *commit.Transaction, e Event) error { return o.emit(t, report{e, true}) }

// EmitObserved is Emit for an event that Options.Happened knows already.
func (o *Outbox) EmitObserved(t *commit.Transaction, e Event) error {
	return o.emit(t, report{e, false})
}

func (o *Outbox) emit(t *commit.Transaction, e report) error {
	if e.At.IsZero() {
		e.At = o.options.Clock.Now().UTC()
	}
	t.Touch()
	o.events = append(o.events, e)
	return errors.Join(o.share(t, &e.Event), o.post(t, &e.Event))
}

// EmitNow reports an event that no transaction is about. Locks may be held. failed is
// called if it could not be kept for webhooks.
func (o *Outbox) EmitNow(e Event, failed func(error)) {
	e.At = o.options.Clock.Now().UTC()
	o.spread(e, true)
	if o.cluster == nil && !o.wanted(e.Name) {
		return
	}
	o.write.Submit(func(t *commit.Transaction) error {
		return errors.Join(o.share(t, &e), o.post(t, &e))
	}, func(err error) {
		if err != nil {
			failed(err)
		}
	})
}

// spread hands an event to the readers of feeds, and to the observer unless that knows
// the event already.
func (o *Outbox) spread(e Event, observe bool) {
	o.Feeds.publish(e)
	if observe && o.options.Happened != nil {
		o.options.Happened(e)
	}
}

// post writes an event into the outbox of each hook that wants it.
func (o *Outbox) post(t *commit.Transaction, e *Event) error {
	var event [16]byte
	var value []byte
	for _, h := range o.hooks {
		if !h.wants(e.Name) {
			continue
		}
		n, err := o.waiting(t, h)
		if err != nil {
			return err
		}
		if n >= maxPosts {
			t.Touch()
			o.posts = append(o.posts, posted{hook: h, dropped: 1})
			continue
		}
		if value == nil {
			payload, err := e.JSON()
			if err != nil {
				return err
			}
			if value, err = json.Marshal(postRecord{Event: e.Name, Payload: payload}); err != nil {
				return fmt.Errorf("outbox: %w", err)
			}
			o.next = max(o.next+1, uint64(max(e.At.UnixNano(), 0))) // messages of the same instant are in order, too
			binary.BigEndian.PutUint64(event[:], o.next)
			if _, err := rand.Read(event[8:]); err != nil {
				return fmt.Errorf("outbox: %w", err)
			}
		}
		o.posts = append(o.posts, posted{hook: h, pending: 1})
		if t.Shared() {
			if err := o.move(t, h.id, 1); err != nil {
				return err
			}
		}
		if err := t.Set(append(outboxPrefix(h.id), event[:]...), value); err != nil {
			return err
		}
	}
	return nil
}

// waiting is how many messages wait for a hook, after this batch.
func (o *Outbox) waiting(t *commit.Transaction, h *hook) (int64, error) {
	if t.Shared() {
		if err := o.read(t); err != nil {
			return 0, err
		}
		return o.common.of(t, h.id)
	}
	n := h.pending.Load()
	for _, p := range o.posts {
		if p.hook == h {
			n += p.pending
		}
	}
	return n, nil
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
	if o.cluster != nil {
		// Another node may know of more webhooks already, so their messages stay;
		// see dropOrphans.
		return o.write.Do(func(t *commit.Transaction) error {
			t.Touch()
			o.hooks = now
			return nil
		}, nil)
	}
	for {
		more := false
		err := o.write.Do(func(t *commit.Transaction) error {
			more = false
			for _, h := range now { // which no other goroutine has yet
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
			for _, key := range gone {
				err = errors.Join(err, t.Delete(key))
			}
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

// Due lists some of the messages that are now to be delivered to a webhook,
// oldest first, and the time until the next one is due; 0 when none waits. Where
// several nodes share the store, one of them gets messages, and has to look for those
// of the others.
func (o *Outbox) Due(url string, most int) (due []Message, next time.Duration, err error) {
	if o.cluster != nil && !o.cluster.Leads() {
		return nil, leadAgain, nil
	}
	now := o.options.Clock.Now()
	err = o.options.Store.View(func(r store.Reader) error {
		return r.Scan(outboxPrefix(hookIDOf(url)), nil, false, func(key, value []byte) (bool, error) {
			m, rec, err := message(key, slices.Clone(value))
			if err != nil {
				return false, err
			}
			if wait := time.Unix(0, rec.Next).Sub(now); wait > 0 {
				if next == 0 || wait < next {
					next = wait
				}
				return true, nil
			}
			due = append(due, m)
			return len(due) < most, nil
		})
	})
	if err != nil {
		return nil, 0, fmt.Errorf("reading the outbox: %w", err)
	}
	if o.cluster != nil && (next == 0 || next > leadAgain) {
		next = leadAgain
	}
	return due, next, nil
}

// Forget removes a message that was delivered or given up.
func (o *Outbox) Forget(url string, m Message) error {
	return o.write.Do(func(t *commit.Transaction) error {
		if _, err := t.Get(m.key); errors.Is(err, store.ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		if t.Shared() {
			return errors.Join(o.move(t, hookIDOf(url), -1), t.Delete(m.key))
		}
		if h := hookOf(o.hooks, url); h != nil {
			o.posts = append(o.posts, posted{hook: h, pending: -1})
		}
		return t.Delete(m.key)
	}, nil)
}

// Postpone says that an attempt has failed, and when the next one is.
func (o *Outbox) Postpone(m Message, wait time.Duration) error {
	next := o.options.Clock.Now().Add(wait)
	return o.write.Do(func(t *commit.Transaction) error {
		value, err := t.Get(m.key)
		if errors.Is(err, store.ErrNotFound) {
			return nil // its webhook is gone
		}
		if err != nil {
			return err
		}
		_, rec, err := message(m.key, value)
		if err != nil {
			return err
		}
		rec.Attempts, rec.Next = m.Attempts+1, next.UnixNano()
		if value, err = json.Marshal(rec); err != nil {
			return err
		}
		return t.Set(m.key, value)
	}, nil)
}

// keepOrphans is how long messages wait for a webhook that the node which delivers does
// not know: other nodes may have a newer configuration. After that they would not be
// delivered any more.
const keepOrphans = 3 * 24 * time.Hour

// Sweep drops what a store that several nodes share need not keep any longer: events that
// the others have heard of, and messages for webhooks that are gone. One node does it.
func (o *Outbox) Sweep() error {
	err := o.pruneShared()
	if err != nil {
		err = fmt.Errorf("removing events that other nodes have heard of: %w", err)
	}
	if dropping := o.dropOrphans(); dropping != nil {
		err = errors.Join(err, fmt.Errorf("dropping messages for webhooks that are gone: %w", dropping))
	}
	return err
}

// prune is commit.Prune.
func (o *Outbox) prune(prefix []byte, old func(key []byte) (gone, more bool), also func(t *commit.Transaction, key []byte) error) error {
	return commit.Prune(o.write, o.options.Store, o.options.Stopping, prefix, old, also)
}

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

// Interface guards
var _ commit.Participant = (*Outbox)(nil)
