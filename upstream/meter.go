package upstream

import (
	"bytes"
	"strings"
)

// Meter reads an answer's usage while the answer passes. It takes the bytes as they
// come, keeps only a part of them, and never delays them.
type Meter struct {
	// Several says that the request asked for more than one answer, so that the usage
	// of one is not that of the request.
	Several bool
	// Embeds says that the request asked for embeddings. The answer to any other request
	// may only be repeating a member of that name.
	Embeds bool
	// BillsErrors says that the host may bill some errors: see the function of this name.
	BillsErrors bool

	usage   Usage
	final   bool   // the reported usage is that of the whole answer
	unsure  bool   // a report left open how much input there was, whatever the others say
	doubted bool   // a report said something that the usage does not contain
	guessed bool   // an input that was stated at the beginning may be a gateway's estimate
	stated  int64  // the most input in reports that are no such estimate
	ended   bool   // the stream said that it is complete
	failed  bool   // the answer contained an error
	embeds  bool   // it holds embeddings, which are not output
	insured bool   // see the table insured
	shown   bool   // an error shows what a model wrote
	spent   bool   // an error says that a model worked before it
	refused bool   // an error says that the request violates the vendor's guidelines
	stream  bool   // it may be several JSON texts
	model   string // the model that answered, as the answer says
	tier    string // the service tier, as the answer says
	geo     string // the region that served the request, as the answer says
	wrote   int64  // roughly how many characters a model wrote
	given   *Given // the ids in the answer; nil: not wanted
	pending textReport
	scan    scan
	form    form
	line    line
	last    pattern
	said    []byte // text in the line that is being read
	head    []byte // bytes that are too few to recognize the form
	room    [8]byte
	cr      bool // the last byte was a carriage return
	done    int  // how many letters of [DONE] have come
}

// textReport is what one JSON text has reported before its end.
type textReport struct {
	whole    bool // usage of the whole answer
	final    bool // that usage includes the output
	response bool // usage of the whole answer, if this is the last event
	last     bool // this is the last event
	ends     bool // this is the last event, and holds no usage
	embeds   bool
	failed   bool
}

// NewMeter returns a Meter for an answer; stream says that the answer may be several
// JSON texts, one after the other. The first bytes show whether they come as events,
// whatever the Content-Type says.
func NewMeter(stream bool) *Meter { return &Meter{usage: unreported, stream: stream} }

// Meter returns a Meter for an answer of this preset's upstream.
func (p *Preset) Meter(stream bool) *Meter {
	m := NewMeter(stream)
	m.insured = insured[p.Name]
	return m
}

// WantIDs makes the Meter record the ids of a Responses answer and its items.
func (m *Meter) WantIDs() { m.given = new(Given) }

// IDs returns the ids that were read so far; nil if WantIDs was not called.
func (m *Meter) IDs() *Given { return m.given }

// Whole reports whether what was read so far ends with the usage of the whole answer,
// so that nothing of interest can follow.
func (m *Meter) Whole() bool { return m.final && m.scan.depth == 0 && !m.scan.string }

// maxTokenText is more characters than a token of any vocabulary stands for: OpenAI's
// longest (o200k, cl100k) are 128 spaces, those of others are shorter, and what a
// stream repeats (deltas, then the whole) is counted twice.
const maxTokenText = 256

// Usage returns what was reported so far, as far as it can be true. Every prompt has
// tokens, and so has every text that a model wrote: a vendor that reports too few does
// not count them, and that half of the usage is unknown. An input that was only guessed is
// unknown until another report has one.
func (m *Meter) Usage() Usage {
	u := m.usage
	if u.Input < 1 || m.unsure || m.guessed && m.stated < 1 {
		u.Input, u.CachedInput, u.CacheWrite, u.CacheWrite1h = -1, -1, -1, -1
	}
	if u.Output < (m.wrote+maxTokenText-1)/maxTokenText {
		u.Output = -1
	}
	return u
}

// Final reports whether the reported usage is that of the whole answer, and not what
// Anthropic reports at its beginning.
func (m *Meter) Final() bool { return m.final }

// Guessed reports whether the input may be an estimate that a Messages stream states at its
// beginning, because no later report has as much. Gateways that do not know the input yet
// (ai-dynamo/dynamo, stream_converter.rs) state an output of 0 there; Anthropic documents
// that its own is never 0 ("will be non-zero" in its reference, Message.usage).
func (m *Meter) Guessed() bool { return m.guessed && m.usage.Input > m.stated }

// Model returns the model that answered, as far as the answer says; the name beside
// the usage counts.
func (m *Meter) Model() string { return m.model }

// PricedModel returns the name under which the model's prices are listed: Gemini's
// resource names begin with "models/".
func (m *Meter) PricedModel() string { return strings.TrimPrefix(m.model, "models/") }

// Tier returns the service tier that the answer names, or "".
func (m *Meter) Tier() string { return m.tier }

