package limiter

import (
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// The owner of the store could rewrite the whole audit log. Its head, which goes
// to the server's log and is kept elsewhere, gives that away.
const (
	headEvery = time.Hour
	pruneStep = 1000 // entries that one change removes
)

// KeepAudit sets how long entries of the audit log are kept, at start and after
// each reload. Zero means for ever.
func (l *Limiter) KeepAudit(d time.Duration) {
	if l.keepAudit.Swap(int64(d)) != int64(d) {
		l.wakeUpkeep()
	}
}

// sweepAdmin saves what is pending about callers, and prunes what is too old.
func (l *Limiter) sweepAdmin() {
	l.attempts.sweep(l, l.clock.Now())
	if err := l.saveTokens(); err != nil {
		l.log.Error("saving when admin tokens were used last", "error", err)
	}
	if !l.leads() {
		return
	}
	if err := l.pruneOnces(); err != nil {
		l.log.Error("forgetting old idempotency keys", "error", err)
	}
	if err := l.pruneAudit(); err != nil {
		l.log.Error("pruning the audit log", "error", err)
	}
	if l.shared == nil {
		return
	}
	if err := l.pruneShared(); err != nil {
		l.log.Error("removing events that other nodes have heard of", "error", err)
	}
	if err := l.sweepOutbox(); err != nil {
		l.log.Error("dropping messages for webhooks that are gone", "error", err)
	}
	if err := l.foldShares(); err != nil {
		l.log.Error("adding up what nodes that are gone have counted", "error", err)
	}
}

// LogAuditHead writes to the server's log where the audit log ends: every hour, at
// a stop, and when a configuration starts.
func (l *Limiter) LogAuditHead() {
	seq, hash, err := l.AuditHead()
	if err != nil {
		l.log.Error("the audit log's head cannot be told", "error", err)
		return
	}
	l.log.Info("audit log head", "seq", seq, "hash", hash.String())
}

// pruneAudit removes the entries that are older than KeepAudit allows. The hash
// of the last removed entry stays in the store and in an entry of the log, so
// that what is left can be verified.
func (l *Limiter) pruneAudit() error {
	keep := time.Duration(l.keepAudit.Load())
	if keep <= 0 || !l.mayForget() {
		return nil
	}
	before := l.clock.Now().Add(-keep)
	// Each pruning adds an entry, so it waits until there is enough to remove.
	due, err := l.prunable(before.Add(-min(keep/10, 24*time.Hour)))
	if err != nil || !due {
		return err
	}
	for !l.stopping() {
		n := 0
		err := l.committer.DoPatiently(func(b *batch) error {
			var err error
			n, err = b.pruneAudit(before)
			return err
		}, nil)
		if err != nil || n < pruneStep {
			return err
		}
	}
	return nil
}

// prunable reports whether the oldest entry is older than a time.
func (l *Limiter) prunable(before time.Time) (due bool, err error) {
	err = l.store.View(func(r store.Reader) error {
		return r.Scan([]byte(record.SpaceAudit), nil, false, func(_, line []byte) (bool, error) {
			e, err := audit.ParseLine(line)
			due = err == nil && e.Time().Before(before)
			return false, err
		})
	})
	return due, err
}

// pruneAudit removes some of the entries that are older than a time, but never
// the last one.
func (b *batch) pruneAudit(before time.Time) (n int, err error) {
	end, err := b.log.Continue(b.Transaction)
	if err != nil {
		return 0, err
	}
	to := *end
	var gone [][]byte
	err = b.Scan([]byte(record.SpaceAudit), nil, false, func(key, line []byte) (bool, error) {
		e, err := audit.ParseLine(line)
		if err != nil || e.Seq >= end.Seq || !e.Time().Before(before) {
			return false, err
		}
		to.Gone, to.GoneHash = e.Seq, e.Hash
		gone = append(gone, append([]byte(nil), key...))
		return len(gone) < pruneStep, nil
	})
	if err != nil || len(gone) == 0 {
		return 0, err
	}
	for _, key := range gone {
		if err := b.Delete(key); err != nil {
			return 0, err
		}
	}
	end.Gone, end.GoneHash = to.Gone, to.GoneHash
	return len(gone), b.audit(itself.entry(audit.ActAuditPrune, "", map[string]record.Delta{
		"through": {Before: nil, After: audit.PruneMark(to.Gone, to.GoneHash)}, "entries": {Before: nil, After: len(gone)},
	}))
}
