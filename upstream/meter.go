package upstream

import (
	"bytes"
	"strings"
)

// Meter reads an answer's usage while the answer passes. It is given the bytes
// as they come, keeps at most a part of them, and never holds them up.
type Meter struct {
	usage  Usage
	final  bool   // what was reported is about the whole answer
	stream bool   // server-sent events or JSON lines, not one JSON text
	plain  bool   // usage is called that, and nothing else
	model  string // that answered, as it says
	tier   string // that the request was served in, as it says
	geo    string // the region that it was served from, as it says
	ended  bool   // the stream said that it is over
	event  string // the type of the event that is being read
	embeds bool   // it holds embeddings of Ollama's own API
	tap    tap
	line   []byte
	long   bool // the line is longer than is kept
	broken bool // the answer is not what it said it was
}

// maxMeterLine bounds one line of a stream that is looked at, and what is kept
// of one value of a JSON text.
const maxMeterLine = 1 << 20

// NewMeter returns a Meter for an answer: stream says that its lines are
// events or JSON texts of their own.
func NewMeter(stream bool) *Meter { return &Meter{usage: unreported, stream: stream} }

// Meter returns a Meter for an answer of such an upstream.
func (p *Preset) Meter(stream bool) *Meter {
	m := NewMeter(stream)
	if p.Name == "ollama" {
		m.stream = true // its whole answers are one line, with the counts beside the rest
	}
	m.plain = p.Dialect != Cohere && p.Dialect != Unified && p.Name != "ollama"
	return m
}

// Usage is what was reported so far.
func (m *Meter) Usage() Usage { return m.usage }

// Final reports whether what was reported is about the whole answer, and not
// what Anthropic says at its beginning.
func (m *Meter) Final() bool { return m.final }

// Model is the model that answered, as far as the answer says; what stands
// beside its usage counts.
func (m *Meter) Model() string { return m.model }

// Tier is the service tier that the answer says the request was served in, or
// "".
func (m *Meter) Tier() string { return m.tier }

// Region is where the answer says the request was served, or "" where it does
// not, or was anywhere.
func (m *Meter) Region() string { return m.geo }

// Ended reports whether a stream said that it is over, after its usage.
func (m *Meter) Ended() bool { return m.ended && m.final }

// ends are what the last event of a stream closes with, by vendor: OpenAI and
// those that copy it, and Anthropic. In others it is the event with the usage.
var ends = [][]byte{[]byte("data: [DONE]"), []byte(`"message_stop"}`), []byte(`"message_stop" }`)}

// lastEvents are those that end a stream and hold its usage.
var lastEvents = set("response.completed", "response.incomplete", "response.failed", "message-end")

// noteEnd looks whether what came ends with a stream's last event.
func (m *Meter) noteEnd(b []byte) {
	n := len(b)
	for n > 0 && (b[n-1] == '\n' || b[n-1] == '\r') {
		n--
	}
	if n == 0 || n == len(b) || b[n-1] != ']' && b[n-1] != '}' {
		return
	}
	for _, end := range ends {
		m.ended = m.ended || bytes.HasSuffix(b[:n], end)
	}
}

// Write takes more of the answer. It keeps no reference to b.
func (m *Meter) Write(b []byte) {
	if m.broken {
		return
	}
	if !m.stream {
		m.tap.write(b, m)
		return
	}
	m.noteEnd(b)
	if len(m.line) > 0 || m.long {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			m.keep(b)
			return
		}
		m.keep(b[:i])
		m.endLine()
		b = b[i+1:]
	}
	whole := b[:bytes.LastIndexByte(b, '\n')+1]
	m.keep(b[len(whole):])
	// Of the lines that are whole only those are looked at that may report
	// usage, and most of what comes has none.
	for len(whole) > 0 {
		at := m.reportAt(whole)
		if at < 0 {
			return
		}
		begin := bytes.LastIndexByte(whole[:at], '\n') + 1
		end := at + bytes.IndexByte(whole[at:], '\n')
		if end-begin <= maxMeterLine {
			m.readLine(whole[begin:end])
		}
		whole = whole[end+1:]
	}
}

// Close is called at the end of the answer.
func (m *Meter) Close() {
	if m.stream && !m.broken {
		m.endLine()
	}
}

func (m *Meter) keep(b []byte) {
	if m.long || len(m.line)+len(b) > maxMeterLine {
		m.long, m.line = true, m.line[:0]
		return
	}
	m.line = append(m.line, b...)
}

// endLine looks at the line that is kept.
func (m *Meter) endLine() {
	if m.reportAt(m.line) >= 0 {
		m.readLine(m.line)
	}
	m.line, m.long = m.line[:0], false
}

