package limiter

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// AuditFilter picks entries of the audit log. Empty fields pick all.
type AuditFilter struct {
	From    uint64    // the first entry, by its number
	Since   time.Time // the first entry, by its time
	Actor   string
	Action  string
	Key     string // id of a key or token
	Newest  bool   // newest first, instead of oldest first
	Limit   int    // size of a page. Default: 50. At most 500.
	Cursor  string // the Next of the previous page
	forward uint64
}

// AuditPage is one page of the audit log.
type AuditPage struct {
	Entries [][]byte // each in its canonical form
	// Next is the cursor of the next page; empty at the end.
	Next string
	// Partial says that the page is short because many entries had to be
	// examined, not because there are no more.
	Partial bool
}

func (f *AuditFilter) check() error {
	if f.Limit < 0 || f.Limit > maxPage {
		return record.Invalid("limit", "must be from 1 to %d, got %d", maxPage, f.Limit)
	}
	if f.Limit == 0 {
		f.Limit = defaultPage
	}
	if f.Cursor != "" {
		b, err := base64.RawURLEncoding.DecodeString(f.Cursor)
		if err != nil || len(b) != 8 {
			return record.Invalid("cursor", "must be the next of an earlier page")
		}
		f.forward = binary.BigEndian.Uint64(b)
	}
	return nil
}

// Audit returns a page of the entries that the caller may see. With a role that
// sees all, these are all entries; otherwise they are those about keys and tokens
// that the caller sees, and about its own acts.
func (l *Limiter) Audit(ctx context.Context, by Caller, f AuditFilter) (AuditPage, error) {
	page := AuditPage{Entries: [][]byte{}}
	if err := errors.Join(l.authorise(by, record.AuditRead, nil), f.check()); err != nil {
		return page, err
	}
	looked := 0
	var last uint64
	err := l.store.View(func(r store.Reader) error {
		after, err := f.start(r)
		if err != nil {
			return err
		}
		sight := auditSight{l: l, r: r, by: by, keys: make(map[string]bool)}
		return r.Scan([]byte(record.SpaceAudit), after, f.Newest, func(_, line []byte) (bool, error) {
			if err := ctx.Err(); err != nil {
				return false, err
			}
			if len(page.Entries) == f.Limit || looked == maxLookedAt {
				page.Partial = len(page.Entries) < f.Limit
				page.Next = base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, last))
				return false, nil
			}
			looked++
			e, err := audit.ParseLine(line)
			if err != nil {
				return false, fmt.Errorf("after entry %d: %w: %w; see: caddy till audit verify", last, record.ErrRecord, err)
			}
			last = e.Seq
			if !f.picks(&e) {
				return true, nil
			}
			seen, err := sight.sees(&e)
			if err == nil && seen {
				page.Entries = append(page.Entries, append([]byte(nil), line...))
			}
			return true, err
		})
	})
	if err != nil {
		return AuditPage{}, fmt.Errorf("reading the audit log: %w", err)
	}
	return page, nil
}

// start is the number of the entry after which a page begins.
func (f *AuditFilter) start(r store.Reader) ([]byte, error) {
	if f.forward > 0 {
		return audit.EntryKey(f.forward), nil
	}
	if f.Newest {
		return nil, nil
	}
	from := f.From
	if !f.Since.IsZero() {
		first, err := firstSince(r, f.Since)
		if err != nil {
			return nil, err
		}
		from = max(from, first)
	}
	if from == 0 {
		return nil, nil
	}
	return audit.EntryKey(from - 1), nil
}

