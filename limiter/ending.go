package limiter

import (
	"errors"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
)

// ending is how a key ends: for good if it is revoked, otherwise until more is
// granted.
type ending struct {
	by     Caller
	action string // in the audit log
	status record.Status
	code   record.Code // of the event
	reason string
	at     time.Time
}

var endEvents = map[record.Status]event.Name{record.Exhausted: event.KeyExhausted, record.Expired: event.KeyExpired, record.Revoked: event.KeyRevoked}

var endActions = map[record.Status]string{record.Exhausted: audit.ActKeyExhausted, record.Expired: audit.ActKeyExpired}

// ownEnd is how a key ends by its own rules.
func ownEnd(status record.Status, code record.Code, at time.Time) ending {
	return ending{by: itself, action: endActions[status], status: status, code: code, reason: string(code), at: at}
}

// endKey writes key in place of old as a key that has ended, with any other change to
// it. The record, the audit log and the events agree because every end is written here.
// Running requests are cut before that, in memory, where the end is decided.
func (b *batch) endKey(old, key *record.Key, acct *record.Account, e ending) error {
	if e.status != record.Revoked {
		j, err := b.pending(old, key)
		if err != nil {
			return err
		}
		if j != nil {
			e = j.ending(e.at)
		}
	}
	key.Version = old.Version + 1
	key.EndedAt, key.EndedStatus, key.EndedReason = e.at.UTC(), e.status, e.reason
	happened, entry := event.Event{Name: endEvents[e.status], Key: key, Code: e.code}, e.by.entry
	if e.status == record.Revoked {
		key.SuspendedAt, key.SuspendedBy = time.Time{}, record.Stopper{}
		happened.By, entry = e.by.Name, e.by.stopEntry
	}
	if err := writeKey(b, old, key, acct, entry(e.action, key.ID, record.Changes(old, key))); err != nil {
		return err
	}
	if err := b.emit(happened); err != nil || e.action != audit.ActKeyLeak {
		return err
	}
	return b.emit(event.Event{Name: event.KeyLeaked, Key: key, By: e.by.Name})
}

// endByItself records that a key has run out or its time is over. Callers hold
// the key. The record is judged again inside the committer, because a grant may
// have come first.
func (l *Limiter) endByItself(k *Live, status record.Status, code record.Code) {
	id := k.key.ID
	var key *record.Key
	var out bool
	l.committer.Submit(func(b *batch) (err error) {
		key, out, err = l.writeOwnEnd(b, k, status, code)
		return err
	}, func(err error) {
		if out {
			l.shared.Recall(k.id[:]) // the last node to settle records the end
		}
		if err == nil && key != nil {
			l.follow(key, nil)
			l.log.Info("key ended", "key_id", id, "code", string(code))
		} else if err != nil {
			l.complain("the end of a key could not be recorded", err, "key_id", id)
		}
		k.mu.Lock()
		k.ending = false
		k.mu.Unlock()
	})
}

// writeOwnEnd writes that a key has run out or its time is over, and returns the record;
// nil if the transaction finds otherwise. out says that another node has reserved budget
// that it may still use or give back.
func (l *Limiter) writeOwnEnd(b *batch, k *Live, status record.Status, code record.Code) (key *record.Key, out bool, err error) {
	old, acct, err := record.ReadKey(b, k.Key().ID)
	if err != nil || old.EndedStatus != "" {
		return nil, false, err
	}
	if now, _, err := k.derive(b, old, &acct); err != nil || now != status {
		return nil, false, err
	}
	if l.mayBeUsed(old, &acct, code) {
		return nil, false, nil
	}
	if status == record.Exhausted && old.Delegate {
		// What its children leave is refunded, which revives it.
		if n, err := record.CountChildren(b, old.ID); err != nil || n > 0 {
			return nil, false, err
		}
	}
	if status == record.Exhausted {
		if err := b.settleOwn(k, &acct); err != nil {
			return nil, false, err
		}
		if out, err = l.reservedElsewhere(b, k.id, acct.Lineage); err != nil || out {
			return nil, out, errors.Join(err, b.setAccount(k.id, false, &acct))
		}
	}
	key = old.Clone()
	return key, false, b.endKey(old, key, &acct, ownEnd(status, code, l.clock.Now()))
}

// revoking is what a revocation does to a record.
func revoking(by Caller, action, reason string) writeStop {
	return func(b *batch, old, key *record.Key, acct *record.Account, at time.Time) error {
		if old.EndedStatus == record.Revoked {
			return nil
		}
		return b.endKey(old, key, acct, ending{by: by, action: action, status: record.Revoked, code: record.CodeKeyRevoked, reason: reason, at: at})
	}
}
