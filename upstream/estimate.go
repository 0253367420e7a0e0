package upstream

import (
	"bytes"
	"errors"
	"math"
	"strconv"
	"strings"
)

// ErrNotMeterable is wrapped by the errors about requests whose use cannot be bounded
// before they are sent, or measured afterwards.
var ErrNotMeterable = errors.New("what this request uses cannot be bounded")

// FieldError reports the one member of a request that keeps the request from being
// bounded.
type FieldError struct {
	Name string
	err  error
}

func (e FieldError) Error() string { return e.err.Error() }
func (e FieldError) Unwrap() error { return e.err }

// UnknownFieldError reports a member of a request whose cost is not known. It wraps
// ErrNotMeterable.
type UnknownFieldError struct{ Name string }

func (e UnknownFieldError) Error() string {
	return notMeterable("what the field %.64q costs is not known", e.Name).Error()
}

func (UnknownFieldError) Unwrap() error { return ErrNotMeterable }

// Estimate is the most that a request can use, as far as the request itself shows.
// Vendors' models count at most one token per byte of text: this was measured on
// OpenAI's vocabularies, and a tenth and 16 tokens are added for others.
type Estimate struct {
	Model  string
	Input  int64 // tokens of text and pictures
	Window bool  // part of the input is bounded only by the context window
	// Flex says that the request asks for the cheaper tier, Priority that it asks for
	// the dearer one, and Routed that it lets the provider choose who answers, at
	// whatever price.
	Flex, Priority, Routed bool
	// Pictures says that the request holds pictures, Media that it holds sound, films
	// or files, or something that may be one of those.
	Pictures, Media bool
	Stated          int64 // the most output tokens of one answer; -1: the request does not say
	Thinking        int64 // output tokens set aside for thinking; the bound of an answer must be higher
	Predicted       int64 // tokens of a prediction, billed as output where the answer does not contain them
	Answers         int64 // how many answers the request asks for
	Stream          bool
	// Cached says that parts of the input are written to a cache, CachedHour that
	// they are kept for an hour or longer.
	Cached, CachedHour bool
	// Rounds is how many times the model may fill its window: more than once where the
	// provider searches for tools in between, and where each of several contents has
	// an embedding of its own. 0 means once.
	Rounds int64
	// Fee says what the vendor may charge for beside the tokens, and how to avoid it; ""
	// if there is nothing.
	Fee string
	// Violation is what the vendor charges instead of the tokens, in nano-dollars, if
	// it finds that the request violates its guidelines; 0 if it charges nothing.
	Violation int64
	// Permille is the factor that may apply to prices, for a service tier or a
	// region. Asked is the factor that applies when the answer does not name a
	// region.
	Permille, Asked int64
	// Multiply is the part of both factors that the operator set.
	Multiply int64
	// Unwritten says that the stated bound is not in the field that the server reads,
	// so that it has to be written there.
	Unwritten bool

	object      rawObject       // the request
	fields      []field         // its members
	knownFields map[string]bool // the members whose effect is known
	turns       []byte          // its messages
	reader      content         // a walker set up for this request that has read nothing yet
	text        int64           // bytes of text, at most
	later       int64           // bytes of the tool definitions that the model reads only on request
	refs        int64           // how many of those the request refers to
	remote      bool            // part of the input is stored elsewhere and may change
	placed      bool            // the request names the region that is to serve it
	confined    bool            // that region costs more
	tiered      bool            // it names the service tier that is to serve it
	undecided   bool            // the account chooses that tier
	named       bool            // Rewrite names the standard one
	contents    int64           // how many contents get embeddings
	freeParser  bool            // the request says who reads its documents, and that costs nothing
	preset      *Preset         // what is known about the upstream

	stored    []stored // stored things that the request names (Responses API)
	sent      []sent   // items that the request holds under an id
	unsure    bool     // the stored things may have been replaced meanwhile
	thoughts  int64    // the most input tokens that the vendor may leave out
	shortened bool     // the vendor may leave out any part of the input

	// These fields say where the output is bounded.
	outer        string // the object that holds field; "": the request itself
	field        string // "" if there is none
	also         string // a second field that bounds the output as well
	exclusive    bool   // the server reads no field but these
	both         bool   // the bound is to be written to field and to also
	zero         bool   // 0 is a valid bound
	endless      bool   // a field says that the output is unbounded
	statedBeside int64  // the largest bound in a field that the endpoint does not know; 0: none

	// These fields say how long an answer can be where the request does not.
	shared  bool  // the server refuses a bound that does not fit in the window after the prompt
	context int64 // the context in tokens that the request asks Ollama for
	usual   int64 // the bound where neither request nor price table gives one

	askUsage   bool // the stream would report usage only if asked, and the request does not ask
	ownOptions bool // the request has stream_options of its own
}

