package upstream

import (
	"errors"
	"net/http"
	"strings"
	"testing"
)

// TestFieldsAreKnownByWhatTheyCost has the fields of November 2026 from vendors'
// documentation and SDKs (openai-python 2026-08, anthropic-sdk-python 2026-08,
// ai.google.dev, openrouter.ai/docs, docs.fireworks.ai, docs.vllm.ai, llama.cpp's
// server).
func TestFieldsAreKnownByWhatTheyCost(t *testing.T) {
	t.Parallel()
	const openai, messages, gemini = "/v1/chat/completions", "/v1/messages", "/v1beta/models/m:generateContent"
	for _, test := range []struct {
		preset, path, field string
		good                bool
	}{
		// Written to a cache for 30 minutes, which is held already.
		{"openai", openai, `"prompt_cache_options":{"mode":"explicit","ttl":"30m"}`, true},
		{"openai", "/v1/responses", `"prompt_cache_options":{"ttl":"30m"}`, true},
		{"openrouter", "/api/v1/chat/completions", `"prompt_cache_options":{"mode":"implicit","ttl":null}`, true},
		{"openai", openai, `"prompt_cache_options":{"mode":"explicit"},"system":[{"type":"text","text":"s","prompt_cache_breakpoint":{"mode":"explicit"}}]`, true}, // agent-framework#7157, mux#3712
		{"openai", openai, `"prompt_cache_options":{"ttl":"12h"}`, true},
		{"openrouter", "/api/v1/chat/completions", `"prompt_cache_options":{"ttl":"12h"}`, false}, // what it costs there is not known
		{"openrouter", "/api/v1/chat/completions", `"messages":[{"role":"user","content":[{"type":"text","text":"x","prompt_cache_breakpoint":{"ttl":"12h"}}]}]`, false},
		{"openai", openai, `"prompt_cache_options":{"ttl":"24h"}`, false},
		{"openai", openai, `"prompt_cache_options":{"ttl":12}`, false},
		// The same for what is written up to a breakpoint (PromptCacheBreakpointConfig of
		// @azure/ai-projects).
		{"openai", openai, `"messages":[{"role":"user","content":[{"type":"text","text":"x","prompt_cache_breakpoint":{"mode":"explicit","ttl":"12h"}}]}]`, true},
		{"openai", openai, `"messages":[{"role":"user","content":[{"type":"text","text":"x","prompt_cache_breakpoint":{"ttl":null}},{"type":"text","text":"x","prompt_cache_breakpoint":null}]}]`, true},
		{"openai", openai, `"messages":[{"role":"user","content":[{"type":"text","text":"x","prompt_cache_breakpoint":{"mode":"explicit","ttl":"24h"}}]}]`, false},
		{"openai", openai, `"messages":[{"role":"user","content":[{"type":"text","text":"x","prompt_cache_breakpoint":{"ttl":"30m","ttl":"12h"}}]}]`, false},
		{"openai", openai, `"messages":[{"role":"user","content":[{"type":"text","text":"x","prompt_cache_breakpoint":{"tier":"gold"}}]}]`, false},
		{"openai", openai, `"messages":[{"role":"user","content":[{"type":"text","text":"x","prompt_cache_breakpoint":"12h"}]}]`, false},
		{"openai", openai, `"messages":[{"role":"user","content":[{"type":"text","text":"x","prompt_cache_breakpoint":{"mode":{"prompt_cache_breakpoint":{}}}}]}]`, false},
		{"openai", openai, `"messages":[{"role":"user","content":[{"type":"text","text":"x","Prompt_Cache_Breakpoint":{}}]}]`, false},
		{"openai", "/v1/responses", `"tools":[{"type":"function","name":"f","prompt_cache_breakpoint":{"mode":"explicit","ttl":"24h"}}]`, false},
		{"openai", "/v1/responses", `"tools":[{"type":"function","name":"f","promptCacheBreakpoint":{"ttl":"24h"}}]`, false},
		{"openai", "/v1/responses", `"tools":[{"type":"function","name":"f","prompt_cache_breakpoint":{"mode":"explicit"}}]`, true},
		// Where a request is served, at Anthropic and gateways to it
		// (platform.claude.com/docs/en/manage-claude/data-residency); at Fireworks for
		// another price (docs.fireworks.ai/accounts/data-residency).
		{"anthropic", messages, `"inference_geo":"us"`, true},
		{"openai", openai, `"inference_geo":"us"`, true},
		{"openrouter", "/api/v1/messages", `"inference_geo":"us"`, true},
		{"vllm", messages, `"inference_geo":"us"`, true},
		{"fireworks", "/inference/v1/chat/completions", `"inference_geo":"us"`, false},
		{"fireworks", "/inference/v1/messages", `"inference_geo":"global"`, false},
		{"fireworks", "/inference/v1/messages", `"inference_geo":null`, true},
		{"together", openai, `"inference_geo":"us"`, false},
		{"deepseek", "/anthropic/v1/messages", `"inference_geo":"us"`, false},
		{"openai", openai, `"prompt_cache_options":{"ttl":"30m","ttl":"12h"}`, false},
		{"openai", openai, `"prompt_cache_options":{"tier":"gold"}`, false},
		{"openai", openai, `"prompt_cache_options":"24h"`, false},
		{"anthropic", messages, `"diagnostics":{"previous_message_id":null}`, true},
		{"anthropic", messages, `"diagnostics":{"model":"x"}`, false},
		{"anthropic", messages, `"diagnostics":{}`, true},
		{"gemini", gemini, `"serviceTier":"standard"`, true},
		{"openai", openai, `"prediction":{"type":"content","content":"x"}`, true},
		{"openai", openai, `"prediction":{"type":"content","content":[{"type":"text","text":"x"},{"type":"text","text":"y"}]}`, true},
		{"openai", openai, `"prediction":null`, true},
		{"mistral", openai, `"prediction":{"type":"content","content":""}`, true},
		{"gemini", gemini, `"serviceTier":"SERVICE_TIER_FLEX"`, true},
		{"gemini", gemini, `"serviceTier":"gold"`, false},
		{"openrouter", "/api/v1/chat/completions", `"plugins":[ ],"session_id":"s","trace":{"trace_id":"t"}`, true},
		{"openrouter", "/api/v1/chat/completions", `"plugins":[{"id":"web"}]`, false},
		// Documents are read by the model, or for nothing: openrouter.ai/docs/guides/overview/multimodal/pdfs.
		{"openrouter", "/api/v1/chat/completions", `"plugins":[{"id":"file-parser","pdf":{"engine":"cloudflare-ai"}}]`, true},
		{"openrouter", "/api/v1/responses", `"plugins":[{"pdf":{"engine":"native"},"id":"file-parser"},{"id":"file-parser","pdf":{"engine":"pdf-text"}}]`, true},
		{"openrouter", "/api/v1/chat/completions", `"plugins":[{"id":"file-parser","pdf":{"engine":"mistral-ocr"}}]`, false},
		{"openrouter", "/api/v1/chat/completions", `"plugins":[{"id":"file-parser","pdf":{"engine":"native","engine":"mistral-ocr"}}]`, false},
		{"openrouter", "/api/v1/chat/completions", `"plugins":[{"id":"file-parser","pdf":{"engine":"native"},"pdf":{"engine":"mistral-ocr"}}]`, false},
		{"openrouter", "/api/v1/chat/completions", `"plugins":[{"id":"file-parser","pdf":{"engine":"native"}},{"id":"file-parser"}]`, false},
		{"openrouter", "/api/v1/chat/completions", `"plugins":[{"id":null,"pdf":{"engine":"native"}}]`, false},
		{"openrouter", "/api/v1/chat/completions", `"plugins":[{"id":"file-parser","enabled":false,"pdf":{"engine":"native"}}]`, false},
		{"openrouter", "/api/v1/chat/completions", `"plugins":["file-parser"]`, false},
		{"openai", openai, `"plugins":[{"id":"file-parser","pdf":{"engine":"native"}}]`, false},
		// Several passes of a model make one answer: openai 6.49.0, resources/shared.d.ts, and
		// openrouter.ai/docs/cookbook/evaluate-and-optimize/model-migrations/gpt-5-6.
		{"openai", "/v1/responses", `"reasoning":{"effort":"high","summary":"auto","context":"all_turns","mode":"standard"}`, true},
		{"openai", "/v1/responses", `"reasoning":{"mode":null}`, true},
		{"openai", "/v1/responses", `"reasoning":{"mode":"pro"}`, false},
		{"openai", "/v1/responses", `"reasoning":{"mode":"standard","mode":"pro"}`, false},
		{"openai", "/v1/responses", `"reasoning":{"mod\u0065":"pro"}`, false},
		{"openai", "/v1/responses", `"reasoning":{"Mode":"pro"}`, false},
		{"openai", "/v1/responses", `"reasoning":{"mode":["pro"]}`, false},
		{"openrouter", "/api/v1/chat/completions", `"reasoning":{"effort":"low","mode":"pro"}`, false},
		// Gateways run Google's tools for requests in OpenAI's form
		// (docs.litellm.ai/docs/providers/gemini, Google Search Tool).
		{"openai", openai, `"tools":[{"googleSearch":{}}]`, false},
		{"openai", openai, `"tools":[{"google_search":{}}]`, false},
		{"openai", openai, `"tools":[{"urlContext":{}}]`, false},
		{"openai", openai, `"tools":[{"url\u0043ontext":{}}]`, false},
		{"openai", openai, `"tools":[{"codeExecution":{}}]`, false},
		{"openai", openai, `"tools":[{"type":"function","function":{"name":"f"},"enterpriseWebSearch":{}}]`, false},
		{"openai", openai, `"tools":[{"name":"f","googleMaps":{}}]`, false},
		{"openai", openai, `"tools":[{"a_search_of_tomorrow":{}}]`, false},
		{"gemini", "/v1beta/openai/chat/completions", `"tools":[{"googleSearch":{}}]`, false},
		// LiteLLM reads the older field in the same way.
		{"openai", openai, `"functions":[{"googleSearch":{}}]`, false},
		{"openai", openai, `"functions":[{"name":"f","parameters":{}},{"codeExecution":{}}]`, false},
		{"openai", openai, `"functions":[{"name":"googleSearch","description":"d","parameters":{"type":"object"}}]`, true},
		{"openai", openai, `"functions":[],"function_call":"auto"`, true},
		{"openai", openai, `"tools":[{"function":{"name":"googleSearch","parameters":{"type":"object","properties":{"googleSearch":{"type":"string"}}}}}]`, true},
		{"anthropic", messages, `"tools":[{"name":"google_search","input_schema":{"type":"object"}}]`, true},
		// ResponseFormat, MediaProcessing and PartMediaResolution of @google/genai 2.32.0.
		{"gemini", gemini, `"generationConfig":{"responseFormat":[{"text":{}}]}`, true},
		// ai.google.dev/gemini-api/docs/structured-output has no list there.
		{"gemini", gemini, `"generationConfig":{"responseFormat":{"text":{"mimeType":"APPLICATION_JSON","schema":{"type":"object","properties":{"audio":{"type":"string"}}}}}}`, true},
		{"gemini", gemini, `"generation_config":{"response_format":{"text":{"mime_type":"application/json"},"image":null}}`, true},
		{"gemini", gemini, `"generationConfig":{"responseFormat":{"text":{},"audio":{}}}`, false},
		{"gemini", gemini, `"generationConfig":{"responseFormat":{"image":{}}}`, false},
		{"gemini", gemini, `"generationConfig":{"responseFormat":{"Text":{}}}`, false},
		{"gemini", gemini, `"generationConfig":{"responseFormat":[[{"audio":{}}]]}`, false},
		{"gemini", gemini, `"generationConfig":{"responseFormat":"audio"}`, false},
		{"gemini", gemini, `"generationConfig":{"responseFormat":[{"text":{}},{"audio":{}}]}`, false},
		{"gemini", gemini, `"generationConfig":{"response_format":[{"image":{}}]}`, false},
		{"gemini", gemini, `"contents":[{"parts":[{"inlineData":{"mimeType":"video/mp4","data":"AAAA"},"mediaProcessing":"STATIC"}]}]`, true},
		{"gemini", gemini, `"contents":[{"parts":[{"inlineData":{"mimeType":"video/mp4","data":"AAAA"},"mediaProcessing":"AGENTIC"}]}]`, false},
		{"gemini", gemini, `"contents":[{"parts":[{"inlineData":{"mimeType":"video/mp4","data":"AAAA"},"media_processing":2}]}]`, false},
		// Parts without a film ignore it, and a model's answer may have it.
		{"gemini", gemini, `"contents":[{"role":"model","parts":[{"text":"x","mediaProcessing":"AGENTIC"},{"inlineData":{"mimeType":"image/png","data":"AAAA"},"mediaProcessing":"AGENTIC"}]}]`, true},
		{"gemini", gemini, `"contents":[{"parts":[{"text":"x","mediaProcessing":"AGENTIC"}]},{"parts":[{"inlineData":{"mimeType":"video/mp4","data":"AAAA"}}]}]`, false},
		{"gemini", gemini, `"contents":[{"parts":[{"mediaProcessing":"AGENTIC","inlineData":{"data":"AAAA"}}]}]`, false},
		{"gemini", gemini, `"contents":[{"role":"user","parts":[{"functionResponse":{"name":"f","response":{},"parts":[{"inlineData":{"mimeType":"video/mp4","data":"AAAA"},"mediaProcessing":"AGENTIC"}]}}]}]`, false},
		// ai.google.dev/gemini-api/docs/openai, which has the member in the body itself.
		{"gemini", "/v1beta/openai/chat/completions", `"extra_body":{"google":{"thinking_config":{"thinking_budget":800,"include_thoughts":true},"thought_tag_marker":"think"}}`, true},
		{"gemini", "/v1beta/openai/chat/completions", `"extra_body":{"google":{"thinking_config":{"thinking_level":"low"},"cached_content":"cachedContents/x"}}`, false},
		{"gemini", "/v1beta/openai/chat/completions", `"extra_body":{"google":{"thinking_config":{}},"tools":[]}`, false},
		{"gemini", "/v1beta/openai/chat/completions", `"extra_body":{"google":{"thinking_config":{}},"Google":{"cached_content":"x"}}`, false},
		{"gemini", "/v1beta/openai/chat/completions", `"extra_body":{"google":{"thinking_config":{}},"google":{"cached_content":"x"}}`, false},
		{"gemini", "/v1beta/openai/chat/completions", `"extra_body":{"google":"x"}`, false},
		{"openai", openai, `"extra_body":{"google":{"thinking_config":{"thinking_budget":800}}}`, false},
		// Python's pydantic takes these for true, in vLLM and other servers.
		{"vllm", "/v1/responses", `"background":1`, false},
		{"vllm", "/v1/responses", `"background":"true"`, false},
		{"vllm", "/v1/responses", `"background":false`, true},
		{"xai", openai, `"deferred":"yes"`, false},
		{"together", openai, `"enable_thinking":1`, false},
		{"openrouter", "/api/v1/chat/completions", `"plugins":1`, false},
		{"xai", openai, `"deferred":false`, true},
		{"xai", openai, `"deferred":true`, false},
		{"fireworks", "/inference/v1/chat/completions", `"reasoning_history":"preserved","prompt_cache_isolation_key":"k","raw_output":true`, true},
		{"together", openai, `"enable_thinking":false,"tool_stream":true`, true},
		{"together", openai, `"enable_thinking":true`, false}, // thoughts beside max_tokens, at Qwen's own API
		{"together", openai, `"thinking_budget":1000`, false},
		{"together", openai, `"min_tokens":5,"skip_special_tokens":false,"stop_token_ids":[1],"add_generation_prompt":true`, true},
		{"together", openai, `"cache_prompt":true,"repeat_penalty":1.1,"samplers":["top_k"],"grammar":"root ::= \"a\""`, true},
		// What multiplies output, is billed beside it, stands elsewhere, or makes
		// the server read more than there is.
		{"openai", openai, `"prediction":{"type":"image","content":"x"}`, false},
		{"openai", openai, `"prediction":{"type":"content","content":[{"type":"image_url","image_url":{"url":"https://x"}}]}`, false},
		{"openai", openai, `"prediction":{"type":"content","content":["x"]}`, false},
		{"openai", openai, `"prediction":{"content":"x","content":"y"}`, false},
		{"openai", openai, `"prediction":{"type":"content","content":"x","samples":9}`, false},
		{"openai", openai, `"prediction":"x"`, false},
		{"anthropic", messages, `"thread":{"type":"create"}`, false},
		{"anthropic", messages, `"thread":null`, true},
		{"anthropic", messages, `"compaction":{"type":"enabled"}`, false},
		{"anthropic", messages, `"billing_policy":{}`, false},
		{"openai", openai, `"moderation":{"model":"omni-moderation-latest"}`, false},
		{"mistral", openai, `"guardrails":[{}]`, false},
		{"groq", "/openai/v1/chat/completions", `"search_settings":{}`, false},
		{"groq", "/openai/v1/chat/completions", `"compound_custom":{}`, false},
		{"groq", "/openai/v1/chat/completions", `"service_tier":"performance"`, false},
		{"xai", openai, `"search_parameters":{"mode":"auto"}`, false},
		{"anthropic", messages, `"fallbacks":[{"model":"m"}]`, false},
		{"anthropic", messages, `"fallback_credit_token":"x"`, false},
		{"together", openai, `"enable_search":true`, false},
		{"together", openai, `"chat_template":"{{ messages }}{{ messages }}"`, false},
		// SGLang passes these on to apply_chat_template of transformers, where they are the
		// template itself, or lengthen what it printed; vLLM passes on the last three.
		{"sglang", openai, `"chat_template_kwargs":{"chat_template":"{% for i in range(100000) %}x {% endfor %}"}`, false},
		{"sglang", openai, `"chat_template_kwargs":{"enable_thinking":false,"chat\u005ftemplate":"x"}`, false},
		{"sglang", openai, `"chat_template_kwargs":{"tokenize":true,"padding":"max_length","max_length":100000}`, false},
		{"vllm", openai, `"chat_template_kwargs":{"padding":"max_length"}`, false},
		{"vllm", openai, `"chat_template_kwargs":{"max_length":100000}`, false},
		{"vllm", openai, `"chat_template_kwargs":{"tokenizer_kwargs":{"padding":"max_length","max_length":100000}}`, false},
		// These replace what a template prints with each message ("kwargs overwrite special
		// tokens if both are present", apply_chat_template of transformers).
		{"vllm", openai, `"chat_template_kwargs":{"eos_token":"a long text"}`, false},
		{"sglang", openai, `"chat_template_kwargs":{"bos_token":["a long text"]}`, false},
		{"llamacpp", openai, `"chat_template_kwargs":{"eos_token":"\"a long text\""}`, false},
		{"vllm", openai, `"chat_template_kwargs":{"eos_token":123456789012345678901234567890}`, false},
		{"together", openai, `"chat_template_kwargs":{"additional_special_tokens":["a long text"]}`, false},
		{"vllm", openai, `"chat_template_kwargs":{"add_special_tokens":false,"eos_token":null}`, true},
		{"vllm", openai, `"chat_template_kwargs":{"enable_thinking":false,"thinking":true,"reasoning_effort":"high","clear_thinking":false,"documents":[{"title":"t","text":"x"}]}`, true},
		{"together", openai, `"use_beam_search":true`, false},
		{"together", openai, `"mm_processor_kwargs":{"max_pixels":1000000000}`, false},
		{"together", openai, `"session_params":{"id":"x"}`, false},
		{"together", openai, `"n_predict":100000`, false},
		{"together", openai, `"draft_model":"x"`, false},
	} {
		body := `{"model":"m","messages":[],"input":"x",` + test.field + `}`
		if strings.HasPrefix(test.field, `"messages"`) {
			body = `{"model":"m",` + test.field + `}`
		}
		if test.preset == "gemini" && !strings.Contains(test.path, "/openai/") {
			body = `{` + test.field + `}`
		}
		e, err := estimate(t, test.preset, test.path, body)
		if test.good && err != nil || !test.good && !errors.Is(err, ErrNotMeterable) {
			t.Errorf("%s: %s: %+v, %v", test.preset, test.field, e, err)
		}
	}
	e, err := estimate(t, "together", openai, `{"model":"m","messages":[],"max_tokens":9000,"min_tokens":300}`)
	if err != nil || e.Thinking != 299 {
		t.Errorf("an answer of at least 300 tokens may be bounded below that: %+v, %v", e, err)
	}
}

