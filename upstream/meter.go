package upstream

import (
	"bytes"
	"strings"
)

// Meter reads an answer's usage while the answer passes. It is given the bytes
// as they come, keeps at most a part of them, and never holds them up.
type Meter struct {
	// Several says that more than one answer was asked for, so that the usage of
	// one is not that of the request.
	Several bool

	usage   Usage
	final   bool   // what was reported is about the whole answer
	ended   bool   // the stream said that it is over
	failed  bool   // an error was said in the answer
	embeds  bool   // it holds embeddings, which are no output
	insured bool   // see there
	stream  bool   // it may be more than one JSON text
	model   string // that answered, as it says
	tier    string // that the request was served in, as it says
	geo     string // the region that it was served from, as it says
	wrote   int64  // characters of text that a model wrote, roughly
	given   *Given // ids that the answer has for what it holds; nil: nobody wants them
	pending textReport
	scan    scan
	form    form
	line    line
	last    pattern
	said    []byte // text in the line that is being read
	head    []byte // what is too short yet to tell what it is
	room    [8]byte
	cr      bool // a carriage return came last
	done    int  // letters of [DONE] that came
}

// told is what one JSON text said before it ended.
type textReport struct {
	whole    bool // usage that is about the whole answer
	final    bool // and says what came out
	response bool // the same, if this is the last event
	last     bool // it is
	ends     bool // it is, and holds no usage
	embeds   bool
	failed   bool
}

// line says what a line of an event stream is.
type line uint8

const (
	lineBegins line = iota
	lineHoldsData
	lineMeansNothing
)

// NewMeter returns a Meter for an answer: stream says that it may be several
// JSON texts, one after the other. Whether they come as events is seen from
// the first of its bytes, whatever its type says.
func NewMeter(stream bool) *Meter { return &Meter{usage: unreported, stream: stream} }

// Meter returns a Meter for an answer of such an upstream.
func (p *Preset) Meter(stream bool) *Meter {
	m := NewMeter(stream)
	m.insured = insured[p.Name]
	return m
}

// WantIDs has the Meter note the ids of a Responses answer and its items.
func (m *Meter) WantIDs() { m.given = new(Given) }

// IDs are those that were read so far; nil where nobody wanted them.
func (m *Meter) IDs() *Given { return m.given }

// Whole reports whether what was read so far ends with the report of a whole
// answer, so that nothing of interest can follow.
func (m *Meter) Whole() bool { return m.final && m.scan.depth == 0 && !m.scan.string }

// maxTokenText is more characters than a token of any vocabulary stands for:
// the longest of OpenAI's (o200k, cl100k) are 128 spaces, those of others are
// shorter, and what a stream says twice (deltas, then the whole) is counted twice.
const maxTokenText = 256

// Usage is what was reported so far, as far as it can be true. There is no
// prompt of no tokens, and no text that none came out of: who reports such
// things counts nothing, and that half is not known.
func (m *Meter) Usage() Usage {
	u := m.usage
	if u.Input < 1 {
		u.Input, u.CachedInput, u.CacheWrite, u.CacheWrite1h = -1, -1, -1, -1
	}
	if u.Output < (m.wrote+maxTokenText-1)/maxTokenText {
		u.Output = -1
	}
	return u
}

// Final reports whether what was reported is about the whole answer, and not
// what Anthropic says at its beginning.
func (m *Meter) Final() bool { return m.final }

// Model is the model that answered, as far as the answer says; what stands
// beside its usage counts.
func (m *Meter) Model() string { return m.model }

// PricedModel is the same as prices are listed under: Gemini's resource names begin
// with "models/".
func (m *Meter) PricedModel() string { return strings.TrimPrefix(m.model, "models/") }

// Tier is the service tier that the answer says the request was served in, or
// "".
func (m *Meter) Tier() string { return m.tier }

// Region is where the answer says the request was served, or "" where it does
// not, or was anywhere.
func (m *Meter) Region() string { return m.geo }

// Over reports whether a stream said that it is over, whatever it said of its usage.
func (m *Meter) Over() bool { return m.ended }

// Ended reports the same of one that said its usage before.
func (m *Meter) Ended() bool { return m.ended && m.final }

// lastEvents are those that end a stream and hold its usage.
var lastEvents = set("response.completed", "response.incomplete", "response.failed", "response.cancelled", "message-end", "stream-end")

// form is how an answer is written, which its first bytes tell.
type form uint8

const (
	notKnown form = iota
	oneText       // a JSON text, and what follows it is of no interest
	texts         // JSON texts, one after the other
	events        // server-sent events
	noForm        // nothing that is read
)