const (
	// imageTokens is more than any model counts for one picture.
	imageTokens = 50_000
	// toolsTokens is more than vendors add to a request with tools.
	toolsTokens = 2_048
	// toolsetTokens is more than the definitions of a vendor's own family of tools
	// count: Anthropic's browser_toolset has 31 members.
	toolsetTokens = 16_384
	maxAnswers    = 128
	// searchRounds is one more than the number of times Anthropic's tools may run for
	// one answer
	// (platform.claude.com/docs/en/agents-and-tools/tool-use/server-tools).
	searchRounds = 11
)

// Embeds reports whether the request asks for embeddings.
func (e *Estimate) Embeds() bool { return e.field == "" }

// responses reports whether the request is one of OpenAI's Responses API.
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
	if strings.Contains(c.Features, geoHeader+":") {
		return notMeterable("what the header %s costs is not known; leave it out", geoHeader)
	}
	models, named, err := p.Models(c)
	if err != nil {
		return err
	}
	if !named || len(models) != 1 {
		return notMeterable("it must name exactly one model, and names %d", len(models))
	}
	e.Model, e.object, e.fields, e.zero = models[0], o, c.fields(), p.Dialect == Anthropic && speaksMessages(c.Path)
	ownServer := p.Keyless || p.Name == "ollama" // asks nobody
	if !ownServer && asksOthers.MatchString(e.Model) {
		return notMeterable("model %s may search, run tools or ask other models, which nothing bounds", e.Model)
	}
	if proModel.MatchString(e.Model) {
		return notMeterable("how often model %s reasons for one answer is not known", e.Model)
	}
	e.askUsage = true
	seen := fieldSet{few: make([]string, 0, 16)}
	found := content{allText: p.Dialect == Cohere, files: p.Name == "gemini" || p.Name == "openrouter", bare: e.outer == "options", embeds: e.Embeds(), layout: p.contentForm(), outline: c.outline,
		shape: e.shape(p, c.Path), preset: p}
	e.reader = found
	tools, list := false, e.listed()
	templated := e.field != ""
	for name, value := range c.members {
		if seen.add(name) {
			return bodyError("the field %.64q stands twice", name)
		}
		if value[0] == 'n' {
			continue
		}
		if kind, ok := continuedFrom[name]; ok && e.responses() {
			found.member(kind, value)
			continue
		}
		if !e.knownFields[name] && !p.allowed[name] && (name != extraBody || p.Name != "gemini") {
			return FieldError{name, UnknownFieldError{name}}
		}
		tools = tools || name == "tools" || name == "functions"
		templated = templated || name == "messages" // vLLM has embeddings of conversations
		if name == list {
			e.turns = value
		}
		found.length += int64(len(name)) + 6 // quotes, a colon and a comma
		if err := e.member(p, name, value, &found); err != nil {
			return FieldError{name, err}
		}
	}
	if found.err != nil {
		return found.err
	}
	if p.Name == "tgi" {
		n := picturesInText(c.Body, e.turns)
		found.images, found.remote = found.images+n, found.remote || n > 0
	}
	if p.Name == "xai" && found.documents {
		// https://docs.x.ai/docs/guides/files/chat-with-files
		return notMeterable("it holds a document, which xAI searches with a tool of its own (attachment_search), in rounds and for fees that nothing bounds; send its text")
	}
	if found.film && found.again != "" {
		return notMeterable("films that are processed as %.64q may be read more than once", found.again)
	}
	if e.Predicted > 0 && p.Name == "openai" && e.field == MaxCompletionTokens && e.also != "" && e.Stated < 0 {
		// max_completion_tokens is not supported with a prediction:
		// https://platform.openai.com/docs/guides/predicted-outputs
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
		// Definitions that nothing refers to are not read either.
		e.text, e.later = max(e.text-(found.defined-found.added), 0), found.definedBytes
	}
	if e.Window && e.contents > 1 {
		e.Rounds = e.contents
	}
	if p.Name == "openrouter" && found.documents && !e.freeParser {
		e.Fee = pageFee
	}
	if found.searches {
		// The model reads the findings of one round in the next, and each round is
		// billed (BetaUsage.iterations in @anthropic-ai/sdk 1.12.0).
		e.Window, e.Rounds = true, searchRounds
	}
	e.refs, e.reader.defined = found.references, found.defined
	e.stored, e.sent, e.thoughts = found.stored, found.sent, found.thoughts
	e.Input = found.tokens() + 16
	if templated {
		e.Input += p.ServerInput()
	}
	if tools {
		e.Input += toolsTokens
	}
	return nil
}