// firstSince finds the first entry at a time or later. Times rise with the
// numbers, except where a clock was corrected.
func firstSince(r store.Reader, t time.Time) (uint64, error) {
	head, err := audit.ReadChain(r)
	if err != nil {
		return 0, err
	}
	low, high := head.Gone+1, head.Seq+1
	for low < high {
		middle := low + (high-low)/2
		line, err := r.Get(audit.EntryKey(middle))
		if err != nil {
			return 0, fmt.Errorf("entry %d: %w", middle, err)
		}
		e, err := audit.ParseLine(line)
		if err != nil {
			return 0, fmt.Errorf("entry %d: %w", middle, err)
		}
		if e.Time().Before(t) {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low, nil
}

func (f *AuditFilter) picks(e *audit.Line) bool {
	return (f.Actor == "" || e.Text("actor") == f.Actor) &&
		(f.Action == "" || e.Text("action") == f.Action) &&
		(f.Key == "" || e.Text("key") == f.Key) &&
		e.Seq >= f.From && (f.Since.IsZero() || !e.Time().Before(f.Since))
}

// auditSight decides which entries a caller sees, in one state of the store.
type auditSight struct {
	l    *Limiter
	r    store.Reader
	by   Caller
	keys map[string]bool
}

func (s *auditSight) sees(e *audit.Line) (bool, error) {
	if s.l.seesAll(s.by) {
		return true, nil
	}
	id := e.Text("key")
	switch {
	case s.by.Token != "" && e.Text("actor") == s.by.Name:
		return true, nil
	case strings.HasPrefix(id, tokenIDPrefix):
		t, ok := s.l.tokens.get(id)
		return ok && s.l.seesToken(s.by, &t), nil
	case !strings.HasPrefix(id, record.IDPrefix):
		return false, nil
	}
	if seen, known := s.keys[id]; known {
		return seen, nil
	}
	b, err := s.r.Get(record.RecordKey(id))
	if errors.Is(err, store.ErrNotFound) { // forgotten
		s.keys[id] = false
		return false, nil
	}
	if err != nil {
		return false, err
	}
	key, err := record.DecodeKey(b)
	if err != nil {
		return false, err
	}
	s.keys[id] = s.l.Sees(s.by, key)
	return s.keys[id], nil
}

func (l *Limiter) seesAll(by Caller) bool {
	if by.Role == record.OperatorRole {
		return true
	}
	role := l.policy(by.Role)
	return role != nil && role.Sees == record.SeesAll
}

// ExportAudit calls write for each entry of the whole log, as of one moment. The
// caller needs a role that sees all.
func (l *Limiter) ExportAudit(ctx context.Context, by Caller, write func(line []byte) error) error {
	if err := l.authorise(by, record.AuditRead, nil); err != nil {
		return err
	}
	if !l.seesAll(by) {
		return fmt.Errorf("%w: an export is the whole log, so it takes a role that sees all", ErrForbidden)
	}
	return l.store.View(func(r store.Reader) error {
		return r.Scan([]byte(record.SpaceAudit), nil, false, func(_, line []byte) (bool, error) {
			if err := ctx.Err(); err != nil {
				return false, err
			}
			return true, write(line)
		})
	})
}

// AuditHead is the last entry of the audit log: its number and its hash. A copy
// kept elsewhere proves later that the log was not rewritten.
func (l *Limiter) AuditHead() (seq uint64, hash audit.Hash, err error) {
	if l.shared != nil { // others may have written since
		err = l.store.View(func(r store.Reader) error {
			head, err := audit.ReadHead(r)
			if err == nil {
				l.auditLog.Follow(head)
			}
			return err
		})
		if err != nil {
			return 0, hash, fmt.Errorf("reading the end of the audit log: %w", err)
		}
	}
	head := l.auditLog.Head.Load()
	return head.Seq, head.Hash, nil
}

// AuditVerify checks every entry of the audit log, and where it ends.
func (l *Limiter) AuditVerify(ctx context.Context, by Caller) (audit.Verified, error) {
	if err := l.authorise(by, record.AuditRead, nil); err != nil {
		return audit.Verified{}, err
	}
	var v audit.Verifier
	err := l.store.View(func(r store.Reader) error {
		b, err := r.Get(record.MetaAudit)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		head, err := audit.DecodeChain(b)
		if err != nil {
			return err
		}
		v.Next, v.Done.First, v.Done.Head, v.Pruned = head.Gone+1, head.Gone+1, head.GoneHash, true
		err = r.Scan([]byte(record.SpaceAudit), nil, false, func(_, line []byte) (bool, error) {
			if err := ctx.Err(); err != nil {
				return false, err
			}
			return true, v.Add(line)
		})
		if err != nil {
			return err
		}
		if v.Next != head.Seq+1 || v.Done.Head != head.Hash {
			return &audit.BrokenError{Seq: min(v.Next, head.Seq), Why: fmt.Sprintf("the log ends with entry %d, and the store says with entry %d", v.Next-1, head.Seq)}
		}
		return nil
	})
	return v.Done, err
}
