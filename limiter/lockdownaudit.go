package limiter

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
)

// Acts on a lockdown belong in the audit log, which is in the store, and the store
// may be closed. So an act is first written down beside the store, and goes into the
// log as soon as a Limiter has the store open. After a crash the act may be in the log
// twice, rather than never; both entries have the time of the act.

var lockdownEvents = map[string]event.Name{audit.ActLockdownSet: event.LockdownSet, audit.ActLockdownLift: event.LockdownLifted}

type lockdownAct struct {
	At     time.Time `json:"at"`
	Action string    `json:"action"`
	By     string    `json:"by"`
	From   string    `json:"from,omitempty"`
	Reason string    `json:"reason,omitempty"`
}

func (d *Lockdown) auditFile() string { return d.path + ".audit" }

// note writes down an act that is owed, and brings it into the audit log. Callers have the
// turn.
func (d *Lockdown) note(a lockdownAct) {
	d.acts = append(d.acts, a)
	b, err := json.Marshal(a)
	if err == nil {
		err = appendSynced(d.auditFile(), append(b, '\n'))
	}
	if err != nil {
		d.log.Error("an act on the lockdown is not yet written down", "action", a.Action, "by", a.By, "error", err)
	}
	d.audit()
}

// recallActs reads the acts that are not yet in the audit log. Callers have the turn.
func (d *Lockdown) recallActs() {
	b, err := os.ReadFile(d.auditFile())
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			d.log.Error("acts on the lockdown cannot be read for the audit log", "error", err)
		}
		return
	}
	for line := range bytes.Lines(b) {
		var a lockdownAct
		if err := json.Unmarshal(line, &a); err != nil {
			d.log.Error("an act on the lockdown cannot be read for the audit log", "error", err)
			continue
		}
		d.acts = append(d.acts, a)
		d.owed.Add(1)
	}
}

// audit brings into the audit log the acts that are not yet there, if a store is open.
// Callers have the turn.
func (d *Lockdown) audit() {
	l := d.opened()
	if l == nil || len(d.acts) == 0 {
		return
	}
	if err := d.commit(l); err != nil {
		d.log.Error("an act on the lockdown is not yet in the audit log", "error", err)
	}
}

// commit writes the acts that are not yet in the audit log. Callers have the turn.
func (d *Lockdown) commit(l *Limiter) error {
	state, acts := d.state.Load(), slices.Clone(d.acts) // the commit may still run once the turn is over
	err := l.committer.Do(func(b *batch) error {
		for _, a := range acts {
			if err := b.shareLockdown(&a); err != nil {
				return err
			}
			changes := map[string]record.Delta{"at": {Before: nil, After: a.At.UTC().Format(time.RFC3339Nano)}}
			if a.Reason != "" {
				changes["reason"] = record.Delta{Before: nil, After: a.Reason}
			}
			e := event.Event{Name: lockdownEvents[a.Action], At: a.At.UTC(), By: a.By, Reason: a.Reason}
			if err := b.outbox.EmitObserved(b.Transaction, e); err != nil { // the observer knows
				return err
			}
			if err := b.audit(&act{Entry: audit.Entry{Actor: a.By, From: a.From, Action: a.Action, Changes: changes}}); err != nil {
				return err
			}
		}
		return nil
	}, nil)
	if err != nil {
		return err
	}
	set := d.acts[len(d.acts)-1].Action == audit.ActLockdownSet
	d.owed.Add(int64(-len(d.acts)))
	d.acts = nil
	if d.shared.Load() && set && state != nil {
		d.isDurable(state)
	}
	if err := removeIfThere(d.auditFile()); err != nil {
		d.log.Error("acts on the lockdown will be in the audit log twice", "error", err)
	}
	return nil
}

// remind brings into the audit log the acts that could not be brought there before.
func (d *Lockdown) remind() {
	if d != nil && d.owed.Load() > 0 {
		d.inTurn(d.audit)
	}
}

// opened is the Limiter that has the store open and working, or nil.
func (d *Lockdown) opened() *Limiter {
	d.mu.Lock()
	defer d.mu.Unlock()
	for l := range d.limiters {
		if !l.closed.Load() && l.Failed() == nil {
			return l
		}
	}
	return nil
}

func appendSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}