// readLine looks at a whole line.
func (m *Meter) readLine(line []byte) {
	data := bytes.TrimSpace(bytes.TrimPrefix(line, []byte("data:")))
	if len(data) == 0 || data[0] != '{' || m.broken {
		return
	}
	o, err := parseObject(data)
	if err != nil {
		return
	}
	m.event = ""
	if from, to, ok := memberOf(o, "type"); ok && o[from] == '"' && to-from <= maxModelName {
		m.event, _ = text(o[from:to]) // one that is not well formed is none known
	}
	m.read(o, 0)
}

// reportAt is where in some lines usage may first be reported, or -1.
func (m *Meter) reportAt(b []byte) int {
	at := usageAt(b)
	if m.plain {
		return at
	}
	for _, name := range []string{"billed_units", "eval_count"} {
		if i := bytes.Index(b, []byte(name)); i >= 0 && (at < 0 || i < at) {
			at = i
		}
	}
	return at
}

// usageAt is where in b a member may stand whose name ends in usage, or is
// usageMetadata, and whose value is an object; -1: nowhere. OpenAI says
// "usage":null in every event but one.
func usageAt(b []byte) int {
	from := 0
	for {
		i := bytes.Index(b[from:], []byte("usage"))
		if i < 0 {
			return -1
		}
		at := from + i
		from = at + len("usage")
		rest := bytes.TrimPrefix(b[from:], []byte("Metadata"))
		if len(rest) == 0 {
			return -1
		}
		if value := rest[1+spaces(rest[1:]):]; rest[0] == '"' && (len(value) == 0 || value[0] == '{') {
			return at
		}
	}
}

// holders are the members in which usage is found, by vendor: usage;
// message.usage (Anthropic); response.usage (OpenAI's Responses); usageMetadata
// (Gemini); x_groq.usage; meta.billed_units and delta.usage (Cohere);
// interaction.usage (Gemini). What a client sent comes back in metadata, so
// nothing is looked for in there.
var holders = []string{"usage", "usageMetadata", "message", "response", "x_groq", "meta", "delta", "interaction"}

// read finds usage in an event or in an answer.
func (m *Meter) read(o rawObject, depth int) {
	err := o.members(func(name string, value []byte) error {
		if value[0] == '"' {
			m.word(name, value)
			return nil
		}
		if value[0] != '{' {
			return m.count(o, name, value)
		}
		if depth == 0 && name == "message" {
			before := m.final
			err := m.member(name, value, depth)
			m.final = before
			return err
		}
		return m.member(name, value, depth)
	})
	if err != nil {
		m.broken = true
	}
}

// count takes Ollama's counts, which stand in the answer itself. Embeddings have
// no output.
func (m *Meter) count(o rawObject, name string, value []byte) error {
	m.embeds = m.embeds || name == "embeddings" && value[0] == '['
	if name != "eval_count" && name != "prompt_eval_count" {
		return nil
	}
	u, err := usageOf(o)
	if m.embeds && u.Output < 0 {
		u.Output = 0
	}
	m.usage.merge(u)
	m.final = m.final || u.Output >= 0
	m.ended = m.final
	return err
}

// word takes a member of an answer, or of its usage, that is text.
func (m *Meter) word(name string, value []byte) {
	if len(value) > maxModelName {
		return
	}
	switch name {
	case "model", "modelVersion":
		if s, err := text(value); err == nil {
			m.model = s
		}
	case "inference_geo":
		if s, err := text(value); err == nil && s != "global" && s != "not_available" {
			m.geo = s
		}
	case "service_tier", "serviceTier":
		if s, err := text(value); err == nil {
			m.tier = strings.ToLower(s)
		}
	}
}

func (m *Meter) member(name string, value []byte, depth int) error {
	switch name {
	case "usage", "usageMetadata":
		u, err := usageOf(rawObject(value))
		if err == nil && (bytes.Contains(value, []byte("_tier")) || bytes.Contains(value, []byte("eTier")) || bytes.Contains(value, []byte("_geo"))) {
			err = rawObject(value).members(func(name string, value []byte) error {
				if value[0] == '"' {
					m.word(name, value)
				}
				return nil
			})
		}
		m.usage.merge(u)
		m.final = m.final || u.Output >= 0
		return err
	case "meta":
		u, err := usageOf(rawObject(value))
		if u.Known() {
			m.usage.merge(u)
			m.final = true
		}
		return err
	case "message", "response", "x_groq", "delta", "interaction":
		if depth == 0 {
			before := m.final
			m.read(rawObject(value), 1)
			switch last := lastEvents[m.event]; {
			case last:
				m.ended = true
			case m.stream && name == "response":
				m.final = before // it goes on
			}
		}
	}
	return nil
}
