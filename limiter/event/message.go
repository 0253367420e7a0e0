package event

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// Message is an event on its way to a webhook.
type Message struct {
	// ID is the same for each attempt, and for each hook that receives the same
	// event.
	ID       string
	Event    Name
	Payload  []byte
	At       time.Time     // of the event
	Age      time.Duration // by the clock that At is from
	Attempts int           // that have failed

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

// longestWait is the longest time for which a message is postponed.
const longestWait = time.Hour

// leadAgain is how often a node that delivers for all looks whether it still does.
const leadAgain = time.Second

// Due lists some of the messages that are now due for a webhook, oldest first, and
// the time until the next one is due; 0 when none waits. Where several nodes share
// the store, only one of them gets messages, and it has to look for those that the
// others have written.
func (o *Outbox) Due(url string, most int) (due []Message, next time.Duration, err error) {
	if o.cluster != nil && !o.cluster.Leads() {
		return nil, leadAgain, nil
	}
	now := o.options.Clock.Now()
	err = o.options.Store.View(func(r store.Reader) error {
		return r.Scan(outboxPrefix(hookIDOf(url)), nil, false, func(key, value []byte) (bool, error) {
			m, rec, err := message(key, slices.Clone(value))
			if err != nil {
				o.leaveOut(key, err)
				return true, nil
			}
			if wait := time.Unix(0, rec.Next).Sub(now); wait > 0 && wait <= longestWait { // more: the clock had run ahead
				if next == 0 || wait < next {
					next = wait
				}
				return true, nil
			}
			m.Age = now.Sub(m.At)
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
		if _, there, err := store.Find(t, m.key); err != nil || !there {
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

// Postpone notes that an attempt has failed, and when the next one is due: within an hour.
func (o *Outbox) Postpone(m Message, wait time.Duration) error {
	next := o.options.Clock.Now().Add(min(wait, longestWait))
	return o.write.Do(func(t *commit.Transaction) error {
		value, there, err := store.Find(t, m.key)
		if err != nil || !there { // its webhook is gone
			return err
		}
		_, rec, err := message(m.key, value)
		if err != nil {
			return err
		}
		rec.Attempts, rec.Next = m.Attempts+1, next.UnixNano()
		return record.SetJSON(t, m.key, rec)
	}, nil)
}
