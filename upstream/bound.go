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
	// Flex says that the cheaper tier is asked for, and Routed that the request
	// chooses who answers, at whatever price.
	Flex, Routed bool
	// Pictures says that it holds those, Media that it holds sound, films, files
	// or what may be such.
	Pictures, Media bool
	Stated          int64 // output tokens that one answer may have; -1: none stated
	Thinking        int64 // output tokens set aside for thinking: an answer must have more
	Answers         int64 // answers asked for
	Stream          bool
	// Cached says that parts of the input are written to a cache, CachedHour
	// that they are kept for an hour.
	Cached, CachedHour bool
	// Permille is what prices may be multiplied with, for a service tier or a
	// region, and Asked what they are multiplied with when the answer does not
	// say that it came from a region.
	Permille, Asked int64
	// Multiply is the part of both that the operator set.
	Multiply int64
	// Unwritten says that what is stated does not stand where the server reads it,
	// so that it has to be written there.
	Unwritten bool

	object     rawObject       // the request
	known      map[string]bool // members whose effect is known
	outer      string          // the object that field stands in; "": the request
	field      string          // where the output is bounded; "" where there is none
	also       string          // another field that bounds it as well
	endless    bool            // a field that bounds it says that nothing does
	context    int64           // tokens that Ollama is to keep, where the request says so
	window     bool            // the server refuses a bound that does not fit behind the prompt
	usual      int64           // output where nobody says how long an answer can be
	both       bool            // it is to stand in both
	only       bool            // field is the only one that the server reads
	placed     bool            // it says in which region
	remote     bool            // some of the input stands elsewhere, and may change
	zero       bool            // a bound of 0 is one
	beside     int64           // the largest bound that stands in another field; 0: none
	askUsage   bool            // a stream reports usage only when asked, and was not
	ownOptions bool            // it has stream_options of its own
	text       int64           // bytes of text, at most
	list       []byte          // its messages
	reader     content         // that has read nothing yet
}

const (
	// imageTokens is more than any model counts for one picture.
	imageTokens = 50_000
	// toolsTokens is more than what vendors add to a request with tools.
	toolsTokens = 2_048
	maxAnswers  = 128
)

// known are the members of requests whose effect on use is known. What a
// vendor adds tomorrow may cost anything.
var known = set(
	"model", "messages", "input", "contents", "system", "instructions", "systemInstruction", "system_instruction", "prompt", "suffix", "preamble", "message", "chat_history", "documents", "texts", "inputs", "content", "requests",
	"max_tokens", "max_completion_tokens", "max_output_tokens", "generationConfig", "generation_config", "n", "best_of", "num_generations",
	"stream", "stream_options", "stop", "stop_sequences", "temperature", "top_p", "top_k", "p", "k", "min_p", "top_a", "seed", "random_seed", "frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias", "logprobs", "top_logprobs", "echo",
	"tools", "tool_choice", "toolConfig", "tool_config", "parallel_tool_calls", "functions", "function_call", "strict_tools", "force_single_step", "tool_results",
	"response_format", "text", "output_format", "output_config", "reasoning", "reasoning_effort", "reasoning_format", "include_reasoning", "thinking", "verbosity", "effort", "modalities",
	"user", "metadata", "store", "safety_settings", "safetySettings", "safety_mode", "safe_prompt", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "truncation", "include", "betas", "context_management", "cache_control", "labels", "citation_options", "priority",
	"service_tier", "speed", "inference_geo", "max_tool_calls", "background", "dimensions", "encoding_format", "embedding_types", "input_type", "output_dimension", "output_dtype", "truncate", "taskType", "title", "outputDimensionality", "role", "parts",
	"models", "route", "provider", "transforms", "usage", "chat_template_kwargs", "ignore_eos", "return_token_ids", "anthropic_version",
	"client_metadata", "prompt_mode", "raw_prompting", "disable_tool_validation", "structured_outputs", "session_id", "user_id",
	"context_length_exceeded_behavior", "prompt_truncate_len", "perf_metrics_in_response", "typical_p", "mirostat_target", "mirostat_lr",
	// judged by their value
	"prompt_cache_options", "diagnostics", "plugins", "deferred", "serviceTier", "min_tokens", "trace",
	// Fireworks, Qwen and GLM
	"reasoning_history", "raw_output", "echo_last", "prompt_cache_isolation_key", "prompt_cache_max_len", "enable_thinking", "tool_stream", "do_sample",
	// vLLM and SGLang: how is sampled, and how the answer looks
	"thinking_token_budget", "skip_special_tokens", "spaces_between_special_tokens", "include_stop_str_in_output", "stop_token_ids", "bad_words", "allowed_token_ids", "length_penalty",
	"return_tokens_as_token_ids", "cache_salt", "request_id", "add_generation_prompt", "continue_final_message", "add_special_tokens", "truncate_prompt_tokens",
	"guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_decoding_backend", "guided_whitespace_pattern", "regex", "ebnf", "separate_reasoning", "stream_reasoning", "no_stop_trim", "rid",
	// llama.cpp
	"dynatemp_range", "dynatemp_exponent", "xtc_probability", "xtc_threshold", "repeat_penalty", "repeat_last_n", "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers",
	"mirostat", "mirostat_tau", "mirostat_eta", "top_n_sigma", "samplers", "min_keep", "n_keep", "n_probs", "post_sampling_probs", "grammar", "json_schema", "cache_prompt", "id_slot", "timings_per_token",
	"return_progress", "return_tokens", "parse_tool_calls", "reasoning_in_content", "thinking_forced_open", "t_max_predict_ms",
)