// TestWhereARequestIsServedMayCostMore: Fireworks took half as much again where its header
// said so (docs.fireworks.ai/accounts/data-residency, serverless/us-only-serverless).
func TestWhereARequestIsServedMayCostMore(t *testing.T) {
	t.Parallel()
	call := func(h http.Header) *Call {
		return &Call{Method: "POST", Path: "/inference/v1/chat/completions", Features: "https://api.fireworks.ai" + Features(h), Body: []byte(`{"model":"m","messages":[]}`)}
	}
	if _, err := preset(t, "fireworks").Estimate(call(http.Header{"Fireworks-Inference-Geo": {"us"}, "Accept": {"*/*"}})); !errors.Is(err, ErrNotMeterable) {
		t.Errorf("a header that makes it dearer: %v", err)
	}
	if _, err := preset(t, "fireworks").Estimate(call(http.Header{"X-Session-Affinity": {"Fireworks-Inference-Geo: us"}})); err != nil {
		t.Errorf("another header: %v", err)
	}
	body := `{"model":"m","messages":[],"inference_geo":"us"}`
	if _, err := withOptions(t, "together", Options{AllowFields: []string{"inference_geo"}}).Estimate(chatCall(body)); !errors.Is(err, ErrNotMeterable) {
		t.Errorf("a field that has no price there is allowed: %v", err)
	}
}