// answerForm tells what b begins, which is returned without what may stand before.
func answerForm(b []byte) (form, []byte) {
	// DeepSeek sends empty lines while it works, some send a byte order mark.
	for len(b) > 0 && strings.IndexByte(" \t\r\n\xef\xbb\xbf", b[0]) >= 0 {
		b = b[1:]
	}
	if len(b) == 0 {
		return notKnown, b
	}
	if b[0] == '{' || b[0] == '[' {
		return oneText, b
	}
	for _, field := range []string{"data:", "event:", "id:", "retry:", ":"} {
		switch n := min(len(field), len(b)); {
		case string(b[:n]) != field[:n]:
		case n < len(field):
			return notKnown, b
		default:
			return events, b
		}
	}
	return noForm, b
}

// Write takes more of the answer. It keeps no reference to b.
func (m *Meter) Write(b []byte) {
	if m.form == notKnown {
		if len(m.head) > 0 {
			b = append(m.head, b...)
		}
		m.form, b = answerForm(b)
		if m.head = m.room[:0]; m.form == notKnown {
			m.head = append(m.head, b...)
			return
		}
		if m.form == oneText && m.stream {
			m.form = texts
		}
	}
	for len(b) > 0 {
		switch m.form {
		case events:
			b = m.readLine(b)
		case oneText, texts:
			n, ended := m.scan.write(b, m)
			b = b[n:]
			if ended {
				m.commit()
			}
			if ended && m.form == oneText {
				m.form = noForm
			}
		default:
			return
		}
	}
}

// Close is called at the end of the answer. One text of which the end is missing
// said what it said; in any other case more may have been said in what is.
func (m *Meter) Close() {
	switch {
	case m.scan.depth == 0:
	case m.form == oneText && m.scan.places[1] == atTop:
		m.commit()
	default:
		m.invalidate()
	}
}

// readLine reads of an event stream what is left of a line, and returns what
// follows. A line may end with \n, \r\n or \r.
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
		// The event is over and its text is not. One text may stand in several
		// lines of data, but no string.
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

// readPart reads a part of a line of an event stream.
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

// report takes a usage object, or Cohere's meta; good says that it was short
// enough to be kept.
func (m *Meter) report(at place, k answerKey, value []byte, good bool) {
	o, err := parseObject(value)
	if !good || err != nil {
		m.invalidate()
		return
	}
	u, err := usageOf(o)
	if err != nil {
		if err == errNoNumber {
			m.usage.merge(u)
		}
		m.invalidate()
		return
	}
	if k == keyMeta && !u.Known() || at == inChoice && m.Several {
		return
	}
	m.usage.merge(u)
	switch at {
	case inMessage:
	case inResponse:
		m.pending.response = true
	default:
		m.pending.whole = true
	}
	m.pending.final = m.pending.final || u.Output >= 0
	if bytes.Contains(value, []byte("_tier")) || bytes.Contains(value, []byte("eTier")) || bytes.Contains(value, []byte("_geo")) {
		err = o.members(func(name string, value []byte) error {
			if value[0] == '"' && len(value) <= maxModelName {
				m.word(at, answerKeyOf(name), value[1:len(value)-1])
			}
			return nil
		})
		if err != nil {
			m.invalidate()
		}
	}
}

// count takes one of Ollama's counts, which stand in the answer itself.
func (m *Meter) ollamaCount(k answerKey, number []byte) {
	n, ok := wholeNumber(string(number))
	if !ok {
		return
	}
	u := unreported
	if k == keyPromptCount {
		u.Input = n
	} else {
		u.Output = n
		m.pending.final, m.pending.ends = true, true
	}
	m.usage.merge(u)
	m.pending.whole = true
}

// word takes a member of an answer, or of its usage, that is text, as it stands
// between its quotes.
func (m *Meter) word(at place, k answerKey, raw []byte) {
	s := string(raw)
	if bytes.IndexByte(raw, '\\') >= 0 {
		var err error
		if s, err = unquote(append(append([]byte{'"'}, raw...), '"')); err != nil {
			return // one that is not well formed is none known
		}
	}
	switch k {
	case keyType:
		m.pending.last = lastEvents[s]
		m.pending.ends = m.pending.ends || s == "message_stop"
	case keyModel:
		m.model = s
	case keyTier:
		m.tier = strings.ToLower(s)
	case keyRegion:
		if s != "global" && s != "not_available" {
			m.geo = s
		}
	case keyID:
		m.given.name(at, s)
	case keyFinish:
		m.pending.failed = m.pending.failed || s == "error" || s == "ERROR"
	}
}

// commit ends a JSON text.
func (m *Meter) commit() {
	e := m.pending
	m.pending = textReport{}
	m.embeds, m.failed = m.embeds || e.embeds, m.failed || e.failed
	whole := e.whole || e.response && (e.last || !m.stream && m.form == oneText)
	if whole && m.embeds && m.usage.Output < 0 {
		m.usage.Output, e.final = 0, true
	}
	m.final = m.final || whole && e.final
	m.ended = m.ended || e.last || e.ends
}

// doubt says that something of the answer could not be read. What was reported
// before is not about the whole of it, unless it is said again.
func (m *Meter) invalidate() {
	m.pending, m.final = textReport{}, false
}
