package upstream

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// scan walks through JSON texts as they come, in pieces of any size, and reports to a
// Meter what it wants to know: usage where vendors put it, the strings beside it, and
// how much text a model wrote. It keeps only single values, and none that is too
// long. It does not check whether a text is well formed: some contain NaN or half a
// character beside a valid report.
type scan struct {
	depth   int
	objects uint64    // a bit per depth: whether an object, rather than a list, is open there
	places  [6]place  // the places that are open, by depth
	key     answerKey // the key of the member that is being read
	expect  bool      // a member's name may begin
	string  bool      // inside a string
	escaped bool      // after a backslash
	text    bool      // the string is text that a model wrote
	hex     int       // how many digits of an escape follow, which are not text
	quiet   int       // the depth of a value without text of a model; 0: none
	catch   catch     // what is being kept
	caught  int       // the depth of the object that is being kept
	long    bool      // the value is too long
	kept    []byte    // the earlier pieces of the value; starts in room
	room    [256]byte
}

// maxKey is longer than any name in answerKeyOf with each letter escaped.
const maxKey = 128

// place is where in a text something stands, as far as usage may be there.
type place uint8

const (
	nowhere      place = iota
	aList              // the text itself is a list: Gemini's streams without events
	inOutputList       // the list of a Responses answer's items
	inOutputItem       // one of these items; only its id is read
	inError            // an error; only its message and its code are read
	atTop              // the object that is the text, or an element of aList
	inMessage
	inResponse
	inOther // an object whose usage is that of the whole answer
	inChoices
	inChoice
)

type catch uint8

const (
	nothing catch = iota
	aKey
	aWord
	aNumber
	anObject
)

// maxCaught bounds how much is kept of one value. A usage object has a few hundred
// bytes.
const maxCaught = 64 << 10

// maxErrorText bounds how much of an error's text is kept, in bytes.
const maxErrorText = 1024

func (s *scan) place() place {
	if s.depth < len(s.places) {
		return s.places[s.depth]
	}
	return nowhere
}

func (s *scan) inObject() bool { return s.depth < 64 && s.objects>>s.depth&1 == 1 }

// reset drops a text that is not complete.
func (s *scan) reset() {
	s.depth, s.quiet, s.hex = 0, 0, 0
	s.expect, s.string, s.escaped, s.text = false, false, false, false
	s.drop()
}

func (s *scan) drop() { s.catch, s.long, s.kept = nothing, false, s.kept[:0] }

func (s *scan) begin(c catch) {
	if s.kept == nil {
		s.kept = s.room[:0]
	}
	s.catch, s.long, s.kept = c, false, s.kept[:0]
}

// keep adds a piece that ends before the value does.
func (s *scan) keep(b []byte) {
	if s.long = s.long || len(s.kept)+len(b) > s.most(); !s.long {
		s.kept = append(s.kept, b...)
	}
}

// most returns how many bytes of a value are kept.
func (s *scan) most() int {
	switch s.catch {
	case anObject:
		return maxCaught
	case aWord:
		if s.key == keyError || s.key == keyMessage {
			return maxErrorText
		}
		return maxModelName
	}
	return maxKey
}

// end returns the kept value including its last piece, and false if it was too long.
// The value may share b's memory, and is valid until more is kept.
func (s *scan) end(b []byte) ([]byte, bool) {
	if len(s.kept) > 0 || s.long {
		s.keep(b)
		b = s.kept
	}
	long := s.long || len(b) > s.most()
	s.drop()
	return b, !long
}

