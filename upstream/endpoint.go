package upstream

import (
	"math"
	"slices"
	"strings"

	"github.com/till-proxy/till/scope"
)

// knowsCompletionTokens are the presets whose chat completions are bounded by
// max_completion_tokens as well as by max_tokens.
var knowsCompletionTokens = []string{"openai", "groq", "openrouter", "xai", "gemini", "fireworks", "anthropic"}

// Estimate reads a request. It returns nil if the request uses nothing, an error that
// wraps ErrNotMeterable if its use cannot be bounded, and an error that wraps ErrBody
// if it cannot be judged safely.
func (p *Preset) Estimate(c *Call) (*Estimate, error) {
	if p.IsUnbilled(c.Method, c.Path) {
		return nil, nil
	}
	if c.Method == "GET" || c.Method == "HEAD" || c.Method == "OPTIONS" {
		if strings.Contains(c.Path+"/", "/models/") && !strings.Contains(c.Path, ":") {
			return nil, nil
		}
		return nil, notMeterable("%s %s is not known to cost nothing", c.Method, c.Path)
	}
	e := &Estimate{Stated: -1, Answers: 1, Permille: 1000, knownFields: knownFields, shared: !p.Unshared, usual: usualOutput}
	if p.Name == "ollama" {
		e.usual = ollamaContext
	}
	if c.Method != "POST" {
		return nil, notMeterable("method %s is not known", c.Method)
	}
	streamed, err := e.endpoint(p, c.Path)
	if err != nil {
		return nil, err
	}
	if p.Name == "gemini" {
		if err := plainQuery(c.Query); err != nil {
			return nil, err
		}
	}
	if p.Name == "perplexity" {
		return nil, notMeterable("its models search, for a fee of their own")
	}
	if err := e.read(p, c); err != nil {
		return nil, err
	}
	if e.outer == "options" && loadsOnly(e.object) {
		return nil, nil
	}
	e.preset, e.undecided = p, e.leavesTier(c.Path)
	e.applyFactors()
	if p.Name == "xai" && speaksResponses(c.Path) {
		e.Violation = scaled(violationFee, e.Multiply, 1000)
	}
	e.Stream = e.Stream || streamed
	e.askUsage = e.askUsage && e.Stream && p.AsksForUsage && strings.HasSuffix(c.Path, "completions")
	return e, nil
}

// endpoint sets how an answer of the endpoint is bounded, and returns whether it is
// always a stream.
func (e *Estimate) endpoint(p *Preset, path string) (streamed bool, err error) {
	switch {
	case p.Name == "ollama" && (path == "/api/chat" || path == "/api/generate"):
		e.outer, e.field, e.knownFields = "options", "num_predict", ollamaKnown
		e.Stream = true // the default of Ollama's API
	case p.Name == "ollama" && (path == "/api/embed" || path == "/api/embeddings"):
		e.Stated, e.knownFields = 0, ollamaKnown
	case strings.HasSuffix(path, "/chat/completions"), strings.HasSuffix(path, "/fim/completions"):
		e.field = "max_tokens"
		if slices.Contains(knowsCompletionTokens, p.Name) {
			e.also = "max_completion_tokens"
		}
		if p.Name == "openai" {
			e.field, e.also = "max_completion_tokens", "max_tokens" // its reasoning models refuse max_tokens
		}
		e.outputField(p.OutputField)
	case strings.HasSuffix(path, "/completions"):
		e.field = "max_tokens"
	case speaksResponses(path):
		e.field = "max_output_tokens"
	case speaksMessages(path):
		e.field = "max_tokens"
	case strings.HasSuffix(path, "/embeddings"), p.Dialect == Cohere && strings.HasSuffix(path, "/embed"):
		e.Stated = 0
	case p.Dialect == Cohere && strings.HasSuffix(path, "/chat"):
		e.field = "max_tokens"
	case p.Dialect == Gemini && strings.Contains(path, ":") && !namesModel(p, path):
		return false, notMeterable("%s does not say which model is to answer", path)
	case p.Dialect == Gemini && (strings.HasSuffix(path, ":embedContent") || strings.HasSuffix(path, ":batchEmbedContents")):
		e.Stated = 0
	case p.Dialect == Gemini && strings.HasSuffix(path, ":generateContent"):
		e.outer, e.field = "generationConfig", "maxOutputTokens"
	case p.Dialect == Gemini && strings.HasSuffix(path, ":streamGenerateContent"):
		e.outer, e.field, streamed = "generationConfig", "maxOutputTokens", true
	default:
		return false, notMeterable("the use of %s is not known", path)
	}
	return streamed, nil
}

