package upstream

import "bytes"

// line says what is known of a line of an event stream that is being read.
type line uint8

const (
	lineBegins line = iota
	lineHoldsData
	lineMeansNothing
)

// readLine reads the rest of a line of an event stream, and returns what follows it.
// A line may end with \n, \r\n or \r.
func (m *Meter) readLine(b []byte) []byte {
	if m.cr {
		if m.cr = false; b[0] == '\n' {
			return b[1:]
		}
	}
	begins := m.line == lineBegins && len(m.head) == 0 && m.scan.depth == 0 && !m.scan.string
	if begins {
		if b[0] == '\n' {
			return b[1:]
		}
		if n, said := m.last.match(b); n > 0 {
			m.wrote += int64(said)
			return b[n:]
		}
	}
	wrote := m.wrote
	m.said = nil
	end := bytes.IndexByte(b, '\n')
	part := b
	if end >= 0 {
		part = b[:end]
	}
	if i := bytes.IndexByte(part, '\r'); i >= 0 {
		end, part, m.cr = i, b[:i], true
	}
	m.readPart(part)
	if end < 0 {
		return nil
	}
	if m.scan.string || m.scan.depth > 0 && m.line == lineBegins && len(m.head) == 0 {
		// The event is over but its JSON text is not. A text may span several lines
		// of data, but a string may not.
		if m.scan.depth > 0 {
			m.invalidate()
		}
		m.scan.reset()
	}
	if m.line == lineHoldsData {
		m.last.forget()
		if begins && b[end] == '\n' && m.scan.depth == 0 {
			m.last.learn(b[:end+1], m.said, m.wrote-wrote)
		}
	}
	m.line, m.head, m.done, m.said = lineBegins, m.head[:0], 0, nil
	return b[end+1:]
}

func (m *Meter) readPart(part []byte) {
	if m.line == lineBegins {
		if len(m.head) > 0 {
			part = append(m.head, part...)
		}
		part = bytes.TrimLeft(part, " \t")
		const field = "data:"
		switch n := min(len(part), len(field)); {
		case string(part[:n]) != field[:n]:
			m.line = lineMeansNothing
			if part[0] == '{' { // OpenAI has sent errors that way
				m.line = lineHoldsData
			}
		case n < len(field):
			m.head = append(m.head[:0], part...)
			return
		default:
			m.line, part = lineHoldsData, part[n:]
		}
		m.head = m.head[:0]
	}
	if m.line != lineHoldsData {
		return
	}
	const done = "[DONE]"
	for m.scan.depth == 0 && m.done < len(done) && len(part) > 0 {
		if m.done == 0 && (part[0] == ' ' || part[0] == '\t') {
			part = part[1:]
			continue
		}
		if part[0] != done[m.done] {
			break
		}
		part = part[1:]
		m.done++
		m.ended = m.ended || m.done == len(done)
	}
	for len(part) > 0 {
		n, ended := m.scan.write(part, m)
		part = part[n:]
		if ended {
			m.commit()
		}
	}
}
