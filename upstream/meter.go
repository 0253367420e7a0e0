package upstream

import (
	"bytes"
)

// Meter reads an answer's usage while the answer passes. It is given the bytes
// as they come, keeps at most a part of them, and never holds them up.
type Meter struct {
	usage  Usage
	final  bool // what was reported is about the whole answer
	stream bool // server-sent events or JSON lines, not one JSON text
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

// Usage is what was reported so far.
func (m *Meter) Usage() Usage { return m.usage }

// Final reports whether what was reported is about the whole answer, and not
// what Anthropic says at its beginning.
func (m *Meter) Final() bool { return m.final }

// Write takes more of the answer. It keeps no reference to b.
func (m *Meter) Write(b []byte) {
	if m.broken {
		return
	}
	if !m.stream {
		m.tap.write(b, m)
		return
	}
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			m.keep(b)
			return
		}
		m.keep(b[:i])
		m.endLine()
		b = b[i+1:]
		// Most of what comes in one piece speaks of no usage at all.
		if last := bytes.LastIndexByte(b, '\n'); last >= 0 && !speaksOfUsage(b[:last]) {
			b = b[last+1:]
		}
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

// endLine looks at a whole line. Few of them speak of usage.
func (m *Meter) endLine() {
	line := m.line
	m.line, m.long = m.line[:0], false
	data := bytes.TrimSpace(bytes.TrimPrefix(line, []byte("data:")))
	if len(data) == 0 || data[0] != '{' || !speaksOfUsage(data) {
		return
	}
	o, err := parseObject(data)
	if err != nil {
		return
	}
	m.read(o, 0)
}

func speaksOfUsage(b []byte) bool {
	return bytes.Contains(b, []byte("sage")) || bytes.Contains(b, []byte("billed_units")) || bytes.Contains(b, []byte("eval_count"))
}

// holders are the members in which usage is found, by vendor: usage;
// message.usage (Anthropic); response.usage (OpenAI's Responses); usageMetadata
// (Gemini); x_groq.usage; meta.billed_units and delta.usage (Cohere);
// interaction.usage (Gemini); metadata.usage (Bedrock).
var holders = []string{"usage", "usageMetadata", "message", "response", "x_groq", "meta", "delta", "interaction", "metadata"}

// read finds usage in an event or in an answer.
func (m *Meter) read(o rawObject, depth int) {
	err := o.members(func(name string, value []byte) error {
		if value[0] != '{' {
			if name == "eval_count" || name == "prompt_eval_count" {
				u, err := usageOf(o) // Ollama's counts stand in the answer itself
				m.usage.merge(u)
				m.final = m.final || name == "eval_count"
				return err
			}
			return nil
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

func (m *Meter) member(name string, value []byte, depth int) error {
	switch name {
	case "usage", "usageMetadata":
		u, err := usageOf(rawObject(value))
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
	case "message", "response", "x_groq", "delta", "interaction", "metadata":
		if depth == 0 {
			m.read(rawObject(value), 1)
		}
	}
	return nil
}
