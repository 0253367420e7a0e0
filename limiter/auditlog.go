package limiter

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/till-proxy/till/limiter/access"
	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// Audit returns a page of the entries that the caller may see. With a role that
// sees all, these are all entries; otherwise they are those about keys and tokens
// that the caller sees, and about its own acts.
func (l *Limiter) Audit(ctx context.Context, by Caller, f audit.Filter) (page audit.Page, err error) {
	if err := errors.Join(l.authorise(by, record.AuditRead, nil), f.Check()); err != nil {
		return page, err
	}
	err = store.Browse(l.store, func(r store.Reader) error {
		sight := auditSight{l: l, r: r, by: by, keys: make(map[string]bool)}
		if own, ok := l.tokens.Get(by.Token); ok {
			sight.since = own.CreatedAt
		}
		page, err = audit.Read(ctx, r, &f, sight.sees)
		return err
	})
	if err != nil {
		return audit.Page{}, fmt.Errorf("reading the audit log: %w", err)
	}
	return page, nil
}

// auditSight decides which entries a caller sees, in one state of the store.
type auditSight struct {
	l    *Limiter
	r    store.Reader
	by   Caller
	keys map[string]bool
	// since is when the caller's token was made; zero if it has none. Earlier entries under
	// its name are somebody else's, because names become free again.
	since time.Time
}

func (s *auditSight) sees(e *audit.Line) (bool, error) {
	if s.l.seesAll(s.by) {
		return true, nil
	}
	id := e.Text("key")
	switch {
	case !s.since.IsZero() && e.Text("actor") == s.by.Name && !e.Time().Before(s.since):
		return true, nil
	case strings.HasPrefix(id, record.TokenIDPrefix):
		t, ok := s.l.tokens.Get(id)
		return ok && s.l.seesToken(s.by, &t), nil
	case !strings.HasPrefix(id, record.IDPrefix):
		return false, nil
	}
	if seen, known := s.keys[id]; known {
		return seen, nil
	}
	var key *record.Key
	b, there, err := store.Find(s.r, record.RecordKey(id))
	if there { // otherwise it was forgotten
		key, err = record.DecodeKey(b)
	}
	if err != nil && !s.l.leaveOut("reading the audit log", id, err) {
		return false, err
	}
	s.keys[id] = there && err == nil && s.l.Sees(s.by, key)
	return s.keys[id], nil
}

// ExportAudit calls write for each entry of the whole log, as of one moment. The
// caller needs a role that sees all.
func (l *Limiter) ExportAudit(ctx context.Context, by Caller, write func(line []byte) error) error {
	if err := l.authorise(by, record.AuditRead, nil); err != nil {
		return err
	}
	if !l.seesAll(by) {
		return l.noted(by, &attemptError{fmt.Errorf("%w: an export is the whole log, so it takes a role that sees all", ErrForbidden), "an export of the audit log"})
	}
	// Whoever reads may be slow, and must not hold a view of the store meanwhile: a
	// database has few connections.
	for pages := new(audit.Pages); ; {
		var lines [][]byte
		err := store.Browse(l.store, func(r store.Reader) (err error) {
			lines, err = pages.Next(r)
			return err
		})
		if err != nil || len(lines) == 0 {
			return err
		}
		for _, line := range lines {
			if err := errors.Join(ctx.Err(), write(line)); err != nil {
				return err
			}
		}
	}
}

// AuditHead is the last entry of the audit log: its number and its hash. A copy
// kept elsewhere proves later that the log was not rewritten.
func (l *Limiter) AuditHead() (seq uint64, hash audit.Hash, err error) {
	if l.shared != nil { // others may have written since
		head, err := store.Read(l.store, audit.ReadHead)
		if err != nil {
			return 0, hash, fmt.Errorf("reading the end of the audit log: %w", err)
		}
		l.auditLog.Follow(head)
	}
	head := l.auditLog.Known()
	return head.Seq, head.Hash, nil
}

// AuditVerify checks every entry of the audit log, and where it ends.
func (l *Limiter) AuditVerify(ctx context.Context, by Caller) (done audit.Verified, err error) {
	if err := l.authorise(by, record.AuditRead, nil); err != nil {
		return done, err
	}
	err = store.Browse(l.store, func(r store.Reader) error {
		done, err = audit.VerifyStored(ctx, r)
		return err
	})
	return done, err
}

// The owner of the store could rewrite the whole audit log. Its head, which goes
// to the server's log and is kept elsewhere, gives that away.
const headEvery = time.Hour

// LogAuditHead writes to the server's log where the audit log ends: every hour, at
// a stop, and when a configuration starts.
func (l *Limiter) LogAuditHead() {
	seq, hash, err := l.AuditHead()
	if err != nil {
		l.log.Error("the head of the audit log cannot be read", "error", err)
		return
	}
	l.log.Info("audit log head", "seq", seq, "hash", hash.String())
}

// KeepAudit sets how long entries of the audit log are kept, at start and after
// each reload. Zero means for ever.
func (r *retention) KeepAudit(d time.Duration) {
	if r.keepAudit.Swap(int64(d)) != int64(d) {
		r.wakeUpkeep()
	}
}

// pruneAudit removes the entries that are older than KeepAudit allows.
func (l *Limiter) pruneAudit() error {
	keep := time.Duration(l.keepAudit.Load())
	if keep <= 0 || !l.mayForget() {
		return nil
	}
	before := l.clock.Now().Add(-keep)
	// Each pruning adds an entry, so it waits until there is enough to remove.
	due, err := store.Read(l.store, func(r store.Reader) (bool, error) {
		return audit.Prunable(r, before.Add(-min(keep/10, 24*time.Hour)))
	})
	if err != nil || !due {
		return err
	}
	for !l.stopping() {
		n := 0
		err := l.committer.DoPatiently(func(b *batch) (err error) {
			n, err = b.log.Prune(b.Transaction, b.clock.Now(), before, itself.Name)
			return err
		}, nil)
		if err != nil || n < audit.PruneStep {
			return err
		}
	}
	return nil
}

// MayLink returns why a caller gets no link that signs in to the console, or nil. A
// session gets none, because it could renew itself for ever. MayLink needs no store.
func MayLink(by Caller) error {
	switch {
	case by.Role != record.OperatorRole:
		return fmt.Errorf("%w: only the operator makes links that sign in", ErrForbidden)
	case by.Session:
		return fmt.Errorf("%w: a session of the console gets no link for another one; on the server, run: caddy till console", ErrForbidden)
	}
	return nil
}

// AuditLink writes into the audit log that a caller gets a link that signs in to the
// console, or why it gets none.
func (l *Limiter) AuditLink(by Caller) error {
	if err := MayLink(by); err != nil {
		return l.noted(by, &attemptError{err, "a link to the console"})
	}
	return l.committer.Do(func(b *batch) error { return b.audit(by.entry(audit.ActConsoleLink, "", nil)) }, nil)
}

// reportAttempts writes attempts into the audit log.
func (l *Limiter) reportAttempts(at access.Attempt, n int64) {
	changes := map[string]record.Delta{"attempts": {Before: nil, After: n}}
	if at.What != "" {
		changes["refused"] = record.Delta{Before: nil, After: at.What}
	}
	entry := Caller{Name: at.By, From: at.From}.entry(at.Action, "", changes)
	l.committer.Submit(func(b *batch) error { return b.audit(entry) }, func(err error) {
		if err != nil {
			l.complain("a refused attempt is not in the audit log", err, "by", at.By, "from", at.From)
		}
	})
}
