package upstream

import (
	"bytes"
	"errors"
	"math"
	"strconv"
	"strings"
)

// ErrNotMeterable is what the errors about requests wrap whose use cannot be
// bounded before they are sent, or measured afterwards.
var ErrNotMeterable = errors.New("what this request uses cannot be bounded")

// FieldError is about one member of a request, without which it might be judged.
type FieldError struct {
	Name string
	err  error
}

func (e FieldError) Error() string { return e.err.Error() }
func (e FieldError) Unwrap() error { return e.err }

// UnknownFieldError is about a request with a member of which it is not known what
// it costs. It wraps ErrNotMeterable.
type UnknownFieldError struct{ Name string }

func (e UnknownFieldError) Error() string {
	return notMeterable("what the field %.64q costs is not known", e.Name).Error()
}

func (UnknownFieldError) Unwrap() error { return ErrNotMeterable }

// Estimate is the most that a request can use, as far as the request itself
// tells. Vendors' models count at most one token a byte of text: measured on
// OpenAI's vocabularies; a tenth and 16 are added for others.
type Estimate struct {
	Model  string
	Input  int64 // tokens of text and pictures
	Window bool  // some of the input is bounded by the context window alone
	// Flex says that the cheaper tier is asked for, Priority the dearer one, and
	// Routed that the request chooses who answers, at whatever price.
	Flex, Priority, Routed bool
	// Pictures says that it holds those, Media that it holds sound, films, files
	// or what may be such.
	Pictures, Media bool
	Stated          int64 // output tokens that one answer may have; -1: none stated
	Thinking        int64 // output tokens set aside for thinking: an answer must have more
	Predicted       int64 // tokens of a prediction, billed as output where an answer has none of them
	Answers         int64 // answers asked for
	Stream          bool
	// Cached says that parts of the input are written to a cache, CachedHour
	// that they are kept for an hour.
	Cached, CachedHour bool
	// Rounds is how often the model may read its input for one answer: more than
	// once where the provider looks for tools in between. It is 0 for once.
	Rounds int64
	// Permille is what prices may be multiplied with, for a service tier or a
	// region, and Asked what they are multiplied with when the answer does not
	// say that it came from a region.
	Permille, Asked int64
	// Multiply is the part of both that the operator set.
	Multiply int64
	// Unwritten says that what is stated does not stand where the server reads it,
	// so that it has to be written there.
	Unwritten bool

	object      rawObject       // the request
	fields      []field         // its members
	knownFields map[string]bool // members whose effect is known
	turns       []byte          // its messages
	reader      content         // that has read nothing yet
	text        int64           // bytes of text, at most
	later       int64           // bytes of the definitions that are read when they are asked for
	refs        int64           // how many are asked for
	remote      bool            // some of the input stands elsewhere, and may change
	placed      bool            // it says in which region it is to be served

	stored    []stored // what it names of what is stored at the vendor, at the Responses API
	sent      []sent   // what it holds, and names
	unsure    bool     // what it names may be something else by now than it was
	thoughts  int64    // tokens of its input that a vendor may leave out, at most
	shortened bool     // the vendor may leave out anything

	// Where the output is bounded.
	outer        string // the object that field stands in; "": the request
	field        string // "" where there is none
	also         string // another field that bounds it as well
	exclusive    bool   // the server reads no other field
	both         bool   // the bound is to stand in field and in also
	zero         bool   // a bound of 0 is one
	endless      bool   // a field says that nothing bounds it
	statedBeside int64  // the largest bound in a field that the endpoint does not know; 0: none

	// How long an answer can be where the request does not say so.
	shared  bool  // the server refuses a bound that does not fit into the window behind the prompt
	context int64 // tokens that Ollama is to keep, where the request says so
	usual   int64 // where nobody says how long an answer can be

	askUsage   bool // a stream reports usage only when asked, and was not
	ownOptions bool // it has stream_options of its own
}

const (
	// imageTokens is more than any model counts for one picture.
	imageTokens = 50_000
	// toolsTokens is more than what vendors add to a request with tools.
	toolsTokens = 2_048
	// toolsetTokens is more than the definitions of a vendor's own family of tools:
	// Anthropic's browser_toolset has 31 members.
	toolsetTokens = 16_384
	maxAnswers    = 128
	// searchRounds is one more than how often Anthropic's tools may run for one
	// answer (platform.claude.com/docs/en/agents-and-tools/tool-use/server-tools).
	searchRounds = 11
)

