package token

// Leak is the string of a key or token found in a text.
type Leak struct {
	Text   Secret // without the box of a sealed key
	Lookup Lookup
	Admin  bool // an admin token
	Offset int  // where it, or the base64 around it, begins
}

// Hint is enough of the string for its owner to know which one is meant.
func (l *Leak) Hint() string {
	prefix := KeyPrefix
	if l.Admin {
		prefix = AdminPrefix
	}
	return l.Text.Reveal()[:len(prefix)+4] + "..."
}

const (
	// maxGap bounds what may separate two characters of one string: the end of a line
	// and the beginning of the next.
	maxGap = 16
	// maxNested bounds the repeated escapes of one character, in bytes.
	maxNested = 8
	// maxWraps is how often a string may be wrapped in base64.
	maxWraps = 3
	// decodedPerByte bounds how many bytes of apparent base64 are decoded per byte of
	// text.
	decodedPerByte = 8
)

// Scan finds the strings of keys and tokens with a valid checksum, in any order, each
// as often as it occurs: plain, percent-encoded, with the escapes of JSON, HTML or
// quoted-printable, in UTF-16, broken over lines with the line prefixes of diffs,
// mails and comments, and wrapped in base64. The checksum rules out false finds. Scan
// needs about as much memory as the text.
func Scan(text []byte, found func(Leak)) {
	s := scanner{found: found, budget: decodedPerByte*len(text) + 1<<16}
	s.scan(text, maxWraps, -1)
}

type scanner struct {
	found  func(Leak)
	budget int // bytes that may still be decoded
}

// scan searches a text that may hold up to wraps more layers of base64. at, unless -1, is
// its offset in the outermost text.
func (s *scanner) scan(text []byte, wraps, at int) {
	for i := 0; i < len(text); {
		switch text[i] {
		case 't', '%', '\\', '&', '=':
		default:
			i++
			continue
		}
		leak, next, ok := matchString(text, i)
		if !ok {
			i++
			continue
		}
		if leak.Offset = i; at >= 0 {
			leak.Offset = at
		}
		s.found(leak)
		i = next
	}
	if wraps > 0 {
		s.unwrap(text, wraps, at)
	}
}

// matchString reads a string that begins exactly at i.
func matchString(text []byte, i int) (leak Leak, next int, ok bool) {
	var buf [len(AdminPrefix) + randomLen + checksumLen]byte
	n := 0
	take := func(want string) bool { // takes one character: that of want or, if want is empty, a digit of base 62
		c, after, ok := nextOf(text, i, n > 0)
		if !ok || want != "" && c != want[0] || want == "" && digit(c) < 0 {
			return false
		}
		buf[n], i = c, after
		n++
		return true
	}
	word := func(want string) bool {
		for j := range len(want) {
			if !take(want[j : j+1]) {
				return false
			}
		}
		return true
	}
	prefix := KeyPrefix
	if !word("till_") {
		return leak, 0, false
	}
	if c, _, ok := nextOf(text, i, true); ok && c == 'a' {
		prefix = AdminPrefix
	}
	if !word(prefix[n:]) {
		return leak, 0, false
	}
	for range randomLen + checksumLen {
		if !take("") {
			return leak, 0, false
		}
	}
	lookup, err := parse(prefix, string(buf[:n]))
	if err != nil {
		return leak, 0, false
	}
	return Leak{Text: NewSecret(string(buf[:n])), Lookup: lookup, Admin: prefix == AdminPrefix}, i, true
}

// nextOf returns the character at i, however it is escaped, and where the next one
// begins. If gap is set, something that may break a string can precede it.
func nextOf(text []byte, i int, gap bool) (c byte, next int, ok bool) {
	for end := min(i+maxGap+1, len(text)); i < end; {
		if c := text[i]; c == '_' || digit(c) >= 0 {
			return c, i + 1, true
		}
		c, next, what := unescape(text, i)
		switch {
		case what == character:
			return c, next, true
		case what == breaking && gap:
			i = next
		default:
			return 0, 0, false
		}
	}
	return 0, 0, false
}

type meaning uint8

const (
	foreign   meaning = iota
	character         // an escaped character
	breaking          // may interrupt a broken string
)

// unescape interprets the bytes at i if they are not plain characters of a string.
func unescape(text []byte, i int) (c byte, next int, what meaning) {
	switch text[i] {
	case '\r', '\n', ' ', '\t', '"', '\'', '`', '+', '-', '>', '|', '*', '#', 0:
		return 0, i + 1, breaking
	case '%': // %5F, or %255F if encoded twice
		j := i + 1
		for j+1 < len(text) && j < i+maxNested && text[j] == '2' && text[j+1] == '5' {
			j += 2
		}
		return hexByte(text, j, 2)
	case '=': // quoted-printable: =5F, and = at the end of a continued line
		if i+1 < len(text) && (text[i+1] == '\r' || text[i+1] == '\n') {
			return 0, i + 1, breaking
		}
		return hexByte(text, i+1, 2)
	case '\\': // \u005f, \x5f, \n; escaped any number of times
		j := i + 1
		for j < len(text) && j < i+maxNested && text[j] == '\\' {
			j++
		}
		if j == len(text) {
			return 0, j, breaking
		}
		switch text[j] {
		case 'u':
			return hexByte(text, j+1, 4)
		case 'x':
			return hexByte(text, j+1, 2)
		case 'n', 'r', 't', '\r', '\n', '"', '\'':
			return 0, j + 1, breaking
		}
	case '&': // &#95; and &#x5f;
		return entity(text, i)
	}
	return 0, 0, foreign
}

func hexByte(text []byte, i, n int) (c byte, next int, what meaning) {
	if i+n > len(text) {
		return 0, 0, foreign
	}
	v := 0
	for _, d := range text[i : i+n] {
		h := hexDigit(d)
		if h < 0 {
			return 0, 0, foreign
		}
		v = v<<4 | h
	}
	switch {
	case v < 0x80 && (v == '_' || digit(byte(v)) >= 0):
		return byte(v), i + n, character
	case v == '\n' || v == '\r' || v == ' ' || v == '"':
		return 0, i + n, breaking
	}
	return 0, 0, foreign
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// entity reads a numeric character reference of HTML.
func entity(text []byte, i int) (c byte, next int, what meaning) {
	j := i + 1
	if j >= len(text) || text[j] != '#' {
		return 0, 0, foreign
	}
	j++
	base := 10
	if j < len(text) && (text[j] == 'x' || text[j] == 'X') {
		base = 16
		j++
	}
	v, n := 0, 0
	for ; j < len(text) && n < 6; j, n = j+1, n+1 {
		h := hexDigit(text[j])
		if h < 0 || h >= base {
			break
		}
		v = v*base + h
	}
	if n == 0 || v >= 0x80 || !(v == '_' || digit(byte(v)) >= 0) {
		return 0, 0, foreign
	}
	if j < len(text) && text[j] == ';' {
		j++
	}
	return byte(v), j, character
}
