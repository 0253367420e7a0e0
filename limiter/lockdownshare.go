package limiter

import (
	"cmp"
	"fmt"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// Where several nodes share a store, a record in it says whether a lockdown is in
// force. A node that sets one refuses every key at once, as always, and the others do
// once it has written that to the store, with the act that goes into the audit log. A
// node that cannot reach the store writes both later. Any node can lift a lockdown,
// which is lifted in the store first. A node that starts believes the store, not its
// own file.
//
// A lockdown that was set while the store could not be reached comes into force on all
// nodes once the store can be, even if another lockdown was lifted meanwhile: whoever
// lifted that one did not know of this one. So until it is written, its node does not
// follow the lifting of another.

var lockdownKey = record.CommonKey("lockdown")

// readLockdown reads the lockdown that is in force on all nodes; nil: none.
func readLockdown(r store.Reader) (*LockedDown, error) {
	s := new(LockedDown)
	if there, err := record.FindJSON(r, lockdownKey, s, "lockdown"); err != nil || !there {
		return nil, err
	}
	return s, nil
}

// shareLockdown writes the lockdown as an act has left it, for other nodes.
func (b *batch) shareLockdown(a *lockdownAct) error {
	if !b.Shared() {
		return nil
	}
	before, err := readLockdown(b)
	if err != nil {
		return err
	}
	if a.Action == audit.ActLockdownLift {
		return b.Delete(lockdownKey)
	}
	s := LockedDown{Since: a.At.UTC(), By: a.By, Reason: a.Reason}
	if before != nil && !before.Since.IsZero() {
		s.Since, s.Reason = before.Since, cmp.Or(a.Reason, before.Reason)
	}
	return record.SetJSON(b, lockdownKey, &s)
}

// pending names the nodes that do not yet know of a lockdown.
func (d *Lockdown) pending(s *LockedDown) []string {
	if !d.shared.Load() {
		return nil
	}
	switch l := d.opened(); {
	case l == nil:
		return unnamed
	case s.Durable:
		return l.Pending()
	default:
		return l.others()
	}
}

// Untold stands for the nodes that may still admit requests, because only this node knows of
// the lockdown in force. It does not ask the database, which may not answer, for their names.
func (d *Lockdown) Untold() []string {
	if s := d.State(); s == nil || s.Durable || !d.shared.Load() {
		return nil
	}
	return unnamed
}

// liftShared lifts a lockdown on all nodes. Callers have the turn.
func (d *Lockdown) liftShared(lift lockdownAct) error {
	l := d.opened()
	if l == nil {
		return store.ErrUnavailable
	}
	d.owed.Add(1)
	d.acts = append(d.acts, lift)
	err := d.commit(l)
	if err != nil {
		d.acts = d.acts[:len(d.acts)-1]
		d.owed.Add(-1)
	}
	return err
}

// followLockdown lets this node follow what the store says of a lockdown.
func (l *Limiter) followLockdown() error {
	d := l.lockdown
	if d == nil {
		return nil
	}
	var set, lifted *LockedDown
	// A look runs between two batches, so memory already has this node's own writes.
	err := l.committer.LookPatiently(func(r store.Reader) error {
		stored, err := readLockdown(r)
		if err != nil {
			return err
		}
		now := d.state.Load()
		switch {
		case stored != nil && (now == nil || now.Durable && !now.same(stored)):
			if stored = stored.durably(); d.state.CompareAndSwap(now, stored) {
				set = stored
			}
		case stored == nil && now != nil && now.Durable && d.owed.Load() == 0:
			if d.state.CompareAndSwap(now, nil) {
				lifted = now
			}
		}
		return nil
	}, nil)
	if err != nil {
		return fmt.Errorf("following the lockdown: %w", err)
	}
	switch {
	case set != nil:
		cut := d.cut()
		d.log.Warn("lockdown: every key is refused, as another node says", "by", set.By, "reason", set.Reason, "requests_cut", cut)
	case lifted != nil:
		d.log.Warn("the lockdown was lifted by another node", "since", lifted.Since)
		if _, ended := d.inTurn(d.forgetFile); !ended {
			d.log.Error("the disk does not answer, so the file of the lockdown that was lifted stays; the store says that it was", "file", d.path)
		}
	}
	return nil
}

// same reports whether both are the same lockdown.
func (s *LockedDown) same(o *LockedDown) bool {
	return s.Since.Equal(o.Since) && s.By == o.By && s.Reason == o.Reason
}

// durably is the same lockdown, as one that survives a restart.
func (s *LockedDown) durably() *LockedDown {
	durable := *s
	durable.Since, durable.Durable = s.Since.UTC(), true
	return &durable
}

// forgetFile removes the file of a lockdown that was lifted. Callers have the turn.
func (d *Lockdown) forgetFile() {
	if d.state.Load() != nil {
		return // another one has come into force
	}
	d.endRetry()
	if err := d.removeFile(); err != nil {
		d.log.Error("the file of a lockdown that was lifted stays; the store says that it was", "file", d.path, "error", err)
	}
}
