package upstream

import "bytes"

// pattern is the last data line of an event stream. Most lines are like the one before
// except for a few words, and then report nothing new: a Meter learns from such a line
// only how much text there is.
type pattern struct {
	line     []byte // the line with its line end
	from, to int    // the position of the text in it; from is 0 if there is no pattern
}

// maxPattern bounds the length of a line that is kept.
const maxPattern = 1 << 10

// learn takes a line that was read, and the text in it, if that is a single string of
// wrote characters.
func (p *pattern) learn(line, said []byte, wrote int64) {
	if len(said) == 0 || int64(len(said)) != wrote || len(line) > maxPattern {
		return
	}
	p.line = append(p.line[:0], line...)
	p.from = cap(line) - cap(said) // said is a part of line
	p.to = p.from + len(said)
}

func (p *pattern) forget() { p.from = 0 }

// match returns the length of the line at the beginning of b, and of its text, if it
// is like the last one; 0 if it is not.
func (p *pattern) match(b []byte) (n, said int) {
	if p.from == 0 || !bytes.HasPrefix(b, p.line[:p.from]) {
		return 0, 0
	}
	end := plainEnd(b, p.from)
	if end < 0 || !bytes.HasPrefix(b[end:], p.line[p.to:]) {
		return 0, 0
	}
	if text := b[p.from:end]; bytes.IndexByte(text, '\n') >= 0 || bytes.IndexByte(text, '\r') >= 0 {
		return 0, 0
	}
	return end + len(p.line) - p.to, end - p.from
}