// TestAModelThatReasonsInSeveralPassesIsNotBounded: OpenRouter lists reasoning.mode "pro" as
// models of their own (openrouter.ai/docs/cookbook/evaluate-and-optimize/model-migrations/gpt-5-6),
// since GPT-5.6. What was called pro before is one model with a price of its own.
func TestAModelThatReasonsInSeveralPassesIsNotBounded(t *testing.T) {
	t.Parallel()
	for model, good := range map[string]bool{
		"openai/gpt-5.6-sol-pro": false, "openai/gpt-5.6-luna-pro-20260709": false, "openai/gpt-5.6-terra-pro:batch": false, "gpt-5.6-sol-pro": false, "OpenAI/GPT-6.1-Sol-Pro": false,
		"openai/gpt-5.6-sol": true, "openai/gpt-5.5-pro": true, "openai/gpt-5-pro": true, "openai/gpt-5.2-pro-2025-12-11": true, "openai/o1-pro": true,
		"google/gemini-2.5-pro": true, "deepseek/deepseek-v4-pro": true, "gpt-6-sol-prose": true,
	} {
		if _, err := estimate(t, "openrouter", "/api/v1/chat/completions", `{"model":"`+model+`","messages":[],"max_tokens":5}`); good != (err == nil) || !good && !errors.Is(err, ErrNotMeterable) {
			t.Errorf("%s: %v", model, err)
		}
	}
}