// walked are those that hold content, which may be more than its text.
var walked = set("messages", "input", "contents", "system", "instructions", "systemInstruction", "system_instruction", "documents", "inputs",
	"chat_history", "message", "content", "parts", "requests", "tool_results")

func set(names ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, name := range names {
		m[name] = true
	}
	return m
}

func (e *Estimate) read(p *Preset, c *Call) error {
	if c.Encoding != "" && !strings.EqualFold(c.Encoding, "identity") {
		return unsafe("it is encoded as %.32q; send it as it is", c.Encoding)
	}
	kind, params, err := c.mediaType()
	if c.ContentType != "" && (err != nil || kind != "application/json" && !strings.HasSuffix(kind, "+json")) {
		return notMeterable("a body of type %.64q is not read", c.ContentType)
	}
	if charset := params["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") {
		return unsafe("it says it is written in %.32q; write UTF-8", charset)
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
	e.Model, e.object, e.zero = models[0], o, p.Dialect == Anthropic
	if strings.Contains(e.Model, ":online") || strings.Contains(e.Model, "@preset") || strings.Contains(e.Model, "search") || strings.Contains(e.Model, "deep-research") {
		return notMeterable("model %s may search, for a fee of its own", e.Model)
	}
	e.askUsage = true
	seen := fieldSet{few: make([]string, 0, 16)}
	found := content{allText: p.Dialect == Cohere, files: p.Name == "gemini" || p.Name == "openrouter", bare: e.outer == "options", layout: p.contentForm()}
	e.reader = found
	tools, list := false, e.listed()
	err = o.members(func(name string, value []byte) error {
		if seen.add(name) {
			return unsafe("the field %.64q stands twice", name)
		}
		if value[0] == 'n' {
			return nil
		}
		if !e.known[name] && !p.allowed[name] {
			return UnknownFieldError{name}
		}
		tools = tools || name == "tools" || name == "functions"
		if name == list {
			e.list = value
		}
		found.length += int64(len(name)) + 6 // quotes, a colon and a comma
		return e.member(p, name, value, &found)
	})
	if err != nil {
		return err
	}
	if found.err != nil {
		return found.err
	}
	switch {
	case e.endless:
		e.Stated = -1
	case e.Stated >= 0 && e.field != "":
		e.Stated = max(e.Stated, e.beside)
	case e.only && e.beside > 0:
		e.Stated, e.Unwritten = e.beside, true
	}
	e.Unwritten = e.Unwritten || e.both && e.Stated >= 0
	e.Window, e.Cached, e.CachedHour = found.window, found.cached, found.hour
	e.Pictures, e.Media = found.images > 0, found.window
	e.remote, e.text = found.remote, found.length-found.encoded
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
		if name == "input" && e.field == "max_output_tokens" && value[0] == '[' {
			if err := found.items(value); err != nil {
				return err
			}
		}
		found.walk(value, "", 0)
	case name == "images" || name == "cache_control":
		found.cached = found.cached || name == "cache_control"
		found.walk(value, name, 0)
	case name == "tools" || name == "functions":
		found.count(value, p.toolForm())
	case value[0] == '{':
		found.count(value, asJSON)
	default:
		found.count(value, found.layout)
	}
	switch name {
	case "options":
		return e.options(value)
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
			return e.answers(n)
		}
	case "max_tokens", "max_completion_tokens", "max_output_tokens":
		return e.state(name, value)
	case "n", "best_of", "num_generations":
		n, err := count(name, value, maxAnswers)
		if err != nil {
			return err
		}
		return e.answers(n) // both of n and best_of: more than needed, and safe
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
		return only(name, value, map[string]string{"mode": "", "ttl": "30m"})
	case "diagnostics":
		// Anthropic's compares the cache's contents, and says what is missing.
		return only(name, value, map[string]string{"previous_message_id": ""})
	case "min_tokens":
		n, err := count(name, value, math.MaxInt32)
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
			e.Permille *= 2
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

// only allows an object with members of those names, of one value where one is
// given. Others may be priced otherwise.
func only(field string, value []byte, allowed map[string]string) error {
	if value[0] != '{' {
		return notMeterable("what %s costs so is not known", field)
	}
	var seen fieldSet
	return rawObject(value).members(func(name string, value []byte) error {
		want, ok := allowed[name]
		if ok && !seen.add(name) && (want == "" || value[0] == 'n' || string(value) == `"`+want+`"`) {
			return nil
		}
		return notMeterable("what %.64q in %s costs is not known", name, field)
	})
}

// state notes how long an answer may be. Of several fields the largest counts,
// and those that the endpoint does not know bound nothing: but what they allow
// beyond the others counts, in case that it does. Nor does 0, which servers
// take for none, or -1, which is none at llama.cpp and LM Studio; Anthropic's 0
// fills a cache.
func (e *Estimate) state(name string, value []byte) error {
	ours := e.field != "" && (name == e.field || name == e.also)
	if ours && !e.zero && string(value) == "-1" {
		e.endless = true
		value = []byte("0")
	}
	n, err := count(name, value, math.MaxInt32)
	if err != nil {
		return err
	}
	if ours {
		if n > 0 || e.zero {
			e.Stated = max(e.Stated, n)
		}
		if name != e.field && !e.both {
			e.field, e.also = e.also, e.field
		}
		return nil
	}
	e.beside = max(e.beside, n)
	return nil
}

// bounds are the fields of all endpoints that state how long an answer may be.
var bounds = []string{"max_tokens", "max_completion_tokens", "max_output_tokens"}

// answers multiplies how many answers are asked for.
func (e *Estimate) answers(n int64) error {
	if e.Answers *= max(n, 1); e.Answers > maxAnswers {
		return notMeterable("it asks for more than %d answers", maxAnswers)
	}
	return nil
}

// generation reads Gemini's generationConfig.
func (e *Estimate) generation(value []byte) error {
	if value[0] != '{' {
		return unsafe("generationConfig must be an object")
	}
	var seen fieldSet
	return rawObject(value).members(func(name string, value []byte) error {
		if seen.add(name) {
			return unsafe("the field %.64q stands twice", name)
		}
		if value[0] == 'n' {
			return nil
		}
		switch {
		case sameField(name, "maxOutputTokens"):
			if name != "maxOutputTokens" {
				return unsafe("it has a field %.64q; write maxOutputTokens", name)
			}
			return e.state(name, value)
		case sameField(name, "candidateCount"):
			n, err := count(name, value, maxAnswers)
			if err != nil {
				return err
			}
			return e.answers(n)
		case sameField(name, "responseModalities"):
			if list := strings.ToUpper(string(bytes.Trim(value, jsonSpace))); list != `["TEXT"]` {
				return notMeterable("it asks for other output than text")
			}
		case sameField(name, "speechConfig"), sameField(name, "imageConfig"):
			return notMeterable("it asks for other output than text")
		}
		return nil
	})
}

// prompts counts the prompts in a list: texts, or lists of tokens.
func prompts(list []byte) (n int64, err error) {
	err = elements(list, func(value []byte) error {
		if value[0] == '"' || value[0] == '[' {
			n++
		}
		return nil
	})
	if n > maxAnswers {
		return n, notMeterable("it holds %d prompts", n)
	}
	return n, err
}

// count reads a whole number. Languages that have only one kind of number write
// 100.0.
func count(name string, value []byte, most int64) (int64, error) {
	if whole, rest, ok := bytes.Cut(value, []byte(".")); ok && len(bytes.Trim(rest, "0")) == 0 {
		value = whole
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil || n < 0 || n > most {
		return 0, unsafe("%s must be a whole number from 0 to %d", name, most)
	}
	return n, nil
}