// responses reports whether it is of OpenAI's Responses API.
func (e *Estimate) responses() bool { return e.field == "max_output_tokens" && e.outer == "" }

func (e *Estimate) read(p *Preset, c *Call) error {
	kind, _, err := c.written()
	if err != nil {
		return err
	}
	if !isJSON(kind) {
		return notMeterable("a body of type %.64q is not read; send application/json", kind)
	}
	o, err := c.object()
	if err != nil {
		return err
	}
	models, named, err := p.Models(c)
	if err != nil {
		return err
	}
	if !named || len(models) != 1 {
		return notMeterable("it must name exactly one model, and names %d", len(models))
	}
	e.Model, e.object, e.fields, e.zero = models[0], o, c.fields(), p.Dialect == Anthropic
	if strings.Contains(e.Model, ":online") || strings.Contains(e.Model, "@preset") || strings.Contains(e.Model, "search") || strings.Contains(e.Model, "deep-research") {
		return notMeterable("model %s may search, for a fee of its own", e.Model)
	}
	e.askUsage = true
	seen := fieldSet{few: make([]string, 0, 16)}
	found := content{allText: p.Dialect == Cohere, files: p.Name == "gemini" || p.Name == "openrouter", bare: e.outer == "options", layout: p.contentForm(), outline: c.outline,
		shape: e.shape(p, c.Path), preset: p}
	e.reader = found
	tools, list := false, e.listed()
	err = c.members(func(name string, value []byte) error {
		if seen.add(name) {
			return bodyError("the field %.64q stands twice", name)
		}
		if value[0] == 'n' {
			return nil
		}
		if kind, ok := continuedFrom[name]; ok && e.responses() {
			found.member(kind, value)
			return nil
		}
		if !e.knownFields[name] && !p.allowed[name] {
			return FieldError{name, UnknownFieldError{name}}
		}
		tools = tools || name == "tools" || name == "functions"
		if name == list {
			e.turns = value
		}
		found.length += int64(len(name)) + 6 // quotes, a colon and a comma
		if err := e.member(p, name, value, &found); err != nil {
			return FieldError{name, err}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if found.err != nil {
		return found.err
	}
	if e.Predicted > 0 && p.Name == "openai" && e.field == MaxCompletionTokens && e.also != "" && e.Stated < 0 {
		// Not with a prediction: https://platform.openai.com/docs/guides/predicted-outputs
		e.field, e.also = e.also, e.field
	}
	switch {
	case e.endless:
		e.Stated = -1
	case e.Stated >= 0 && e.field != "":
		e.Stated = max(e.Stated, e.statedBeside)
	case e.exclusive && e.statedBeside > 0:
		e.Stated, e.Unwritten = e.statedBeside, true
	}
	e.Unwritten = e.Unwritten || e.both && e.Stated >= 0
	e.Window, e.Cached, e.CachedHour = found.window, found.cached, found.hour
	e.Pictures, e.Media = found.images > 0, found.window
	e.remote, e.text = found.remote, found.length-found.encoded
	if found.deferred {
		// Nor are those read that nobody asks for.
		e.text, e.later = max(e.text-(found.defined-found.added), 0), found.definedBytes
	}
	if found.searches {
		// What was found in one round is read in the next, and each is billed
		// (BetaUsage.iterations in @anthropic-ai/sdk 1.12.0).
		e.Window, e.Rounds = true, searchRounds
	}
	e.refs, e.reader.defined = found.references, found.defined
	e.stored, e.sent, e.thoughts = found.stored, found.sent, found.thoughts
	e.Input = found.tokens() + 16
	if e.field != "" {
		e.Input += p.ServerInput()
	}
	if tools {
		e.Input += toolsTokens
	}
	return nil
}

// member reads one field of a request.
func (e *Estimate) member(p *Preset, name string, value []byte, found *content) error {
	word := ""
	if value[0] == '"' {
		word, _ = view(value) // one that is not well formed is no word known
	}
	switch {
	case walked[name]:
		items := e.responses() && (name == "input" || name == "instructions")
		switch {
		case items && value[0] == '[':
			found.input(value)
		case items && value[0] == '{':
			found.item(value, 0)
		default:
			found.walk(value, "", top(name), 0)
		}
	case name == "images" || name == "cache_control":
		found.cached = found.cached || name == "cache_control"
		found.walk(value, name, unknown, 0)
	case name == "tools" || name == "functions":
		before := found.length
		found.addText(value, p.toolForm())
		found.defined += found.length - before
		found.definedBytes += int64(len(value))
	case value[0] == '{':
		found.addText(value, asJSON)
	default:
		found.addText(value, found.layout)
	}
	switch name {
	case "options":
		if e.outer == name {
			return e.options(value)
		}
	case "thread":
		return notMeterable("a thread is kept by the provider, and not in the request; send all messages")
	case "prediction":
		return e.predict(value, found)
	case "context_management":
		return contextEdits(value)
	case "thinking":
		if value[0] == '{' {
			if from, to, ok := memberOf(value, "budget_tokens"); ok {
				e.Thinking, _ = strconv.ParseInt(string(value[from:to]), 10, 32) // the vendor refuses any other
			}
		}
	case "prompt":
		if value[0] == '{' {
			return notMeterable("a stored prompt is not in the request")
		}
		if value[0] == '[' {
			n, err := prompts(value)
			if err != nil {
				return err
			}
			return e.multiplyAnswers(n)
		}
	case "max_tokens", "max_completion_tokens", "max_output_tokens":
		return e.stateBound(name, value)
	case "n", "best_of", "num_generations":
		n, err := parseCount(name, value, maxAnswers)
		if err != nil {
			return err
		}
		return e.multiplyAnswers(n) // both of n and best_of: more than needed, and safe
	case "generationConfig", "generation_config":
		if e.outer != "generationConfig" {
			return notMeterable("%s is not known on this path", name)
		}
		return e.generation(value)
	case "stream":
		e.Stream = value[0] == 't'
	case "stream_options":
		if value[0] == '{' {
			e.ownOptions = true
			return rawObject(value).members(func(name string, value []byte) error {
				if name == "include_usage" && value[0] == 't' {
					e.askUsage = false
				}
				return nil
			})
		}
	case "provider":
		e.Routed = p.Name == "openrouter"
	case "tools":
		return p.tools(value, e.outer == "generationConfig", found)
	case "truncation":
		e.shortened = word != "disabled"
	case "background", "deferred":
		if value[0] == 't' {
			return notMeterable("it works on in the background")
		}
	case "enable_thinking":
		if value[0] == 't' { // at Qwen's own API no bound holds for thoughts
			return notMeterable("how long it may think is not known; leave enable_thinking out, or say it in chat_template_kwargs")
		}
	case "plugins":
		if value[0] != '[' || value[1+spaces(value[1:])] != ']' {
			return notMeterable("what a plugin costs is not known")
		}
	case "prompt_cache_options":
		// What it writes is held as all that may be written; for longer, nobody
		// knows at which price.
		return allowOnly(name, value, map[string]string{"mode": "", "ttl": "30m"})
	case "diagnostics":
		// Anthropic's compares the cache's contents, and says what is missing.
		return allowOnly(name, value, map[string]string{"previous_message_id": ""})
	case "min_tokens":
		n, err := parseCount(name, value, math.MaxInt32)
		e.Thinking = max(e.Thinking, n-1) // servers refuse a bound below it
		return err
	case "modalities":
		if !bytes.Equal(bytes.Trim(value, jsonSpace), []byte(`["text"]`)) {
			return notMeterable("it asks for other output than text")
		}
	case "service_tier", "serviceTier":
		switch strings.TrimPrefix(strings.ToLower(word), "service_tier_") {
		case "auto", "default", "standard", "standard_only", "on_demand", "unspecified":
		case "flex":
			e.Flex = true
		case "priority", "fast":
			e.Priority = true
			e.Permille = e.Permille * e.PriorityPermille() / 1000
		default:
			return notMeterable("the price of service tier %.32q is not known", word)
		}
	case "speed":
		if word != "standard" {
			return notMeterable("the price of speed %.32q is not known", word)
		}
	case "inference_geo":
		e.placed = true
		if word != "global" {
			e.Permille = e.Permille * 11 / 10
		}
	}
	return nil
}
