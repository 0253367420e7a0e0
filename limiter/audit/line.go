package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// maxLine bounds one line of the log, in bytes: an entry holds at most every label
// and note of a key twice.
const maxLine = 1 << 20

// Line is one entry as it is written: what links it to the others, and everything
// that it records.
type Line struct {
	Seq        uint64
	Prev, Hash Hash
	Fields     map[string]any
}

// ParseLine reads one line of the log and checks that it is intact: in canonical
// form, and with the hash of its content.
func ParseLine(line []byte) (e Line, err error) {
	if len(line) > maxLine {
		return e, fmt.Errorf("it is longer than %d bytes", maxLine)
	}
	if e.Fields, err = readCanonical(line); err != nil {
		return e, err
	}
	number, _ := e.Fields["seq"].(json.Number)
	if e.Seq, err = strconv.ParseUint(number.String(), 10, 64); err != nil || e.Seq == 0 {
		return e, errors.New("it has no seq")
	}
	if e.Prev, err = parseHashOf(e.Fields["prev"]); err != nil {
		return e, fmt.Errorf("prev %w", err)
	}
	if e.Hash, err = parseHashOf(e.Fields["hash"]); err != nil {
		return e, fmt.Errorf("hash %w", err)
	}
	bare := make(map[string]any, len(e.Fields))
	for name, v := range e.Fields {
		if name != "hash" {
			bare[name] = v
		}
	}
	content, err := appendCanonical(nil, bare)
	if err != nil {
		return e, err
	}
	if sha256.Sum256(content) != e.Hash {
		return e, errors.New("its hash is not that of what it says")
	}
	return e, nil
}

func parseHashOf(v any) (h Hash, err error) {
	text, ok := v.(string)
	if !ok || len(text) != hex.EncodedLen(len(h)) {
		return h, fmt.Errorf("must be %d hex digits", hex.EncodedLen(len(h)))
	}
	if _, err := hex.Decode(h[:], []byte(text)); err != nil || h.String() != text {
		return h, fmt.Errorf("must be %d hex digits in small letters", hex.EncodedLen(len(h)))
	}
	return h, nil
}

func (e *Line) Text(field string) string {
	s, _ := e.Fields[field].(string)
	return s
}

func (e *Line) Time() time.Time {
	t, err := time.Parse(time.RFC3339Nano, e.Text("time"))
	if err != nil {
		return time.Time{}
	}
	return t
}
