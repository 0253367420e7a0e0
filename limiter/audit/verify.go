package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// Verified describes an audit log that is intact.
type Verified struct {
	Entries int64
	First   uint64 // the first entry present; 1, unless older ones were pruned
	Head    Hash
}

// BrokenError says where an audit log differs from what was written.
type BrokenError struct {
	Seq uint64 // of the first bad entry, even if it is missing
	Why string
}

func (e *BrokenError) Error() string {
	return fmt.Sprintf("entry %d of the audit log is not what was written: %s", e.Seq, e.Why)
}

// Verifier follows the chain entry by entry. Only the head has to be trusted: an entry
// of the chain itself records that the entries before the first one were pruned, and
// not lost.
type Verifier struct {
	Done   Verified
	next   uint64 // 0: before the first entry
	before Hash
	pruned bool // the chain records that it begins where it does
}

// Add checks the next entry.
func (v *Verifier) Add(line []byte) error {
	e, err := ParseLine(line)
	at := max(v.next, 1)
	switch {
	case err != nil:
		return &BrokenError{Seq: at, Why: err.Error()}
	case v.next == 0 && e.Seq == 1 && e.Prev != Hash{}:
		return &BrokenError{Seq: 1, Why: "it is the first, and names one before it"}
	case v.next == 0:
		v.Done.First, v.before, v.pruned = e.Seq, e.Prev, e.Seq == 1
	case e.Seq < v.Done.First: // so the entry that came first did not belong there
		return &BrokenError{Seq: e.Seq, Why: fmt.Sprintf("entry %d stands before it", v.Done.First)}
	case e.Seq != v.next:
		return &BrokenError{Seq: at, Why: fmt.Sprintf("entry %d stands in its place", e.Seq)}
	case e.Prev != v.Done.Head:
		return &BrokenError{Seq: at, Why: "the entry before it is not the one that it follows"}
	}
	v.Done.Entries, v.next, v.Done.Head = v.Done.Entries+1, e.Seq+1, e.Hash
	if e.Fields["action"] == ActAuditPrune {
		v.pruned = v.pruned || prunes(e.Fields, v.Done.First-1, v.before)
	}
	return nil
}

// End checks that no entries are missing before the first one.
func (v *Verifier) End() error {
	if v.next != 0 && !v.pruned {
		return &BrokenError{Seq: 1, Why: fmt.Sprintf("the log begins with entry %d, and no entry says that those before it were pruned", v.Done.First)}
	}
	return nil
}

// pruneMark is how an entry names the last one that was pruned.
func pruneMark(seq uint64, hash Hash) string { return fmt.Sprintf("%d %s", seq, hash) }

func prunes(fields map[string]any, seq uint64, hash Hash) bool {
	changes, _ := fields["changes"].(map[string]any)
	delta, _ := changes["through"].(map[string]any)
	return delta["after"] == pruneMark(seq, hash)
}

// Verify reads an export of the audit log, one entry per line, and returns a
// *BrokenError for the first entry that is not what was written. The head, if one is
// given, must be the hash of one of its entries: of the last one, or of one that was
// the last when the head was noted.
func Verify(export io.Reader, head *Hash) (Verified, error) {
	var v Verifier
	found := head == nil
	in := bufio.NewReaderSize(export, 64<<10)
	for {
		line, err := readLine(in)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return v.Done, err
		}
		if err := v.Add(line); err != nil {
			return v.Done, err
		}
		// The head of an empty log is the hash that precedes the first entry.
		found = found || v.Done.Head == *head || v.Done.First == 1 && *head == Hash{}
	}
	if err := v.End(); err != nil {
		return v.Done, err
	}
	if !found {
		return v.Done, &BrokenError{Seq: max(v.next, 1), Why: fmt.Sprintf("the log ends before it, and no entry has the hash %s", head)}
	}
	return v.Done, nil
}

// readLine reads up to a line feed, which must be present, and bounds the line's
// length.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return line[:len(line)-1], nil
		case errors.Is(err, bufio.ErrBufferFull) && len(line) <= maxLine:
		case errors.Is(err, io.EOF) && len(line) > 0, errors.Is(err, bufio.ErrBufferFull):
			return line, nil // without a line feed, or too long: not an entry
		default:
			return nil, err
		}
	}
}

// ParseHash reads a head as it is printed.
func ParseHash(text string) (Hash, error) { return parseHashOf(text) }