// write reads more. It returns how much it read, which is everything or up to the end
// of a text, and whether a text ended.
func (s *scan) write(b []byte, m *Meter) (int, bool) {
	from := 0   // where the value that is being kept begins
	quote := -1 // where the next quote is, once it was searched for
	for i := 0; i < len(b); {
		if !s.string {
			c := b[i]
			i++
			switch c {
			case '"':
				if end := plainEnd(b, i); end >= 0 {
					// Nearly all strings are complete and short.
					if s.whole(b[i:end], m) {
						from = end + 1
					}
					i = end + 1
					continue
				}
				s.open(m)
				if s.catch == aKey || s.catch == aWord {
					from = i
				}
			case '{', '[':
				if s.push(c, m); s.catch == anObject && s.caught == s.depth {
					from = i - 1
				}
			case '}', ']':
				if s.catch == aNumber {
					s.number(b[from:i-1], m)
				}
				if s.catch == anObject && s.caught == s.depth {
					value, ok := s.end(b[from:i])
					m.report(s.places[s.depth-1], s.key, value, ok)
				}
				if s.pop(m) {
					return i, true
				}
			case ',':
				if s.catch == aNumber {
					s.number(b[from:i-1], m)
				}
				if s.catch != anObject {
					s.expect, s.key = s.inObject(), keyOther
				}
			}
			continue
		}
		if s.escaped {
			s.escaped = false
			if s.text {
				m.wrote++
				if b[i] == 'u' {
					s.hex = 4
				}
			}
			i++
			continue
		}
		// Most strings are short. In others, find the end first, and then the escapes
		// before it.
		stop := i
		for near := min(len(b), i+16); stop < near && b[stop] != '"' && b[stop] != '\\'; {
			stop++
		}
		if stop == i+16 {
			if quote < stop {
				if quote = bytes.IndexByte(b[stop:], '"'); quote < 0 {
					quote = len(b)
				} else {
					quote += stop
				}
			}
			if n := bytes.IndexByte(b[stop:quote], '\\'); n >= 0 {
				stop += n
			} else {
				stop = quote
			}
		}
		if s.text {
			n := stop - i
			hex := min(n, s.hex)
			s.hex -= hex
			m.wrote += int64(n - hex)
		}
		i = stop
		if i == len(b) {
			break
		}
		if i++; b[stop] == '\\' {
			s.escaped = true
			continue
		}
		s.string, s.text, s.hex = false, false, 0
		switch s.catch {
		case aKey:
			name, ok := s.end(b[from:stop])
			s.key = keyOther
			if ok {
				s.key = named(name)
			}
			if s.counts() {
				from = i
			}
		case aWord:
			word, ok := s.end(b[from:stop])
			switch {
			case ok:
				m.word(s.place(), s.key, word)
			case s.key == keyError:
				m.pending.failed = true
			}
		}
	}
	if s.catch != nothing {
		s.keep(b[from:])
	}
	return len(b), false
}

// plainEnd returns the end of the string whose first character is at i, and -1 if it
// has escapes or its end is not in b.
func plainEnd(b []byte, i int) int {
	for ; i+8 <= len(b); i += 8 {
		if m := marks(binary.LittleEndian.Uint64(b[i:])); m != 0 {
			if i += bits.TrailingZeros64(m) / 8; b[i] == '"' {
				return i
			}
			return -1
		}
	}
	for ; i < len(b) && b[i] != '\\'; i++ {
		if b[i] == '"' {
			return i
		}
	}
	return -1
}

// whole takes a string without escapes, as written between its quotes. It reports
// whether the string is the name of a count, which is kept from there on.
func (s *scan) whole(value []byte, m *Meter) bool {
	switch {
	case s.catch == anObject:
	case s.expect:
		s.drop()
		s.expect, s.key = false, keyOther
		if len(value) <= maxKey {
			s.key = answerKeyOf(inPlace(value))
		}
		return s.counts()
	default:
		s.open(m)
		if s.text {
			m.wrote += int64(len(value))
			m.said = value
		}
		if s.catch == aWord {
			if len(value) <= s.most() {
				m.word(s.place(), s.key, value)
			} else if s.key == keyError {
				m.pending.failed = true
			}
		}
		s.drop()
		s.string, s.text = false, false
	}
	return false
}

// counts starts to keep a number if the name of a token count was read.
func (s *scan) counts() bool {
	if (s.key == keyPromptCount || s.key == keyOutputCount) && s.place() == atTop {
		s.begin(aNumber)
		return true
	}
	return false
}