func (e *Estimate) member(p *Preset, name string, value []byte, found *content) error {
	word := word(value)
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
	case name == "chat_template_kwargs": // templates print lists of tools and documents that they find there
		found.addText(value, p.toolForm())
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
	case "chat_template_kwargs":
		return keepsTemplate(value)
	case extraBody:
		if !p.allowed[name] {
			return googleExtras(value)
		}
	case "context_management":
		return contextEdits(value)
	case "thinking":
		if value[0] == '{' {
			if budget := rawObject(value).get("budget_tokens"); budget != nil {
				e.Thinking, _ = strconv.ParseInt(string(budget), 10, 32) // the vendor refuses anything but a number
			}
		}
	case "prompt":
		if value[0] == '{' {
			return notMeterable("a stored prompt is not in the request")
		}
		if value[0] == '[' {
			return e.countPrompts(value)
		}
	case "max_tokens", "max_completion_tokens", "max_output_tokens":
		return e.stateBound(name, value)
	case "n", "best_of", "num_generations":
		return e.countAnswers(name, value) // multiplying by both n and best_of is more than needed, and safe
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
			for name, value := range rawObject(value).members {
				e.askUsage = e.askUsage && !(name == "include_usage" && value[0] == 't')
			}
		}
	case "provider":
		e.Routed = p.Name == "openrouter"
	case "tools":
		return p.tools(value, e.outer == "generationConfig", found)
	case "functions": // gateways take them for tools
		return p.tools(value, false, found)
	case "truncation":
		e.shortened = word != "disabled"
	case "requests", "input", "inputs", "texts", "content": // the last is llama.cpp's
		if e.field == "" && value[0] == '[' {
			for range rawList(value).elements {
				e.contents++
			}
		}
	case "background", "deferred":
		if value[0] != 'f' { // servers in Python take 1 and "yes" for true
			return notMeterable("it works on in the background")
		}
	case "enable_thinking":
		if value[0] != 'f' { // at Qwen's own API no bound applies to thinking
			return notMeterable("how long it may think is not known; leave enable_thinking out, or say it in chat_template_kwargs")
		}
	case "reasoning":
		return standardReasoning(value)
	case "plugins":
		return e.plugins(p, value)
	case "prompt_cache_options":
		return found.cacheLifetime(name, value)
	case "diagnostics":
		// Anthropic's diagnostics compare the cache's contents and report what is
		// missing.
		return allowOnly(name, value, map[string]string{"previous_message_id": ""})
	case "min_tokens":
		n, err := parseCount(name, value, math.MaxInt32)
		e.Thinking = max(e.Thinking, n-1) // servers refuse a bound below min_tokens
		return err
	case "modalities":
		if !bytes.Equal(bytes.Trim(value, jsonSpace), []byte(`["text"]`)) {
			return notMeterable("it asks for other output than text")
		}
	case "service_tier", "serviceTier":
		return e.readTier(p, name, word)
	case "speed":
		if word != "standard" {
			return notMeterable("the price of speed %.32q is not known", word)
		}
	case "inference_geo":
		if !placing[p.Name] && !p.Keyless {
			return notMeterable("what a region of the request's own choice costs is not known")
		}
		e.placed, e.confined = true, word != "global"
	}
	return nil
}
