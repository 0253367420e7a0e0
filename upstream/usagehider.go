package upstream

import (
	"bytes"
	"io"
)

// Hide measures a stream of chat completions and removes the one event that the
// client did not ask for: it has usage and no choices, and clients that expect a
// choice break on it. Every other event passes as soon as it is complete, and so does
// a body that turns out not to be a stream of events. Nothing but the returned reader
// may write to the Meter.
func (m *Meter) Hide(body io.ReadCloser) io.ReadCloser {
	return &usageHider{ReadCloser: body, meter: m}
}

type usageHider struct {
	io.ReadCloser
	meter *Meter
	in    []byte // read, and not yet filtered
	out   []byte // filtered, and not yet passed on
	err   error  // the error of the last read
}

// maxHeldEvent bounds an event that is held until it is complete. A longer one passes
// as it comes, because the event with usage is short.
const maxHeldEvent = 1 << 20

// Read implements io.Reader.
func (h *usageHider) Read(p []byte) (int, error) {
	for len(h.out) == 0 {
		if h.err != nil {
			return 0, h.err
		}
		if 2*len(h.in) > len(p) {
			n, err := h.read(p)
			h.in, h.err = append(h.in, p[:n]...), err
			// Without a line end no event is complete, and a long event that comes in
			// small pieces is not searched again and again.
			if err != nil || len(h.in) > maxHeldEvent || !h.mayBeEvents() || bytes.ContainsAny(p[:n], "\r\n") {
				h.filter()
			}
			continue
		}
		begun := copy(p, h.in)
		n, err := h.read(p[begun:])
		b := p[:begun+n]
		end := len(b)
		if h.mayBeEvents() {
			end = wholeEvents(b, begun)
		}
		if err == nil && (!h.mayBeEvents() || usageAt(b[:end]) < 0) {
			h.in = append(h.in[:0], b[end:]...)
			if end > 0 {
				return end, nil // none of these events is the one to hide
			}
			continue
		}
		h.in, h.err = append(h.in[:0], b...), err
		h.filter()
	}
	n := copy(p, h.out)
	h.out = h.out[n:]
	return n, nil
}

func (h *usageHider) read(p []byte) (int, error) {
	n, err := h.ReadCloser.Read(p)
	h.meter.Write(p[:n])
	return n, err
}

// mayBeEvents reports whether the body is, or may be, server-sent events.
func (h *usageHider) mayBeEvents() bool { return h.meter.form == events || h.meter.form == notKnown }

// lineEnd returns the last byte of each line end in b: \n, or \r if b has only those.
func lineEnd(b []byte) byte {
	if bytes.IndexByte(b, '\n') < 0 && bytes.IndexByte(b, '\r') >= 0 {
		return '\r'
	}
	return '\n'
}

// wholeEvents returns the length of the complete events in b. No event ends within
// the first begun bytes.
func wholeEvents(b []byte, begun int) int {
	end, from := lineEnd(b), max(begun-2, 0)
	for i := len(b) - 1; i > from; i-- {
		i = from + bytes.LastIndexByte(b[from:i+1], end)
		switch {
		case i <= from:
			return 0
		case b[i-1] == end, b[i-1] == '\r' && i >= 2 && b[i-2] == '\n':
			return i + 1
		}
	}
	return 0
}

// filter moves complete events to out, except the one to hide.
func (h *usageHider) filter() {
	h.out = h.out[:0:cap(h.out)]
	done := 0
	for h.mayBeEvents() {
		end := eventEnd(h.in[done:])
		if end < 0 {
			break
		}
		event := h.in[done : done+end]
		done += end
		if !isUsageEvent(event) {
			h.out = append(h.out, event...)
		}
	}
	// A body that ends within an event passes, and so does an event that is too long.
	if h.err != nil || len(h.in) > maxHeldEvent || !h.mayBeEvents() {
		h.out = append(h.out, h.in[done:]...)
		done = len(h.in)
	}
	h.in = append(h.in[:0], h.in[done:]...)
}

// eventEnd returns the length of the event at the beginning of b, with the empty line
// that ends it; -1 while it is incomplete.
func eventEnd(b []byte) int {
	if lineEnd(b) == '\r' {
		if i := bytes.Index(b, []byte("\r\r")); i >= 0 {
			return i + 2
		}
		return -1
	}
	end := bytes.Index(b, []byte("\n\n"))
	if end >= 0 {
		end += 2
		b = b[:end]
	}
	if i := bytes.Index(b, []byte("\n\r\n")); i >= 0 {
		return i + 3
	}
	return end
}

// isUsageEvent reports whether an event reports usage and nothing of an answer: its
// choices are an empty list, null, or missing.
func isUsageEvent(event []byte) bool {
	if usageAt(event) < 0 {
		return false
	}
	o, err := parseObject(dataOf(event))
	if err != nil {
		return false
	}
	empty, usage := true, false
	for name, value := range o.members {
		switch name {
		case "choices":
			empty = empty && (value[0] == 'n' || isEmpty(value))
		case "error":
			empty = empty && value[0] == 'n'
		case "usage":
			usage = value[0] == '{'
		}
	}
	return empty && usage
}

// dataOf returns the data of an event: the contents of its data lines, which may be
// mixed with others.
func dataOf(event []byte) []byte {
	event = bytes.TrimPrefix(event, []byte("\xef\xbb\xbf"))
	var data []byte
	several := false
	for len(event) > 0 {
		line := event
		if i := bytes.IndexAny(event, "\r\n"); i >= 0 {
			line, event = event[:i], event[i+1:]
		} else {
			event = nil
		}
		part, ok := bytes.CutPrefix(line, []byte("data:"))
		switch {
		case !ok:
		case data == nil:
			data = part
		default:
			if !several {
				several, data = true, bytes.Clone(data)
			}
			data = append(append(data, '\n'), part...)
		}
	}
	return data
}

// usageAt returns the index of a member in b whose name ends in usage, and whose
// value is an object, perhaps in the next line of data; -1 if there is none. OpenAI
// writes "usage":null in every event but one.
func usageAt(b []byte) int {
	from := 0
	for {
		i := bytes.Index(b[from:], []byte("usage"))
		if i < 0 {
			return -1
		}
		at := from + i
		from = at + len("usage")
		if from == len(b) {
			return -1
		}
		if value := b[from+1+spaces(b[from+1:]):]; b[from] == '"' && (len(value) == 0 || value[0] == '{' || value[0] == 'd') {
			return at
		}
	}
}
