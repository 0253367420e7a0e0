package upstream

import (
	"bytes"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// knownFields are the members of requests whose effect on usage is known. What a
// vendor adds tomorrow may cost anything.
var knownFields = set(
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
	// These are allowed or refused by their value.
	"prompt_cache_options", "diagnostics", "plugins", "deferred", "thread", "prediction", "serviceTier", "min_tokens", "trace",
	// These belong to Fireworks, Qwen and GLM.
	"reasoning_history", "raw_output", "echo_last", "prompt_cache_isolation_key", "prompt_cache_max_len", "enable_thinking", "tool_stream", "do_sample",
	// These belong to vLLM and SGLang: sampling, and the form of the answer.
	"thinking_token_budget", "skip_special_tokens", "spaces_between_special_tokens", "include_stop_str_in_output", "stop_token_ids", "bad_words", "allowed_token_ids", "length_penalty",
	"return_tokens_as_token_ids", "cache_salt", "request_id", "add_generation_prompt", "continue_final_message", "add_special_tokens", "truncate_prompt_tokens",
	"guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_decoding_backend", "guided_whitespace_pattern", "regex", "ebnf", "separate_reasoning", "stream_reasoning", "no_stop_trim", "rid",
	// These belong to llama.cpp.
	"dynatemp_range", "dynatemp_exponent", "xtc_probability", "xtc_threshold", "repeat_penalty", "repeat_last_n", "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers",
	"mirostat", "mirostat_tau", "mirostat_eta", "top_n_sigma", "samplers", "min_keep", "n_keep", "n_probs", "post_sampling_probs", "grammar", "json_schema", "cache_prompt", "id_slot", "timings_per_token",
	"return_progress", "return_tokens", "parse_tool_calls", "reasoning_in_content", "thinking_forced_open", "t_max_predict_ms",
)

// walked are the members that hold content, which may be more than its text.
var walked = set("messages", "input", "contents", "system", "instructions", "systemInstruction", "system_instruction", "documents", "inputs",
	"chat_history", "message", "content", "parts", "requests", "tool_results")

func set(names ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, name := range names {
		m[name] = true
	}
	return m
}

// allowOnly allows an object whose members all have names in allowed, each with the
// value given there, if any. Other members may be priced differently.
func allowOnly(field string, value []byte, allowed map[string]string) error {
	if value[0] != '{' {
		return notMeterable("what %s costs so is not known", field)
	}
	var seen fieldSet
	for name, value := range rawObject(value).members {
		want, ok := allowed[name]
		if !ok || seen.add(name) || want != "" && value[0] != 'n' && string(value) != `"`+want+`"` {
			return notMeterable("what %.64q in %s costs is not known", name, field)
		}
	}
	return nil
}

// cacheLifetime reads how long OpenAI keeps what it writes to a cache, in general or up to
// a breakpoint: 30 minutes, or 12 hours for more (PromptCacheBreakpointConfig of
// @azure/ai-projects). The bound assumes that all of the input is written.
func (c *content) cacheLifetime(field string, value []byte) error {
	if value[0] == 'n' {
		return nil
	}
	if err := allowOnly(field, value, map[string]string{"mode": "", "ttl": ""}); err != nil {
		return err
	}
	if mode := rawObject(value).get("mode"); mode != nil && mode[0] != '"' && mode[0] != 'n' {
		return notMeterable("what %s costs in the mode %.32s is not known", field, mode)
	}
	switch ttl := rawObject(value).get("ttl"); {
	case ttl == nil, ttl[0] == 'n', word(ttl) == "30m":
	case word(ttl) == "12h" && c.preset.Name == "openai": // the price elsewhere is not known
		c.hour = true
	default:
		return notMeterable("what %s costs with a ttl of %.32s is not known; it may be 30m, or 12h at OpenAI itself", field, ttl)
	}
	return nil
}

// placing are the presets at which inference_geo has Anthropic's values and price: its
// own, and those of gateways. Fireworks charges more for requests that it serves in one
// country alone (https://docs.fireworks.ai/serverless/us-only-serverless).
var placing = set("", "anthropic", "openai", "openrouter")

// standardReasoning refuses OpenAI's reasoning.mode "pro", in which several passes of the
// model make one answer: no vendor says how many, or whether they share the bound of one
// (openai 6.49.0, resources/shared.d.ts;
// https://openrouter.ai/docs/cookbook/evaluate-and-optimize/model-migrations/gpt-5-6).
func standardReasoning(value []byte) error {
	if value[0] != '{' {
		return nil
	}
	for name, value := range rawObject(value).members {
		if sameField(name, "mode") && value[0] != 'n' && string(value) != `"standard"` {
			return notMeterable("how often a model reasons in the mode %.64q is not known; leave reasoning.mode out", word(value))
		}
	}
	return nil
}

// proModel matches the models that reason in the mode "pro", as OpenRouter lists them
// since GPT-5.6. The models that were called pro before have prices of their own.
var proModel = regexp.MustCompile(`(?i)(^|/)gpt-(5\.([6-9]|\d\d)|[6-9]|\d\d)[a-z0-9.-]*-pro\b`)

// asksOthers matches the models that search, run tools, or ask several models for one answer
// even if the request does not ask for it, and that charge for each of these: OpenAI's for
// searches, OpenRouter's variants and stored settings, Groq's
// (https://console.groq.com/docs/compound/systems), xAI's
// (https://docs.x.ai/developers/models/grok-4.20-multi-agent), OpenRouter's Fusion
// (https://openrouter.ai/docs/guides/routing/routers/fusion-router) and its copies, and
// Perplexity's (https://openrouter.ai/perplexity/sonar). The name of an owner before a slash
// (NousResearch) and what follows the base of a tuned model ("ft:gpt-4.1:owner:name:id") say
// nothing about that.
var asksOthers = regexp.MustCompile(`(?i)@preset|:(online|search)([:/]|$)|(^|/)[^/:]*(search|multi-agent)[^/]*$|(^|/)(compound|fusion|sonar)(-|:|$)`)

// templateArguments are the arguments of apply_chat_template (transformers) that replace
// the template of a model, or lengthen the prompt that it printed. SGLang passes on what
// a request names (its serving_chat.py); vLLM does, except for the first two (its
// renderers/hf.py).
//
// Special tokens (eos_token, …) can be replaced, too, and templates print them with each
// message.
var templateArguments = set("chat_template", "tokenize", "padding", "max_length", "tokenizer_kwargs")

// keepsTemplate refuses chat_template_kwargs under which the length of a request would not
// bound its prompt.
func keepsTemplate(value []byte) error {
	if value[0] != '{' {
		return nil // no server takes anything else
	}
	for name, value := range rawObject(value).members {
		special := strings.HasSuffix(name, "_token") || strings.HasSuffix(name, "_tokens")
		if templateArguments[name] || special && !strings.ContainsRune("tfn", rune(value[0])) { // true, false and null
			return notMeterable("how long %.64q in chat_template_kwargs makes the prompt is not known", name)
		}
	}
	return nil
}

// extraBody is the member for everything that Gemini's chat completions have and
// OpenAI's do not.
const extraBody = "extra_body"

// googleExtras allows in extraBody only what says how a model thinks
// (https://ai.google.dev/gemini-api/docs/openai). Another member names stored content.
func googleExtras(value []byte) error {
	if err := allowOnly(extraBody, value, map[string]string{"google": ""}); err != nil {
		return err
	}
	for name, value := range rawObject(value).members {
		if err := allowOnly(name, value, map[string]string{"thinking_config": "", "thought_tag_marker": ""}); err != nil {
			return err
		}
	}
	return nil
}

// pageFee says what OpenRouter may charge for a document: $2 for 1,000 pages, if the
// model does not read documents itself and the request does not say who does. Nothing
// bounds how many pages a document has.
const pageFee = `it holds a document, which may be read for a fee by the page; choose who reads it for nothing: ` +
	`"plugins": [{"id": "file-parser", "pdf": {"engine": "native"}}], or the engine "cloudflare-ai"`

// plugins allows the one plugin of OpenRouter's that can be free, where it is: the one
// that reads documents, with a free engine or the model itself
// (https://openrouter.ai/docs/guides/overview/multimodal/pdfs).
func (e *Estimate) plugins(p *Preset, value []byte) error {
	refused := notMeterable("what a plugin costs is not known")
	if p.Name != "openrouter" || value[0] != '[' {
		if !isEmpty(value) {
			return refused
		}
		return nil
	}
	for plugin := range rawList(value).elements {
		if err := allowOnly("plugins", plugin, map[string]string{"id": "file-parser", "pdf": ""}); err != nil {
			return err
		}
		pdf := rawObject(plugin).get("pdf")
		if word(rawObject(plugin).get("id")) == "" || pdf == nil {
			return refused
		}
		if err := allowOnly("pdf", pdf, map[string]string{"engine": ""}); err != nil {
			return err
		}
		switch word(rawObject(pdf).get("engine")) {
		case "native", "cloudflare-ai", "pdf-text":
			e.freeParser = true
		default:
			return refused
		}
	}
	return nil
}

// stateBound records how long an answer may be. Of several fields the largest counts.
// A field that the endpoint does not know bounds nothing, but what it allows beyond
// the others counts, in case the endpoint does read it. 0 is no bound, because
// servers take it for none, and neither is -1, which is none at llama.cpp and LM
// Studio; Anthropic's 0 fills a cache.
func (e *Estimate) stateBound(name string, value []byte) error {
	ours := e.field != "" && (name == e.field || name == e.also)
	if ours && !e.zero && string(value) == "-1" {
		e.endless = true
		value = []byte("0")
	}
	n, err := parseCount(name, value, math.MaxInt32)
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
	e.statedBeside = max(e.statedBeside, n)
	return nil
}

// predict reads the prediction of an answer. The part that does not come true is billed
// as output (CompletionUsage.completion_tokens_details of openai 6.49.0), and may add
// to an answer that is as long as its bound.
func (e *Estimate) predict(value []byte, found *content) error {
	if err := allowOnly("prediction", value, map[string]string{"type": "content", "content": ""}); err != nil {
		return err
	}
	if parts := rawObject(value).get("content"); parts != nil && parts[0] != '"' {
		if parts[0] != '[' {
			return bodyError("the content of a prediction must be text")
		}
		for part := range rawList(parts).elements {
			if err := allowOnly("prediction", part, map[string]string{"type": "text", "text": ""}); err != nil {
				return err
			}
		}
	}
	_, tokens := promptLength(value, found.layout, found.outline)
	e.Predicted = tokens + tokens/10
	return nil
}

// bounds are the fields of all endpoints that state how long an answer may be.
var bounds = []string{"max_tokens", "max_completion_tokens", "max_output_tokens"}

// countAnswers reads a field that says how many answers the request asks for.
func (e *Estimate) countAnswers(name string, value []byte) error {
	n, err := parseCount(name, value, maxAnswers)
	if err != nil {
		return err
	}
	return e.multiplyAnswers(n)
}

// multiplyAnswers multiplies the number of answers that the request asks for.
func (e *Estimate) multiplyAnswers(n int64) error {
	if e.Answers *= max(n, 1); e.Answers > maxAnswers {
		return notMeterable("it asks for more than %d answers", maxAnswers)
	}
	return nil
}

func (e *Estimate) generation(value []byte) error {
	if value[0] != '{' {
		return bodyError("generationConfig must be an object")
	}
	var seen fieldSet
	for name, value := range rawObject(value).members {
		if seen.add(name) {
			return bodyError("the field %.64q stands twice", name)
		}
		if value[0] == 'n' {
			continue
		}
		var err error
		switch {
		case sameField(name, "maxOutputTokens"):
			if name != "maxOutputTokens" {
				return bodyError("it has a field %.64q; write maxOutputTokens", name)
			}
			err = e.stateBound(name, value)
		case sameField(name, "candidateCount"):
			err = e.countAnswers(name, value)
		case sameField(name, "responseModalities") && strings.EqualFold(string(bytes.Trim(value, jsonSpace)), `["TEXT"]`):
		case sameField(name, "responseModalities"), sameField(name, "speechConfig"), sameField(name, "imageConfig"), sameField(name, "responseFormat") && !onlyText(value):
			err = notMeterable("it asks for other output than text")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// onlyText reports whether a responseFormat of Gemini's asks for nothing but text. It is an
// object (ai.google.dev/gemini-api/docs/structured-output), or a list of such objects
// (ResponseFormat of @google/genai 2.32.0).
func onlyText(format []byte) bool {
	switch format[0] {
	case '[':
		for one := range rawList(format).elements {
			if one[0] != '{' || !onlyText(one) {
				return false
			}
		}
		return true
	case '{':
		for name, value := range rawObject(format).members {
			if name != "text" && value[0] != 'n' {
				return false
			}
		}
		return true
	}
	return false
}

// countPrompts counts the prompts in a list: texts, or lists of tokens. Objects, with
// which llama.cpp reads pictures and sound, are refused.
func (e *Estimate) countPrompts(list []byte) error {
	n := int64(0)
	for value := range rawList(list).elements {
		switch value[0] {
		case '"':
			n++
		case '[':
			n++
			for part := range rawList(value).elements {
				if part[0] == '{' || part[0] == '[' {
					return errPrompt
				}
			}
		case '{':
			return errPrompt
		}
	}
	if n > maxAnswers {
		return notMeterable("it holds %d prompts", n)
	}
	return e.multiplyAnswers(n)
}

var errPrompt = notMeterable("a prompt may only be text or tokens")

// parseCount reads a whole number. Languages with only one kind of number write
// 100.0.
func parseCount(name string, value []byte, most int64) (int64, error) {
	if whole, rest, ok := bytes.Cut(value, []byte(".")); ok && len(bytes.Trim(rest, "0")) == 0 {
		value = whole
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil || n < 0 || n > most {
		return 0, bodyError("%s must be a whole number from 0 to %d", name, most)
	}
	return n, nil
}
