package limiter

import (
	"errors"
	"time"

	"github.com/till-proxy/till/limiter/record"
)

// Event is something that happened to a key. Events inform operators; nothing
// depends on one being delivered.
type Event struct {
	Name EventName
	At   time.Time
	Key  *record.Key // nil where it is about no key
	By   string      // the name of the caller; empty if there was none
	// Token is that of TokenCreated.
	Token *record.AdminToken
	// Code is why a key ended.
	Code record.Code
	// Of KeyAfterDeath: how often a dead key was used, the address of the last
	// use, and whether the key is a canary, which never worked.
	Count  int64
	From   string
	Canary bool
	// Of KeyStale: since when the key is unused, and when it is revoked for that,
	// if ever.
	Since, EndsAt time.Time
	// Reason is what the operator said, of LockdownSet.
	Reason string

	// Of KeyThreshold: so many percent of a limit are used.
	Kind        record.Kind
	Percent     int
	Used, Limit int64
}

// EventName names events as Caddy's events app and webhooks do.
type EventName string

// The events.
const (
	KeyCreated   EventName = "key_created"
	KeyThreshold EventName = "key_threshold" // 50, 80 and 100 percent of a limit
	KeyExhausted EventName = "key_exhausted"
	KeyExpired   EventName = "key_expired"
	KeyRevoked   EventName = "key_revoked"
	KeySuspended EventName = "key_suspended"
	// KeyLeaked says that a key or token was revoked because its string was
	// found in the open.
	KeyLeaked EventName = "key_leaked"
	// KeyStale says that a key has not been used for a long time.
	KeyStale EventName = "key_stale"
	// KeyAfterDeath says that a key which no longer works, or a canary, was used:
	// at most once an hour per key.
	KeyAfterDeath EventName = "key_after_death"
	// LockdownSet and LockdownLifted are about all keys.
	LockdownSet    EventName = "lockdown"
	LockdownLifted EventName = "lockdown_lifted"
	TokenCreated   EventName = "token_created"
)

// EventNames are all events that webhooks can ask for.
var EventNames = []EventName{
	KeyCreated, KeyThreshold, KeyExhausted, KeyExpired, KeyRevoked, KeySuspended,
	KeyStale, KeyLeaked, KeyAfterDeath, TokenCreated, LockdownSet, LockdownLifted,
}

// tell reports an event that no transaction is about. Locks may be held.
func (l *Limiter) tell(e Event) {
	e.At = l.clock.Now().UTC()
	l.spread(e, true)
	if l.shared == nil && !l.outbox.wanted(e.Name) {
		return
	}
	l.committer.Submit(func(b *batch) error {
		return errors.Join(b.outbox.share(b.Transaction, &e), b.outbox.post(b.Transaction, &e))
	}, func(err error) {
		if err != nil {
			l.complain("an event could not be kept for webhooks", err, "event", string(e.Name))
		}
	})
}

// spread hands an event to the readers of feeds, and to the observer unless it
// knows the event already.
func (l *Limiter) spread(e Event, observe bool) {
	l.publish(e)
	if observe && l.observe != nil {
		l.observe.Happened(e)
	}
}

// tell reports an event of this transaction, which also queues it for webhooks.
func (b *batch) tell(e Event) error {
	e.At = b.clock.Now().UTC()
	return b.outbox.report(b.Transaction, report{e, true})
}