// TestAModelThatAsksOthersIsNotBounded: these search, run code, or ask several models for
// one answer, without any tool in the request, and whatever bound it states.
func TestAModelThatAsksOthersIsNotBounded(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		preset, model string
		good          bool
	}{
		// Up to ten tools run at Groq for one request: console.groq.com/docs/compound/systems.
		{"groq", "groq/compound", false}, {"groq", "groq/compound-mini", false}, {"groq", "compound-beta", false}, {"groq", "compound-beta-mini", false},
		// Four or sixteen agents: docs.x.ai/developers/models/grok-4.20-multi-agent. A prompt
		// of 40 tokens was billed as 39,263 and an answer of 9,997
		// (docs.apiyi.com/en/api-capabilities/grok/multi-agent).
		{"xai", "grok-4.20-multi-agent-0309", false}, {"openrouter", "x-ai/grok-4.20-multi-agent", false},
		// "priced as the sum of those underlying completions": openrouter.ai/openrouter/fusion.
		{"openrouter", "openrouter/fusion", false}, {"openai", "litellm/fusion-1", false},
		// $5 for 1,000 searches: openrouter.ai/perplexity/sonar.
		{"openrouter", "perplexity/sonar", false}, {"openrouter", "perplexity/sonar-pro:floor", false}, {"openai", "sonar-reasoning-pro", false},
		{"openrouter", "perplexity/sonar-deep-research", false}, {"openai", "gpt-4o-search-preview", false}, {"openai", "o3-deep-research", false},
		{"openrouter", "openai/gpt-5.5:online", false}, {"openrouter", "OpenAI/GPT-5.5:Online", false}, {"openrouter", "x@preset/y", false},
		{"groq", "openai/gpt-oss-120b", true}, {"xai", "grok-4.6", true}, {"openrouter", "openrouter/auto", true}, {"openrouter", "perplexity/r1-1776", true},
		// What names an owner, or a model that somebody has tuned, says nothing about its base.
		{"openrouter", "nousresearch/hermes-4-70b:free", true}, {"together", "NousResearch/Hermes-4-70B", true}, {"openrouter", "multi-agent-lab/router-7b", true},
		{"fireworks", "accounts/acme-research/models/sorter", true}, {"openai", "ft:gpt-4.1-mini:acme-research:search-ranker:AbC1", true},
		{"openai", "ft:gpt-4.1-mini:acme:online-shop:AbC1", true}, {"openai", "gpt-5.5:online/deep", false}, {"openrouter", "openai/gpt-4o-search-preview:floor", false},
		{"openai", "jina-deepsearch-v1", false}, {"openai", "openai/o4-mini-deep-research-2025-06-26", false}, {"gemini", "deep-research-preview-04-2026", false}, {"openai", "gemini-2.5-pro:search", false},
		{"ollama", "tongyi-deepresearch:30b", true}, {"ollama", "hf.co/acme/search-ranker", true},
		{"together", "compounding/chemistry-7b", true}, {"together", "sonarqube-reviewer", true}, {"together", "defusion-2", true},
		{"vllm", "Alibaba-NLP/Tongyi-DeepResearch-30B-A3B", true}, {"llamacpp", "my-research-model", true}, {"sglang", "fusion-7b", true}, {"openrouter", "openai/gpt-5.5:nitro", true},
	} {
		path := preset(t, test.preset).Prefix + "/chat/completions"
		if test.preset == "gemini" {
			path = "/v1beta/openai/chat/completions"
		}
		if _, err := estimate(t, test.preset, path, `{"model":"`+test.model+`","messages":[],"max_tokens":5}`); test.good != (err == nil) || !test.good && !errors.Is(err, ErrNotMeterable) {
			t.Errorf("%s: %s: %v", test.preset, test.model, err)
		}
	}
}

