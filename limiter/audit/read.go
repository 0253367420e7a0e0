package audit

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// Filter picks entries of the audit log. Empty fields pick all.
type Filter struct {
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

// Page is one page of the audit log.
type Page struct {
	Entries [][]byte // each in its canonical form
	// Next is the cursor of the next page; empty at the end.
	Next string
	// Partial says that the page is short because many entries had to be
	// examined, not because there are no more.
	Partial bool
}

// Check refuses a filter that makes no sense, and fills in defaults.
func (f *Filter) Check() (err error) {
	if f.Limit, err = record.PageSize(f.Limit); err != nil {
		return err
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

// Read reads a page of the entries that a checked filter picks and the reader may see.
func Read(ctx context.Context, r store.Reader, f *Filter, sees func(*Line) (bool, error)) (Page, error) {
	page := Page{Entries: [][]byte{}}
	after, err := f.start(r)
	if err != nil {
		return page, err
	}
	looked := 0
	var last uint64
	err = r.Scan([]byte(record.SpaceAudit), after, f.Newest, func(_, line []byte) (bool, error) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if len(page.Entries) == f.Limit || looked == record.MaxLookedAt {
			page.Partial = len(page.Entries) < f.Limit
			page.Next = base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, last))
			return false, nil
		}
		looked++
		e, err := ParseLine(line)
		if err != nil {
			return false, fmt.Errorf("after entry %d: %w: %w; see: caddy till audit verify", last, record.ErrRecord, err)
		}
		last = e.Seq
		if !f.picks(&e) {
			return true, nil
		}
		seen, err := sees(&e)
		if err == nil && seen {
			page.Entries = append(page.Entries, append([]byte(nil), line...))
		}
		return true, err
	})
	return page, err
}

// start is the number of the entry after which a page begins.
func (f *Filter) start(r store.Reader) ([]byte, error) {
	if f.forward > 0 {
		return EntryKey(f.forward), nil
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
	return EntryKey(from - 1), nil
}

// firstSince finds the first entry at a time or later. Times rise with the
// numbers, except where a clock was corrected.
func firstSince(r store.Reader, t time.Time) (uint64, error) {
	head, err := ReadChain(r)
	if err != nil {
		return 0, err
	}
	low, high := head.gone+1, head.Seq+1
	for low < high {
		middle := low + (high-low)/2
		line, err := r.Get(EntryKey(middle))
		if err != nil {
			return 0, fmt.Errorf("entry %d: %w", middle, err)
		}
		e, err := ParseLine(line)
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

func (f *Filter) picks(e *Line) bool {
	return (f.Actor == "" || e.Text("actor") == f.Actor) &&
		(f.Action == "" || e.Text("action") == f.Action) &&
		(f.Key == "" || e.Text("key") == f.Key) &&
		e.Seq >= f.From && (f.Since.IsZero() || !e.Time().Before(f.Since))
}

// pageBytes bounds the entries on one page of Pages.
const pageBytes = 256 << 10

// Pages are all entries of the log as of the first page.
type Pages struct {
	begun     bool
	end, last uint64 // of the log, and of the page before
}

// Next reads the next page; after the last one there are no lines.
func (p *Pages) Next(r store.Reader) (lines [][]byte, err error) {
	head, err := ReadHead(r)
	if err != nil {
		return nil, err
	}
	end, last, after := head.Seq, p.last, []byte(nil)
	if p.begun {
		if end, after = p.end, EntryKey(last); head.gone > last {
			return nil, errors.New("the audit log was pruned while it was read: export it again")
		}
	}
	size := 0
	err = r.Scan([]byte(record.SpaceAudit), after, false, func(key, line []byte) (bool, error) {
		seq := binary.BigEndian.Uint64(key[len(key)-8:])
		if seq > end {
			return false, nil
		}
		last, size, lines = seq, size+len(line), append(lines, bytes.Clone(line))
		return size < pageBytes, nil
	})
	if err == nil {
		p.begun, p.end, p.last = true, end, last
	}
	return lines, err
}

// export calls write for each entry.
func export(ctx context.Context, r store.Reader, write func(line []byte) error) error {
	return r.Scan([]byte(record.SpaceAudit), nil, false, func(_, line []byte) (bool, error) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		return true, write(line)
	})
}

// VerifyStored checks every entry in a store, and that the log ends where the store says.
func VerifyStored(ctx context.Context, r store.Reader) (Verified, error) {
	b, there, err := store.Find(r, record.MetaAudit)
	if err != nil || !there {
		return Verified{}, err
	}
	head, err := decodeChain(b)
	if err != nil {
		return Verified{}, err
	}
	v := Verifier{next: head.gone + 1, pruned: true, Done: Verified{First: head.gone + 1, Head: head.goneHash}}
	if err := export(ctx, r, v.Add); err != nil {
		return v.Done, err
	}
	if v.next != head.Seq+1 || v.Done.Head != head.Hash {
		return v.Done, &BrokenError{Seq: min(v.next, head.Seq), Why: fmt.Sprintf("the log ends with entry %d, and the store says with entry %d", v.next-1, head.Seq)}
	}
	return v.Done, nil
}
