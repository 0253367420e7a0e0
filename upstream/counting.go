package upstream

import (
	"bytes"
	"encoding/json"
	"io"
	"strconv"
	"strings"
)

// Counting is a request to a vendor's free endpoint that counts the input tokens of
// another request.
type Counting struct {
	Path  string // in the vendor's own form, unescaped
	Query string
	Body  io.Reader // parts of the other request's text
	Size  int64     // of Body, in bytes

	answer string // the member of the answer that holds the count
	least  int64  // a count below this is not believed
}

const (
	// countMargin and countExtra are added to a count: one part in countMargin of it,
	// and countExtra tokens. Anthropic calls its count an estimate, from which
	// requests differ by a small amount
	// (platform.claude.com/docs/en/build-with-claude/token-counting).
	countMargin = 20
	countExtra  = 64
	// maxBytesPerToken is more bytes than one token has in any text that people or
	// programs write: a long run of spaces has some 80, everything else fewer than
	// 20.
	maxBytesPerToken = 64
)

// These are the members of a request that the endpoints take: everything that a model
// is given to read, and everything that changes how it is given. The endpoints refuse
// the others, such as max_tokens and stream, or those cost no input.
var (
	// https://platform.claude.com/docs/en/api/messages/count_tokens
	anthropicCounted = set("model", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "output_format")
	// https://platform.openai.com/docs/api-reference/responses/input-tokens
	openAICounted = set("model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "reasoning", "text")
	// https://ai.google.dev/api/tokens, of generateContentRequest
	geminiCounted = set("contents", "systemInstruction", "system_instruction", "tools", "toolConfig", "tool_config", "generationConfig", "generation_config")
)

// Counting returns the request that counts the input of an estimated one. It is nil
// where the vendor has no endpoint for that, or where the input may change between
// counting and sending: the picture at an address can be another one a moment later.
func (p *Preset) Counting(c *Call, e *Estimate) *Counting {
	if e.object == nil || e.remote || e.Rounds > 1 || len(e.stored) > 0 { // the vendor may leave stored content out of its count
		return nil
	}
	q := &Counting{answer: "input_tokens", least: LeastInput(c, e)}
	var counted map[string]bool
	head, tail := "{", "}"
	switch {
	case p.Name == "anthropic" && c.Path == "/v1/messages":
		q.Path, q.Query, counted = c.Path+"/count_tokens", c.Query, anthropicCounted
	case p.Name == "openai" && c.Path == "/v1/responses" && !e.Window:
		q.Path, counted = c.Path+"/input_tokens", openAICounted
	case p.Name == "gemini" && namesModel(p, c.Path):
		path, verb, _ := strings.Cut(c.Path, ":")
		if verb != "generateContent" && verb != "streamGenerateContent" || !strings.Contains(path, "/models/") {
			return nil
		}
		model, err := json.Marshal("models/" + e.Model)
		if err != nil {
			return nil
		}
		q.Path, q.answer, counted = path+":countTokens", "totalTokens", geminiCounted
		head, tail = `{"generateContentRequest":{"model":`+string(model), "}}"
	default:
		return nil
	}
	parts := []io.Reader{strings.NewReader(head)}
	q.Size = int64(len(head) + len(tail))
	add := func(b []byte) {
		parts = append(parts, bytes.NewReader(b))
		q.Size += int64(len(b))
	}
	first := len(head) == 1
	for name, value := range e.object.members {
		if !counted[name] || value[0] == 'n' {
			continue
		}
		if !first {
			add([]byte(","))
		}
		first = false
		add([]byte(`"` + name + `":`)) // none of these names needs escaping
		add(value)
	}
	add([]byte(tail))
	q.Size -= int64(len(tail))
	q.Body = io.MultiReader(parts...)
	return q
}

// Bound reads the endpoint's answer, and returns the most tokens that the request can
// count: 0 where the count cannot be that of the request, and a negative number where
// there is no count.
func (q *Counting) Bound(answer []byte) int64 {
	o, err := parseObject(answer)
	if err != nil {
		return -1
	}
	n, err := strconv.ParseInt(string(o.get(q.answer)), 10, 64)
	switch {
	case err != nil, n < 1, n > maxCounted:
		return -1
	case n < q.least:
		return 0
	}
	return n + (n+countMargin-1)/countMargin + countExtra
}

// LeastInput returns fewer tokens than any model counts for the input of an estimated
// request. A lower count cannot be that request's.
func LeastInput(c *Call, e *Estimate) int64 {
	if e.Pictures || e.Media {
		return 1 // media has many bytes and few tokens
	}
	return max(1, (int64(len(c.Body))-e.later)/maxBytesPerToken)
}

// maxCounted is longer than any model's input, in tokens.
const maxCounted = 1 << 40
