package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"strconv"
	"strings"
	"sync"

	"github.com/tiktoken-go/tokenizer"
)

// prompt is a request as a vendor reads it: pieces in the order in which they
// are counted and cached.
type prompt struct {
	pieces []piece
	most   int64 // output tokens that it allows; 0: as many as the model has
	stream bool
	calls  int // tool calls in it
	script string
}

// piece is a tool, a part of the system's text, or a block of a message.
type piece struct {
	tokens int64
	prefix [32]byte // of all up to here, and the model
	marked bool     // with cache_control
}

func (p *prompt) tokens() (sum int64) {
	for _, part := range p.pieces {
		sum += part.tokens
	}
	return sum
}

// vocabulary counts tokens, and remembers what it has counted: agents send the
// same text with every request.
type vocabulary struct {
	codec tokenizer.Codec

	mu     sync.Mutex
	counts map[[32]byte]block
}

// block is what there is to know of one piece, wherever it stands.
type block struct {
	tokens int64
	call   bool // of a tool
	marked bool
}

func newVocabulary() (*vocabulary, error) {
	codec, err := tokenizer.Get(tokenizer.O200kBase)
	return &vocabulary{codec: codec, counts: map[[32]byte]block{}}, err
}

func (v *vocabulary) count(text string) int64 {
	n, err := v.codec.Count(text)
	if err != nil {
		panic(err) // no text is one that the vocabulary cannot write
	}
	return int64(n)
}

// framing is what a vendor adds to a piece for its role and its kind.
const framing = 3

// words are the fields of a piece, of either protocol, that a model reads.
type words struct {
	Type        string
	Role        string
	Text        string
	Thinking    string
	Signature   string
	Name        string
	Namespace   string
	Description string
	Refusal     string
	Arguments   string
	Encrypted   string          `json:"encrypted_content"`
	Input       json.RawMessage // an object, or a string
	Content     json.RawMessage // a string, or blocks
	Output      json.RawMessage // the same
	Schema      json.RawMessage `json:"input_schema"`
	Parameters  json.RawMessage
	Format      json.RawMessage
	Cache       json.RawMessage `json:"cache_control"`
}

// read counts one piece.
func (v *vocabulary) read(raw []byte) (block, error) {
	id := sha256.Sum256(raw)
	v.mu.Lock()
	defer v.mu.Unlock()
	if b, ok := v.counts[id]; ok {
		return b, nil
	}
	var b block
	var err error
	if raw[0] == '"' {
		b.tokens, err = v.content(raw)
	} else {
		var w words
		if err = json.Unmarshal(raw, &w); err == nil {
			b, err = v.words(&w)
		}
	}
	v.counts[id] = b
	return b, err
}

func (v *vocabulary) words(w *words) (block, error) {
	b := block{call: w.Type == "tool_use" || w.Type == "function_call", marked: len(w.Cache) > 0}
	b.tokens = framing
	for _, text := range []string{w.Text, w.Thinking, w.Name, w.Namespace, w.Description, w.Refusal, w.Arguments, string(w.Schema), string(w.Parameters), string(w.Format)} {
		b.tokens += v.count(text)
	}
	for _, thought := range []string{w.Signature, w.Encrypted} {
		b.tokens += thoughtTokens(thought)
	}
	if w.Type == "tool_use" {
		b.tokens += v.count(string(w.Input))
		return b, nil
	}
	for _, raw := range []json.RawMessage{w.Input, w.Content, w.Output} {
		n, err := v.content(raw)
		if err != nil {
			return b, err
		}
		b.tokens += n
	}
	return b, nil
}

// content counts what is a string or a list of blocks.
func (v *vocabulary) content(raw json.RawMessage) (int64, error) {
	if len(raw) == 0 || raw[0] == 'n' {
		return 0, nil
	}
	if raw[0] == '"' {
		var text string
		err := json.Unmarshal(raw, &text)
		return v.count(text), err
	}
	var parts []words
	if err := json.Unmarshal(raw, &parts); err != nil {
		return 0, err
	}
	var sum int64
	for i := range parts {
		b, err := v.words(&parts[i])
		if err != nil {
			return 0, err
		}
		sum += b.tokens
	}
	return sum, nil
}

// What was thought travels sealed: its length in tokens comes first, and four
// bytes for each of them, in base64, follow, as they do with the vendors.
func sealThought(n int) string {
	text := strconv.Itoa(n)
	return strings.Repeat("0", 6-len(text)) + text + strings.Repeat("q7Zk", (n*4+2)/3)
}

func thoughtTokens(sealed string) int64 {
	if len(sealed) < 6 {
		return 0
	}
	n, err := strconv.ParseInt(sealed[:6], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// request is what both protocols' requests say.
type request struct {
	Model        string
	MaxTokens    int64 `json:"max_tokens"`
	MaxOutput    int64 `json:"max_output_tokens"`
	Stream       bool
	Tools        []json.RawMessage
	System       json.RawMessage
	Instructions json.RawMessage
	Messages     []struct{ Content json.RawMessage }
	Input        []json.RawMessage
}

// scriptMark begins the line of a prompt that says what the model is to do.
const scriptMark = "share-script "

// parse reads a request of either protocol.
func (v *vocabulary) parse(body []byte) (*prompt, error) {
	var r request
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, err
	}
	p := &prompt{most: max(r.MaxTokens, r.MaxOutput), stream: r.Stream}
	if i := bytes.LastIndex(body, []byte(scriptMark)); i >= 0 {
		rest := body[i+len(scriptMark):]
		p.script = string(rest[:bytes.IndexAny(rest, `"\`)])
	}
	parts := r.Tools
	for _, content := range []json.RawMessage{r.System, r.Instructions} {
		more, err := blocks(content)
		if err != nil {
			return nil, err
		}
		parts = append(parts, more...)
	}
	for _, m := range r.Messages {
		more, err := blocks(m.Content)
		if err != nil {
			return nil, err
		}
		parts = append(parts, more...)
	}
	parts = append(parts, r.Input...)
	chain := sha256.Sum256([]byte(r.Model))
	for _, raw := range parts {
		b, err := v.read(raw)
		if err != nil {
			return nil, err
		}
		id := sha256.Sum256(unmarked(raw))
		chain = sha256.Sum256(append(chain[:], id[:]...))
		p.pieces = append(p.pieces, piece{b.tokens, chain, b.marked})
		if b.call {
			p.calls++
		}
	}
	return p, nil
}

// blocks are the parts of what is a string or a list of them.
func blocks(content json.RawMessage) ([]json.RawMessage, error) {
	if len(content) == 0 || content[0] == 'n' {
		return nil, nil
	}
	if content[0] == '"' {
		return []json.RawMessage{content}, nil
	}
	var parts []json.RawMessage
	err := json.Unmarshal(content, &parts)
	return parts, err
}

// mark is a cache mark as Claude Code writes it. It is no part of the text: a
// block is found again in the cache with it and without.
var mark = []byte(`,"cache_control":{"type":"ephemeral"}`)

func unmarked(raw []byte) []byte { return bytes.Replace(raw, mark, nil, 1) }
