package limiter

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// maxAuditLine bounds one line of the log that is read, in bytes: an entry has
// at most every label and note of a key twice.
const maxAuditLine = 1 << 20

// entryLine is one entry as it is written: what links it to the others, and
// everything that it says.
type entryLine struct {
	seq        uint64
	prev, hash AuditHash
	fields     map[string]any
}

// parseEntry reads one line of the log and checks that it is whole: written as
// it was, and with the hash of its content.
func parseEntry(line []byte) (e entryLine, err error) {
	if len(line) > maxAuditLine {
		return e, fmt.Errorf("it is longer than %d bytes", maxAuditLine)
	}
	if e.fields, err = readCanonical(line); err != nil {
		return e, err
	}
	number, _ := e.fields["seq"].(json.Number)
	if e.seq, err = strconv.ParseUint(number.String(), 10, 64); err != nil || e.seq == 0 {
		return e, errors.New("it has no seq")
	}
	if e.prev, err = parseHash(e.fields["prev"]); err != nil {
		return e, fmt.Errorf("prev %w", err)
	}
	if e.hash, err = parseHash(e.fields["hash"]); err != nil {
		return e, fmt.Errorf("hash %w", err)
	}
	bare := make(map[string]any, len(e.fields))
	for name, v := range e.fields {
		if name != "hash" {
			bare[name] = v
		}
	}
	content, err := appendCanonical(nil, bare)
	if err != nil {
		return e, err
	}
	if sha256.Sum256(content) != e.hash {
		return e, errors.New("its hash is not that of what it says")
	}
	return e, nil
}

func parseHash(v any) (h AuditHash, err error) {
	text, ok := v.(string)
	if !ok || len(text) != hex.EncodedLen(len(h)) {
		return h, fmt.Errorf("must be %d hex digits", hex.EncodedLen(len(h)))
	}
	if _, err := hex.Decode(h[:], []byte(text)); err != nil || h.String() != text {
		return h, fmt.Errorf("must be %d hex digits in small letters", hex.EncodedLen(len(h)))
	}
	return h, nil
}

func (e *entryLine) text(field string) string {
	s, _ := e.fields[field].(string)
	return s
}

func (e *entryLine) time() time.Time {
	t, err := time.Parse(time.RFC3339Nano, e.text("time"))
	if err != nil {
		return time.Time{}
	}
	return t
}