// TestAPredictionIsHeldAsOutput in addition to the answer, once per answer: the part
// that does not come true is billed as output
// (completion_tokens_details.rejected_prediction_tokens of openai 6.49.0). The bound
// is in max_tokens, because max_completion_tokens is refused with a prediction
// (platform.openai.com/docs/guides/predicted-outputs).
func TestAPredictionIsHeldAsOutput(t *testing.T) {
	t.Parallel()
	const text = `class User {\n  name: string;\n}\n`
	for _, test := range []struct {
		preset, fields string
		least, most    int64
		bound          string // the field that one is written to
	}{
		{"openai", `"prediction":{"type":"content","content":"` + text + `"}`, 33, 100, "max_tokens"},
		{"openai", `"prediction":{"type":"content","content":[{"type":"text","text":"` + text + `"}]}`, 33, 140, "max_tokens"},
		{"openai", `"n":3,"prediction":{"type":"content","content":"` + text + `"}`, 33, 100, "max_tokens"},
		{"openai", `"max_completion_tokens":50,"prediction":{"type":"content","content":"` + text + `"}`, 33, 100, "max_completion_tokens"},
		{"mistral", `"prediction":{"type":"content","content":"` + text + `"}`, 33, 100, "max_tokens"},
		{"openai", `"n":1`, 0, 0, "max_completion_tokens"},
	} {
		e, err := estimate(t, test.preset, "/v1/chat/completions", `{"model":"m","messages":[],`+test.fields+`}`)
		if err != nil || e.Predicted < test.least || e.Predicted > test.most {
			t.Errorf("%s: %s: %+v, %v", test.preset, test.fields, e, err)
			continue
		}
		if sent := string(asSent(e, 40)); !strings.Contains(sent, `"`+test.bound+`":40`) || strings.Count(sent, "tokens\":") != 1 {
			t.Errorf("%s: %s: sent on as %s", test.preset, test.fields, sent)
		}
	}
}
