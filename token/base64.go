package token

// shortestWrap is the smallest number of base64 characters that can hold a key.
const shortestWrap = (len(KeyPrefix) + randomLen + checksumLen) * 4 / 3

// unwrap scans the base64 in a text: each run of its characters, across line ends too,
// from each of four offsets, because the text before the base64 may look like it.
func (s *scanner) unwrap(text []byte, wraps, at int) {
	var sextets, decoded []byte
	for i := 0; i < len(text); {
		if sextet(text[i]) < 0 {
			i++
			continue
		}
		start, diff := i, false
		sextets, i, diff = run(sextets[:0], text, start, false)
		from := at
		if from < 0 {
			from = start
		}
		decoded = s.decode(decoded, sextets, wraps, from)
		if diff { // the line's first character may be the diff's
			sextets, _, _ = run(sextets[:0], text, start, true)
			decoded = s.decode(decoded, sextets, wraps, from)
		}
	}
}

// decode scans the bytes that a run of sextets encodes, and returns its buffer.
func (s *scanner) decode(buf, sextets []byte, wraps, at int) []byte {
	for skip := 0; skip < 4 && len(sextets)-skip >= shortestWrap; skip++ {
		buf = buf[:0]
		rest := sextets[skip:]
		if s.budget -= len(rest) * 3 / 4; s.budget < 0 {
			return buf
		}
		for ; len(rest) >= 4; rest = rest[4:] {
			buf = append(buf, rest[0]<<2|rest[1]>>4, rest[1]<<4|rest[2]>>2, rest[2]<<6|rest[3])
		}
		switch len(rest) {
		case 2:
			buf = append(buf, rest[0]<<2|rest[1]>>4)
		case 3:
			buf = append(buf, rest[0]<<2|rest[1]>>4, rest[1]<<4|rest[2]>>2)
		}
		s.scan(buf, wraps-1, at)
	}
	return buf
}

// run collects the base64 that begins at i, and returns its end. With asDiff, a + or
// - at the beginning of a line is taken for that of a diff; diff reports whether there
// is such a line.
func run(to, text []byte, i int, asDiff bool) (sextets []byte, end int, diff bool) {
	for i < len(text) {
		if v := sextet(text[i]); v >= 0 {
			to, i = append(to, byte(v)), i+1
			continue
		}
		c, next := escaped(text, i)
		if v := sextet(c); c != 0 && v >= 0 {
			to, i = append(to, byte(v)), next
			continue
		}
		if text[i] == 0 { // UTF-16
			i++
			continue
		}
		next = lineEnd(text, i)
		if next < 0 {
			break
		}
		for next < len(text) && next < i+maxGap && (text[next] == ' ' || text[next] == '\t' || text[next] == '>' || text[next] == '|' || text[next] == '#' || text[next] == '*') {
			next++
		}
		if next < len(text) && (text[next] == '+' || text[next] == '-') {
			diff = true
			if asDiff {
				next++
			}
		}
		if next >= len(text) || sextet(text[next]) < 0 {
			return to, next, diff
		}
		i = next
	}
	return to, i, diff
}

// escaped returns a character of base64 that is escaped in JSON or a URL; 0: none.
func escaped(text []byte, i int) (c byte, next int) {
	switch {
	case text[i] == '\\' && i+1 < len(text) && text[i+1] == '/':
		return '/', i + 2
	case text[i] == '%' && i+2 < len(text) && text[i+1] == '2' && (text[i+2] == 'B' || text[i+2] == 'b'):
		return '+', i + 3
	case text[i] == '%' && i+2 < len(text) && text[i+1] == '2' && (text[i+2] == 'F' || text[i+2] == 'f'):
		return '/', i + 3
	}
	return 0, i
}

// lineEnd skips the end of a continued line: plain, escaped, or after the = of
// quoted-printable. -1: there is none.
func lineEnd(text []byte, i int) int {
	start := i
	if text[i] == '=' {
		i++
	}
	for i < len(text) {
		switch {
		case text[i] == '\r' || text[i] == '\n':
			i++
			if text[i-1] == '\n' {
				return i
			}
		case text[i] == '\\' && i+1 < len(text) && (text[i+1] == 'r' || text[i+1] == 'n'):
			i += 2
			if text[i-1] == 'n' {
				return i
			}
		default:
			if i > start && text[i-1] != '=' {
				return i // a lone carriage return
			}
			return -1
		}
	}
	return -1
}

// sextet returns the value of a character of either base64 alphabet, or -1.
func sextet(c byte) int {
	switch {
	case c >= 'A' && c <= 'Z':
		return int(c - 'A')
	case c >= 'a' && c <= 'z':
		return int(c-'a') + 26
	case c >= '0' && c <= '9':
		return int(c-'0') + 52
	case c == '+' || c == '-':
		return 62
	case c == '/' || c == '_':
		return 63
	}
	return -1
}