func (s *scan) open(m *Meter) {
	s.string = true
	if s.catch == anObject {
		return
	}
	s.drop()
	if s.expect {
		s.expect = false
		s.begin(aKey)
		return
	}
	switch at := s.place(); s.key {
	case keyText, keyArguments, keyDelta, keyResponse, keyFailed:
		s.text = s.quiet == 0 && s.inObject()
		m.shown = m.shown || s.text && s.key == keyFailed
	case keyType:
		if at == atTop {
			s.begin(aWord)
		}
	case keyModel, keyTier, keyRegion:
		if at >= atTop && at < inChoices {
			s.begin(aWord)
		}
	case keyFinish:
		if at >= atTop {
			s.begin(aWord)
		}
	case keyID:
		if m.given != nil && (at == atTop || at == inResponse || at == inOutputItem) {
			s.begin(aWord)
		}
	case keyError:
		if at == atTop {
			s.begin(aWord)
		}
	case keyMessage, keyCode:
		if at == inError {
			s.begin(aWord)
		}
	case keyEmbedding: // in base64
		m.pending.embeds = true
	}
}

func (s *scan) push(c byte, m *Meter) {
	if s.catch == anObject {
		s.depth++
		return
	}
	s.drop() // a number was expected
	above, object := s.place(), c == '{'
	here := nowhere
	switch {
	case s.depth == 0 && !object:
		here = aList
	case s.depth == 0, above == aList && object:
		here = atTop
	case above == inChoices && object:
		here = inChoice
	case s.key == keyOutput && (above == atTop || above == inResponse) && !object:
		here = inOutputList
	case above == inOutputList && object, s.key == keyItem && above == atTop && object:
		here = inOutputItem
		m.given.open()
	case (above == atTop || above == inResponse) && s.key == keyError && object:
		here = inError
	case above == atTop && s.key == keyChoices && !object:
		here = inChoices
	case above == atTop && object:
		switch s.key {
		case keyMessage:
			here = inMessage
		case keyResponse:
			here = inResponse
		case keyInner, keyDelta:
			here = inOther
		}
	}
	if object && above >= atTop && above != inChoices {
		switch s.key {
		case keyUsage, keyMeta, keyBase:
			s.begin(anObject)
		case keyError:
			m.pending.failed = true
		}
	}
	s.depth++
	switch s.key {
	case keyQuiet:
		if s.quiet == 0 {
			s.quiet = s.depth
		}
	case keyArguments, keyCall:
		if s.quiet == 0 && object {
			m.wrote++ // the length of what a model wrote there is not measured
		}
	case keyEmbedding:
		m.pending.embeds = true
	}
	if s.depth < len(s.places) {
		s.places[s.depth] = here
	}
	if s.depth < 64 {
		s.objects &^= 1 << s.depth
		if object {
			s.objects |= 1 << s.depth
		}
	}
	if s.catch == anObject {
		s.caught = s.depth
		return
	}
	s.expect, s.key = object, keyOther
}

// pop ends an object or a list, and reports whether the text ends with it.
func (s *scan) pop(m *Meter) bool {
	if s.quiet == s.depth {
		s.quiet = 0
	}
	s.depth--
	s.expect = false
	if s.depth == 1 && s.places[1] == aList {
		m.commit()
	}
	s.depth = max(s.depth, 0)
	return s.depth == 0
}

func (s *scan) number(last []byte, m *Meter) {
	if b, ok := s.end(last); ok {
		m.ollamaCount(s.key, bytes.Trim(b, ": \t\r\n"))
	}
}

// named returns the answerKey of a name, as written between its quotes.
func named(name []byte) answerKey {
	if bytes.IndexByte(name, '\\') >= 0 {
		return answerKeyOf(view(append(append([]byte{'"'}, name...), '"')))
	}
	return answerKeyOf(inPlace(name))
}
