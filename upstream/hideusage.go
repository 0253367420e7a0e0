package upstream

import (
	"bytes"
	"io"
)

// Hide measures a stream of chat completions and takes out of it the one event
// that the client did not ask for: it has no choices, and usage, and clients
// that expect a choice break on it. Every other event passes as soon as it is
// whole. Nobody else writes to the Meter.
func (m *Meter) Hide(body io.ReadCloser) io.ReadCloser {
	return &usageHider{ReadCloser: body, meter: m}
}

type usageHider struct {
	io.ReadCloser
	meter *Meter
	in    []byte // read and not yet judged
	out   []byte // judged and not yet passed on
	err   error  // of reading
}

// Read implements io.Reader.
func (h *usageHider) Read(p []byte) (int, error) {
	for len(h.out) == 0 {
		if h.err != nil {
			return 0, h.err
		}
		if 2*len(h.in) > len(p) {
			n, err := h.ReadCloser.Read(p)
			h.in, h.err = append(h.in, p[:n]...), err
			// Without a line end nothing has become whole, and a long event
			// that comes in small pieces is not searched again and again.
			if err != nil || len(h.in) > maxMeterLine || bytes.IndexByte(p[:n], '\n') >= 0 {
				h.judge()
			}
			continue
		}
		begun := copy(p, h.in)
		n, err := h.ReadCloser.Read(p[begun:])
		b := p[:begun+n]
		end := wholeEvents(b, begun)
		if err == nil && usageAt(b[:end]) < 0 {
			h.in = append(h.in[:0], b[end:]...)
			if end > 0 {
				h.meter.noteEnd(b[:end])
				return end, nil // and none that is looked for
			}
			continue
		}
		h.in, h.err = append(h.in[:0], b...), err
		h.judge()
	}
	n := copy(p, h.out)
	h.out = h.out[n:]
	return n, nil
}

// wholeEvents is the length of the events in b that are whole. Within the
// first so many bytes none ends.
func wholeEvents(b []byte, begun int) int {
	from := max(begun-2, 0)
	for i := len(b) - 1; i > from; i-- {
		i = from + bytes.LastIndexByte(b[from:i+1], '\n')
		switch {
		case i <= from:
			return 0
		case b[i-1] == '\n', b[i-1] == '\r' && i >= 2 && b[i-2] == '\n':
			return i + 1
		}
	}
	return 0
}

// judge moves whole events to what is passed on, but for the one.
func (h *usageHider) judge() {
	h.out = h.out[:0:cap(h.out)]
	done := 0
	for {
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
	// What ends without an event's end passes, as does what is too long.
	if h.err != nil || len(h.in) > maxMeterLine {
		h.out = append(h.out, h.in[done:]...)
		done = len(h.in)
	}
	h.meter.Write(h.in[:done])
	h.in = append(h.in[:0], h.in[done:]...)
}

// eventEnd is the length of the event that b begins with, with the empty line
// that ends it; -1 while it is not whole.
func eventEnd(b []byte) int {
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

func isUsageEvent(event []byte) bool {
	data, ok := bytes.CutPrefix(bytes.TrimSpace(event), []byte("data:"))
	if !ok || usageAt(data) < 0 {
		return false
	}
	o, err := parseObject(bytes.TrimSpace(data))
	if err != nil {
		return false
	}
	empty, usage := false, false
	err = o.members(func(name string, value []byte) error {
		switch name {
		case "choices":
			empty = value[0] == '[' && value[1+spaces(value[1:])] == ']'
		case "usage":
			usage = value[0] == '{'
		}
		return nil
	})
	return err == nil && empty && usage
}

// SpeaksError reports whether the body of an answer is an error in the words of
// an API, and not of something before it.
func SpeaksError(body []byte) bool {
	o, err := parseObject(body)
	if err != nil {
		return false
	}
	speaks := false
	err = o.members(func(name string, value []byte) error {
		switch name {
		case "error":
			speaks = speaks || value[0] == '{' || value[0] == '"'
		case "message":
			speaks = speaks || value[0] == '"'
		}
		return nil
	})
	return err == nil && speaks
}
