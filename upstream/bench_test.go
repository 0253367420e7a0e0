package upstream

import (
	"bytes"
	"io"
	"strconv"
	"strings"
	"testing"
)

// What a limited request costs beside its way through the proxy.

const (
	plainRequest = `{"model":"m","messages":[{"role":"user","content":"hi"}],"max_completion_tokens":100}`
	plainAnswer  = `{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"hello"}}],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}`
	plainEvent   = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":" some words of the answer"},"finish_reason":null}]}` + "\n\n"
)

func BenchmarkEstimateOfARequest(b *testing.B) {
	p, _ := Lookup("openai")
	b.ReportAllocs()
	for b.Loop() {
		c := &Call{Method: "POST", Path: "/v1/chat/completions", ContentType: "application/json", Body: []byte(plainRequest)}
		if _, err := p.Estimate(c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMeterOfAnAnswer(b *testing.B) {
	answer := []byte(plainAnswer)
	b.ReportAllocs()
	for b.Loop() {
		m := NewMeter(false)
		m.Write(answer)
		m.Close()
		if !m.Final() {
			b.Fatal("not measured")
		}
	}
}

func BenchmarkMeterOfAnEvent(b *testing.B) {
	events := bytes.Repeat([]byte(plainEvent), 20)
	b.ReportAllocs()
	m := NewMeter(true)
	for i := 0; b.Loop(); i += 20 {
		m.Write(events)
	}
}

// cycle reads the same pieces over and over.
type cycle struct {
	pieces [][]byte
	left   int
}

func (c *cycle) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	c.left--
	return copy(p, c.pieces[c.left%len(c.pieces)]), nil
}

func BenchmarkHidingInAStream(b *testing.B) {
	all := bytes.Repeat([]byte(plainEvent), 24)
	src := &cycle{left: 1 << 62}
	for len(all) > 0 {
		n := min(len(all), 1000)
		src.pieces = append([][]byte{all[:n]}, src.pieces...)
		all = all[n:]
	}
	src.left -= src.left % len(src.pieces)
	h := NewMeter(true).Hide(io.NopCloser(src))
	buf := make([]byte, 32<<10)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMeterOfALongAnswer measures an answer of 2 kB.
func BenchmarkMeterOfALongAnswer(b *testing.B) {
	answer := []byte(strings.Replace(plainAnswer, "hello", strings.Repeat("Some words, \\\"quoted\\\", of an answer.\\n", 50), 1))
	answer = bytes.Replace(answer, []byte(`"completion_tokens":2,`), []byte(`"completion_tokens":500,`), 1)
	b.ReportAllocs()
	for b.Loop() {
		m := NewMeter(false)
		m.Write(answer)
		m.Close()
		if !m.Usage().Known() {
			b.Fatal("not measured")
		}
	}
}

// BenchmarkMeterOfAStream measures a stream of 300 separate events.
func BenchmarkMeterOfAStream(b *testing.B) {
	event := []byte(plainEvent)
	last := []byte("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":1200}}\n\ndata: [DONE]\n\n")
	b.ReportAllocs()
	for b.Loop() {
		m := NewMeter(true)
		for range 300 {
			m.Write(event)
		}
		m.Write(last)
		m.Close()
		if !m.Usage().Known() {
			b.Fatal("not measured")
		}
	}
}

// chat is a request of about so many bytes, as bench sends them: text with line
// ends, quotation marks and letters beyond ASCII.
func chat(size int) []byte {
	const message = `{"role":"user","content":"What does this line do?\n\n\tif err := s.load(\"größe\", 16); err != nil {\n\t\treturn err\n\t}\n\nIt stands in a loop – that ends when its time is up."}`
	return []byte(`{"model":"m","max_completion_tokens":100,"messages":[` + strings.Repeat(message+",", size/len(message)) + message + "]}")
}

// BenchmarkEstimateOfAContinuation measures everything that is done with a request
// that continues a remembered one.
func BenchmarkEstimateOfAContinuation(b *testing.B) {
	for _, size := range []int{100, 2_000, 100_000} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			m := newRemembering(b)
			body := chat(size)
			r, _ := m.ask("k", "openai", "/v1/chat/completions", string(body))
			m.Learn(r, int64(size)/4+20, "m", true)
			p := preset(b, "openai")
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				c := &Call{Method: "POST", Path: "/v1/chat/completions", ContentType: "application/json", Body: body}
				e, err := p.Estimate(c)
				if err != nil {
					b.Fatal(err)
				}
				if r := m.Recall("k", "u", p, c, e); r.Input < 0 {
					b.Fatal("not known")
				}
			}
		})
	}
}

// BenchmarkRewrite requests a stream's usage, and bounds its output.
func BenchmarkRewrite(b *testing.B) {
	body := chat(100_000)
	body[len(body)-1] = ','
	body = append(body, `"stream":true}`...)
	p := preset(b, "openai")
	c := &Call{Method: "POST", Path: "/v1/chat/completions", ContentType: "application/json", Body: body}
	e, err := p.Estimate(c)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		again := *e
		if len(again.Rewrite(50)) < 2 {
			b.Fatal("it is as it was")
		}
	}
}
