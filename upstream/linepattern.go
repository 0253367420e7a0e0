package upstream

import "bytes"

// pattern is the line of data that an event stream had last. Most are like the
// one before but for a few words, and then say nothing that it did not say: what a
// Meter learns of a line is the same however often it comes, but for how much text
// there is.
type pattern struct {
	line     []byte // as it came, with its end
	from, to int    // where in it that text stands; from is 0 where there is no pattern
}

// maxPattern bounds what is kept of a line.
const maxPattern = 1 << 10

// learn takes a line that was read, and all that it holds of text, if that is one
// string of so many characters.
func (p *pattern) learn(line, said []byte, wrote int64) {
	if len(said) == 0 || int64(len(said)) != wrote || len(line) > maxPattern {
		return
	}
	p.line = append(p.line[:0], line...)
	p.from = cap(line) - cap(said) // it is a part of it
	p.to = p.from + len(said)
}

// forget is for when another line was read.
func (p *pattern) forget() { p.from = 0 }

// match returns the length of the line that b begins with and of its text, if it
// is like the last one; 0 where it is not.
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