// outputField sets the fields in which the server reads the output bound.
func (e *Estimate) outputField(name string) {
	switch name {
	case BothFields:
		e.field, e.also, e.both = MaxTokens, MaxCompletionTokens, true
	case MaxTokens, MaxCompletionTokens:
		e.field, e.also, e.exclusive = name, "", true
	}
}

func namesModel(p *Preset, path string) bool {
	_, ok := p.pathModel(path)
	return ok
}

// plainQuery allows the parameters of Google's APIs that do not change what an answer
// says about its usage. "fields" would leave parts of that out.
func plainQuery(raw string) error {
	if raw == "" || raw == "alt=sse" {
		return nil
	}
	for pair := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(pair, "=")
		switch name {
		case "", "key", "prettyPrint", "$prettyPrint", "quotaUser", "$.xgafv":
		case "alt", "$alt":
			if value != "sse" && value != "json" {
				return notMeterable("an answer in the form %.32q is not read", value)
			}
		default:
			return notMeterable("what the parameter %.64q does is not known", name)
		}
	}
	return nil
}

// ollamaKnown are the members of requests of Ollama's own API. Ollama bills nobody,
// so only tokens are counted. A "template" may repeat the prompt any number of times.
var ollamaKnown = set("model", "messages", "prompt", "suffix", "system", "context", "images", "input", "tools",
	"format", "options", "stream", "raw", "keep_alive", "think", "truncate", "dimensions", "logprobs", "top_logprobs")

// loadsOnly reports whether a request only makes Ollama load or unload a model: it
// has no prompt and no messages, and is answered at once.
func loadsOnly(o rawObject) bool {
	for name, value := range o.members {
		switch name {
		case "model", "stream", "keep_alive", "options", "think":
		case "prompt", "messages":
			if value[0] != 'n' && string(value) != `""` && !isEmpty(value) {
				return false
			}
		default:
			if value[0] != 'n' {
				return false
			}
		}
	}
	return true
}

// options reads Ollama's options, where 0 or less is no bound.
func (e *Estimate) options(value []byte) error {
	if value[0] != '{' {
		return bodyError("options must be an object")
	}
	var seen fieldSet
	for name, value := range rawObject(value).members {
		var err error
		switch {
		case seen.add(name):
			return bodyError("the field %.64q stands twice", name)
		case value[0] == 'n':
		case name == "num_ctx" && value[0] != '-':
			e.context, err = parseCount(name, value, math.MaxInt32)
		case !sameField(name, e.field) || value[0] == '-':
		case name != e.field:
			return bodyError("it has a field %.64q; write %s", name, e.field)
		default:
			err = e.stateBound(name, value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Meters reports whether token and dollar limits apply to what a request asks for, now
// or later, so that no operator can declare it free. Paths are compared without regard
// to case, parameters and a trailing slash, as servers may read them.
func (p *Preset) Meters(method, path string) bool {
	if p.Dialect == Unified || method == "GET" || method == "HEAD" || method == "OPTIONS" {
		return false
	}
	if _, asynchronous := p.Denied(method, path); asynchronous {
		return true
	}
	return p.asksModel(scope.WithoutParameters(path))
}

// asksModel reports whether a path is that of an endpoint with metered usage.
func (p *Preset) asksModel(path string) bool {
	path = strings.ToLower(strings.TrimSuffix(path, "/"))
	if p.Dialect == Gemini && slices.ContainsFunc(geminiVerbs, func(verb string) bool { return strings.HasSuffix(path, strings.ToLower(verb)) }) {
		return true
	}
	_, err := new(Estimate).endpoint(p, path)
	return err == nil
}

// MeteredBy returns a path with metered usage that a rule matches; empty if there is
// none.
func (p *Preset) MeteredBy(rule scope.PathRule) string {
	method := rule.Method
	if method == "*" {
		method = "POST"
	}
	if p.Meters(method, rule.Pattern) {
		return rule.Pattern
	}
	for _, prefix := range slices.Concat([]string{p.Prefix}, p.Versions, p.Roots) {
		for _, ending := range endings {
			if path := prefix + ending; p.Meters(method, path) && rule.Match(method, path, p.Version(path)) {
				return path
			}
		}
	}
	return ""
}

// geminiVerbs are the methods of Gemini's API that use a model.
var geminiVerbs = []string{":generateContent", ":streamGenerateContent", ":embedContent", ":batchEmbedContents"}

// endings are the endings of the paths with metered usage; see endpoint.
var endings = []string{
	"/chat/completions", "/fim/completions", "/completions", "/responses", "/messages", "/v1/messages", "/embeddings", "/openai/chat/completions", "/openai/embeddings",
	"/chat", "/generate", "/embed", "/models/a:generateContent", "/models/a:streamGenerateContent", "/models/a:embedContent", "/models/a:batchEmbedContents",
}