// Region returns the region that the answer names, or "" if it names none, or a
// global one.
func (m *Meter) Region() string { return m.geo }

// Over reports whether a stream said that it is complete, whether or not it reported
// its usage.
func (m *Meter) Over() bool { return m.ended }

// Ended reports whether a stream said that it is complete and reported its usage.
func (m *Meter) Ended() bool { return m.ended && m.final }

// Complete reports, at the end of an answer, whether the answer itself shows that it has
// come to its end: a stream that does not say so may have been cut.
func (m *Meter) Complete() bool {
	switch m.form {
	case events:
		return m.ended
	case texts:
		return m.ended || m.scan.depth == 0 && m.scan.places[1] == aList
	}
	return true
}

// lastEvents are the events that end a stream and hold its usage.
var lastEvents = set("response.completed", "response.incomplete", "response.failed", "response.cancelled", "message-end", "stream-end")

// form is how an answer is written, which its first bytes show.
type form uint8

const (
	notKnown form = iota
	oneText       // one JSON text
	texts         // JSON texts, one after the other
	events        // server-sent events
	noForm        // a form that is not read
)

// answerForm returns the form that b begins, and b without what may precede it.
func answerForm(b []byte) (form, []byte) {
	// DeepSeek sends empty lines while it works, and some vendors send a byte order
	// mark.
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
				// Nothing that is readable should follow. If something does, the answer is
				// a stream that was not asked for, and its end has the last report.
				m.form, m.stream = notKnown, true
				m.Write(b)
				return
			}
		default:
			return
		}
	}
}

// Close is called at the end of the answer. A report in a single text that lacks its
// end is kept; otherwise the missing part may have reported more.
func (m *Meter) Close() {
	switch {
	case m.scan.depth == 0:
	case m.form == oneText && m.scan.places[1] == atTop:
		m.commit()
	default:
		m.invalidate()
	}
}

// report takes a usage object, Cohere's meta, or MiniMax's base_resp; good says that it
// was short enough to be kept.
func (m *Meter) report(at place, k answerKey, value []byte, good bool) {
	o, err := parseObject(value)
	if !good || err != nil {
		m.invalidate()
		return
	}
	if k == keyBase {
		m.readBase(o)
		return
	}
	u, err := usageOf(o, m.Several)
	if m.Several && u.Input < 0 && max(u.CachedInput, u.CacheWrite) > 0 && at != inChoice {
		m.unsure = true
	}
	if err != nil {
		m.take(at, u)
		m.invalidate()
		return
	}
	if k == keyMeta && !u.Known() || at == inChoice && m.Several {
		m.doubted = m.doubted || !u.nothing()
		return
	}
	m.take(at, u)
	switch at {
	case inMessage:
	case inResponse:
		m.pending.response = true
	default:
		m.pending.whole = true
	}
	m.pending.final = m.pending.final || u.Output >= 0
	if bytes.Contains(value, []byte("_tier")) || bytes.Contains(value, []byte("eTier")) || bytes.Contains(value, []byte("_geo")) {
		for name, value := range o.members {
			if value[0] == '"' && len(value) <= maxModelName {
				m.word(at, answerKeyOf(name), value[1:len(value)-1])
			}
		}
	}
}

// take merges a report into the usage.
func (m *Meter) take(at place, u Usage) {
	m.usage.merge(u)
	if at == inMessage && u.Output < 1 {
		m.guessed = true
		return
	}
	m.stated = max(m.stated, u.Input)
}

// ollamaCount takes one of Ollama's counts, which are members of the answer itself.
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

// word takes a string member of an answer, or of its usage, as written between its
// quotes.
func (m *Meter) word(at place, k answerKey, raw []byte) {
	if k == keyError { // some vendors write an empty error if there is none
		m.pending.failed = m.pending.failed || len(raw) > 0
	}
	s := string(raw)
	if bytes.IndexByte(raw, '\\') >= 0 {
		if s = view(append(append([]byte{'"'}, raw...), '"')); s == "" {
			return // it is malformed
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
	case keyError, keyMessage, keyCode:
		m.readError(s)
	case keyFinish:
		m.pending.failed = m.pending.failed || s == "error" || s == "ERROR"
	}
}

// commit applies the report of a JSON text that has ended.
func (m *Meter) commit() {
	e := m.pending
	m.pending = textReport{}
	m.embeds, m.failed = m.embeds || e.embeds, m.failed || e.failed
	whole := e.whole || e.response && (e.last || !m.stream && m.form == oneText)
	if whole && m.Embeds && m.embeds && m.usage.Output < 0 {
		m.usage.Output, e.final = 0, true
	}
	m.final = m.final || whole && e.final
	m.ended = m.ended || e.last || e.ends
}

// invalidate records that a part of the answer could not be read. The usage reported
// so far is not that of the whole answer, unless it is reported again.
func (m *Meter) invalidate() {
	m.pending, m.final, m.doubted = textReport{}, false, true
}
