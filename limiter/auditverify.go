package limiter

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// Verified is an audit log that is whole.
type Verified struct {
	Entries int64
	First   uint64 // the first entry that is there; 1, unless older ones were pruned
	Head    AuditHash
}

// BrokenError says where an audit log is not what was written.
type BrokenError struct {
	Seq uint64 // of the first bad entry, also when that is missing
	Why string
}

func (e *BrokenError) Error() string {
	return fmt.Sprintf("entry %d of the audit log is not what was written: %s", e.Seq, e.Why)
}

// verifier follows the chain entry by entry. Nothing has to be believed but the
// head: that also entries before the first one were pruned, and not lost, is
// said by an entry of the chain.
type verifier struct {
	done   Verified
	next   uint64 // 0: before the first entry
	before AuditHash
	pruned bool // the chain says that it begins where it does
}

func (v *verifier) add(line []byte) error {
	e, err := parseEntry(line)
	at := max(v.next, 1)
	switch {
	case err != nil:
		return &BrokenError{at, err.Error()}
	case v.next == 0 && e.seq == 1 && e.prev != AuditHash{}:
		return &BrokenError{1, "it is the first, and names one before it"}
	case v.next == 0:
		v.done.First, v.before, v.pruned = e.seq, e.prev, e.seq == 1
	case e.seq < v.done.First: // so what stood first did not belong there
		return &BrokenError{e.seq, fmt.Sprintf("entry %d stands before it", v.done.First)}
	case e.seq != v.next:
		return &BrokenError{at, fmt.Sprintf("entry %d stands in its place", e.seq)}
	case e.prev != v.done.Head:
		return &BrokenError{at, "the entry before it is not the one that it follows"}
	}
	v.done.Entries, v.next, v.done.Head = v.done.Entries+1, e.seq+1, e.hash
	if e.fields["action"] == ActAuditPrune {
		v.pruned = v.pruned || prunes(e.fields, v.done.First-1, v.before)
	}
	return nil
}

func (v *verifier) end() error {
	if v.next != 0 && !v.pruned {
		return &BrokenError{1, fmt.Sprintf("the log begins with entry %d, and no entry says that those before it were pruned", v.done.First)}
	}
	return nil
}

// pruneMark is how an entry names the last one that was pruned.
func pruneMark(seq uint64, hash AuditHash) string { return fmt.Sprintf("%d %s", seq, hash) }

func prunes(fields map[string]any, seq uint64, hash AuditHash) bool {
	changes, _ := fields["changes"].(map[string]any)
	delta, _ := changes["through"].(map[string]any)
	return delta["after"] == pruneMark(seq, hash)
}

// VerifyAudit reads an export of the audit log, one entry a line, and returns a
// *BrokenError for the first entry that is not what was written. The head, when
// one is given, must be the hash of one of its entries, of the last one or of
// one that was the last when it was noted.
func VerifyAudit(export io.Reader, head *AuditHash) (Verified, error) {
	var v verifier
	found := head == nil
	in := bufio.NewReaderSize(export, 64<<10)
	for {
		line, err := readLine(in)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return v.done, err
		}
		if err := v.add(line); err != nil {
			return v.done, err
		}
		// The head of an empty log is that before the first entry.
		found = found || v.done.Head == *head || v.done.First == 1 && *head == AuditHash{}
	}
	if err := v.end(); err != nil {
		return v.done, err
	}
	if !found {
		return v.done, &BrokenError{max(v.next, 1), fmt.Sprintf("the log ends before it, and no entry has the hash %s", head)}
	}
	return v.done, nil
}

// readLine reads up to a line feed, which must be there. Its length is bounded.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return line[:len(line)-1], nil
		case errors.Is(err, bufio.ErrBufferFull) && len(line) <= maxAuditLine:
		case errors.Is(err, io.EOF) && len(line) > 0, errors.Is(err, bufio.ErrBufferFull):
			return line, nil // without its end, or too long: no entry
		default:
			return nil, err
		}
	}
}

// ParseAuditHash reads a head as it is printed.
func ParseAuditHash(text string) (AuditHash, error) { return parseHash(text) }
