package event

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// The outbox holds the messages that are yet to be delivered to webhooks. A message
// is written in the transaction of the act that it reports, one for each webhook that
// wants the event, and deleted once it was delivered, or given up: so a crash loses
// none, and may repeat some. Its id and its text never change.
//
//	o/<hook, 8 bytes><Unix nanoseconds, 8 bytes><random, 8 bytes>   postRecord

// maxPosts bounds the messages that wait for one webhook. Further ones are dropped
// and counted.
const maxPosts = 10_000

// Options is what an outbox works with.
type Options struct {
	Store store.Store
	Clock commit.TimeSource
	// Posted is called when a message was put into the outbox. Default: none.
	Posted func()
	// Happened is called with each event of this node, once that is durable. Default:
	// none.
	Happened func(Event)
	// Damaged is called with a row that is left out because it cannot be read. Default: none.
	Damaged func(row []byte, err error)
	// Stopping reports whether long work is to end.
	Stopping func() bool
}

// Outbox is the outbox as memory knows it, with the changes of the batch being written,
// and the events to report once that batch is durable.
//
// Where several nodes share the store, they keep in a record what memory cannot know:
// how many messages wait for each webhook, and the moment of the latest. One node
// delivers the messages of all nodes, so all must be configured with the same webhooks.
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

// Finish implements commit.Participant.
func (o *Outbox) Finish(t *commit.Transaction) error {
	if err := o.writeShared(t); err != nil || !o.moved {
		return err
	}
	o.common.Last = o.next
	return record.SetJSON(t, outboxKey, o.common)
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

// leaveOut reports a row that cannot be read: the others need not wait for it.
func (o *Outbox) leaveOut(row []byte, err error) {
	if o.options.Damaged != nil {
		o.options.Damaged(row, err)
	}
}

// Emit has an event reported once this transaction is durable, and queues it for
// webhooks.
func (o *Outbox) Emit(t *commit.Transaction, e Event) error { return o.emit(t, report{e, true}) }

// EmitObserved is Emit for an event that Options.Happened has already heard of.
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

// EmitNow reports an event that belongs to no transaction. Locks may be held. failed is
// called if the event could not be kept for webhooks.
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

// spread hands an event to the readers of feeds, and to the observer unless it has
// already heard of the event.
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

// Sweep drops rows that a store shared by several nodes no longer needs: events that other
// nodes have heard of, and messages for webhooks that are gone. One node does it.
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

// Interface guards
var _ commit.Participant = (*Outbox)(nil)
