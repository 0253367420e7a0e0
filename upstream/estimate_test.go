package upstream

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/text/unicode/norm"
)

func estimate(t testing.TB, name, path, body string) (*Estimate, error) {
	t.Helper()
	return preset(t, name).Estimate(&Call{Method: "POST", Path: path, ContentType: "application/json", Body: []byte(body)})
}

func TestEveryEndpointStatesItsBound(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, preset, path, body string
		stated, answers          int64
	}{
		{"chat", "openai", "/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"hi"}],"max_completion_tokens":100}`, 100, 1},
		{"chat, the old field", "openai", "/v1/chat/completions", `{"model":"m","messages":[],"max_tokens":100}`, 100, 1},
		{"chat, both", "openai", "/v1/chat/completions", `{"model":"m","messages":[],"max_tokens":100,"max_completion_tokens":300}`, 300, 1},
		{"chat, a field of another endpoint", "openai", "/v1/chat/completions", `{"model":"m","messages":[],"max_output_tokens":1}`, -1, 1},
		{"chat, a field that DeepSeek does not know", "deepseek", "/chat/completions", `{"model":"m","messages":[],"max_completion_tokens":1}`, -1, 1},
		// platform.claude.com/docs/en/api/openai-sdk: max_completion_tokens is fully supported.
		{"chat at Anthropic", "anthropic", "/v1/chat/completions", `{"model":"m","messages":[],"max_completion_tokens":50}`, 50, 1},
		{"chat at Anthropic, both", "anthropic", "/v1/chat/completions", `{"model":"m","messages":[],"max_tokens":100,"max_completion_tokens":300}`, 300, 1},
		{"chat at Anthropic, 0", "anthropic", "/v1/chat/completions", `{"model":"m","messages":[],"max_tokens":0}`, -1, 1},
		{"chat, a field that Ollama does not know", "ollama", "/v1/chat/completions", `{"model":"m","messages":[],"max_completion_tokens":1,"max_tokens":50}`, 50, 1},
		{"responses, a field of chat", "xai", "/v1/responses", `{"model":"m","input":"hi","max_tokens":1}`, -1, 1},
		{"chat, none", "openai", "/v1/chat/completions", `{"model":"m","messages":[],"max_tokens":null}`, -1, 1},
		{"several answers", "openai", "/v1/chat/completions", `{"model":"m","messages":[],"max_tokens":100,"n":3}`, 100, 3},
		{"completions of several prompts", "openai", "/v1/completions", `{"model":"m","prompt":["a","b"],"max_tokens":100,"n":2,"best_of":3}`, 100, 12},
		{"completions of tokens", "openai", "/v1/completions", `{"model":"m","prompt":[1,2,3],"max_tokens":100}`, 100, 1},
		{"responses", "openai", "/v1/responses", `{"model":"m","input":"hi","max_output_tokens":100}`, 100, 1},
		{"messages", "anthropic", "/v1/messages", `{"model":"m","messages":[],"max_tokens":100}`, 100, 1},
		{"messages at DeepSeek", "deepseek", "/anthropic/v1/messages", `{"model":"m","messages":[],"max_tokens":100}`, 100, 1},
		{"Gemini", "gemini", "/v1beta/models/m:generateContent", `{"contents":[],"generationConfig":{"maxOutputTokens":100,"candidateCount":2}}`, 100, 2},
		{"Gemini, none", "gemini", "/v1beta/models/m:streamGenerateContent", `{"contents":[]}`, -1, 1},
		{"Cohere", "cohere", "/v2/chat", `{"model":"m","messages":[],"max_tokens":100}`, 100, 1},
		{"Mistral", "mistral", "/v1/chat/completions", `{"model":"m","messages":[],"max_tokens":100}`, 100, 1},
		{"embeddings", "openai", "/v1/embeddings", `{"model":"m","input":["a","b"]}`, 0, 1},
	} {
		e, err := estimate(t, test.preset, test.path, test.body)
		if err != nil || e.Stated != test.stated || e.Answers != test.answers || e.Model != "m" {
			t.Errorf("%s: %+v, %v; want %d for each of %d", test.name, e, err, test.stated, test.answers)
			continue
		}
		if e.Input < int64(len(test.body)) || e.Input > int64(len(test.body))*2+16+preset(t, test.preset).ServerInput() {
			t.Errorf("%s: input %d of %d bytes", test.name, e.Input, len(test.body))
		}
	}
}

func TestInputThatItsLengthDoesNotBound(t *testing.T) {
	t.Parallel()
	picture := strings.Repeat("A", 100_000)
	chat := func(part string) string {
		return `{"model":"m","messages":[{"role":"user","content":[` + part + `]}]}`
	}
	for _, test := range []struct {
		name, preset, path, body string
		images                   int64
		window                   bool
	}{
		{"a picture", "openai", "/v1/chat/completions", chat(`{"type":"image_url","image_url":{"url":"data:image/png;base64,` + picture + `"}}`), 1, false},
		{"a picture by its address", "openai", "/v1/chat/completions", chat(`{"image_url":{"url":"https://x/y.png"},"type":"image_url"}`), 1, false},
		{"a picture of the Responses API", "openai", "/v1/responses", `{"model":"m","input":[{"role":"user","content":[{"type":"input_image","image_url":"data:image/png;base64,` + picture + `"}]}]}`, 1, false},
		{"a file", "openai", "/v1/chat/completions", chat(`{"type":"file","file":{"filename":"x.pdf","file_data":"data:application/pdf;base64,` + picture + `"}}`), 0, true},
		{"sound", "openai", "/v1/chat/completions", chat(`{"type":"input_audio","input_audio":{"data":"` + picture + `","format":"wav"}}`), 0, true},
		{"Anthropic's picture", "anthropic", "/v1/messages", chat(`{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + picture + `"}}`), 1, false},
		{"Anthropic's document", "anthropic", "/v1/messages", chat(`{"type":"document","source":{"data":"` + picture + `","type":"base64","media_type":"application/pdf"}}`), 0, true},
		{"a picture in a tool's result", "anthropic", "/v1/messages", chat(`{"type":"tool_result","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + picture + `"}}]}`), 1, false},
		// openrouter.ai/docs/guides/overview/multimodal/videos, docs.vllm.ai/en/latest/features/multimodal_inputs.html
		{"a film in chat", "openrouter", "/api/v1/chat/completions", chat(`{"type":"video_url","video_url":{"url":"data:video/mp4;base64,AAAA"}}`), 0, true},
		{"a film at an address", "vllm", "/v1/chat/completions", chat(`{"type":"video_url","video_url":{"url":"https://x/y.mp4"}}`), 1, true}, // and what its address may be
		{"sound at an address", "sglang", "/v1/chat/completions", chat(`{"type":"audio_url","audio_url":{"url":"https://x/y.mp3"}}`), 1, true},
		{"a film that the server has", "vllm", "/v1/chat/completions", chat(`{"type":"video_url","video_url":null,"uuid":"u"}`), 0, true},
		// SGLang cuts a picture into as many pieces as it is told, and takes some for films
		// (ChatCompletionMessageContentImageURL and …ImagePart in its protocol.py).
		{"a picture in pieces", "sglang", "/v1/chat/completions", chat(`{"type":"image_url","image_url":{"url":"https://x/y.png","max_dynamic_patch":1000}}`), 1, true},
		{"a picture in many pieces", "sglang", "/v1/chat/completions", chat(`{"type":"image_url","image_url":{"url":"https://x/y.png","min_dynamic_patch":1000}}`), 1, true},
		{"a picture in as many pieces as usual", "sglang", "/v1/chat/completions", chat(`{"type":"image_url","image_url":{"url":"https://x/y.png","max_dynamic_patch":null},"modalities":"image"}`), 1, false},
		{"a picture that is a film", "sglang", "/v1/chat/completions", chat(`{"type":"image_url","image_url":{"url":"https://x/y.png"},"modalities":"video"}`), 1, true},
		{"a film where a picture is due", "sglang", "/v1/chat/completions", chat(`{"type":"image_url","image_url":{"url":"video:AAAA"}}`), 1, true},
		// MultimodalEmbeddingInput there.
		{"a picture to embed", "sglang", "/v1/embeddings", `{"model":"m","input":[{"text":"x","image":"https://x/y.png"},{"text":"y","image":null}]}`, 1, false},
		{"a picture to embed that is in the request", "sglang", "/v1/embeddings", `{"model":"m","input":[{"image":"data:image/png;base64,` + picture + `"}]}`, 1, false},
		{"a list of pictures to embed", "openai", "/v1/embeddings", `{"model":"m","input":[{"image":["https://x/1.png","https://x/2.png"]}]}`, 2, false},
		{"a film where a picture to embed is due", "sglang", "/v1/embeddings", `{"model":"m","input":[{"image":"video:AAAA"}]}`, 0, true},
		{"a film to embed", "sglang", "/v1/embeddings", `{"model":"m","input":[{"text":"x","video":"https://x/y.mp4"}]}`, 0, true},
		{"sound to embed", "openai", "/v1/embeddings", `{"model":"m","input":[{"audio":"AAAA"}]}`, 0, true},
		{"Gemini's picture", "gemini", "/v1beta/models/m:generateContent", `{"contents":[{"parts":[{"inlineData":{"mimeType":"image/png","data":"` + picture + `"}}]}]}`, 1, false},
		{"Gemini's film", "gemini", "/v1beta/models/m:generateContent", `{"contents":[{"parts":[{"inline_data":{"mime_type":"video/mp4","data":"` + picture + `"}}]}]}`, 0, true},
	} {
		e, err := estimate(t, test.preset, test.path, test.body)
		if err != nil || e.Window != test.window {
			t.Errorf("%s: %+v, %v", test.name, e, err)
			continue
		}
		if images := e.Input / imageTokens; images != test.images {
			t.Errorf("%s: input %d, want that of %d pictures", test.name, e.Input, test.images)
		}
	}
}

func TestWhatCannotBeBoundedIsSaid(t *testing.T) {
	t.Parallel()
	const begin = `{"model":"m","messages":[],"input":"x",`
	for _, test := range []struct{ name, preset, path, body string }{
		{"an endpoint that is not known", "openai", "/v1/images/generations", `{"model":"m","prompt":"x"}`},
		{"speech", "openai", "/v1/audio/speech", `{"model":"m","input":"x"}`},
		{"another's tool", "openai", "/v1/responses", begin + `"tools":[{"type":"web_search"}]}`},
		{"a server's tool", "anthropic", "/v1/messages", begin + `"tools":[{"type":"web_search_20250305","name":"web_search"}]}`},
		{"Gemini's search", "gemini", "/v1beta/models/m:generateContent", `{"contents":[],"tools":[{"googleSearch":{}}]}`},
		{"an answer before, elsewhere", "openai", "/v1/chat/completions", begin + `"previous_response_id":"resp_1"}`},
		{"a conversation, elsewhere", "openai", "/v1/chat/completions", begin + `"conversation":"conv_1"}`},
		{"a stored prompt", "openai", "/v1/responses", `{"model":"m","prompt":{"id":"p"}}`},
		{"a stored file", "openai", "/v1/responses", `{"model":"m","input":[{"content":[{"type":"input_file","file_id":"f"}]}]}`},
		{"an item of before in a message", "openai", "/v1/responses", `{"model":"m","input":[{"role":"user","content":[{"type":"item_reference","id":"i"}]}]}`},
		{"an item of before that says more", "openai", "/v1/responses", `{"model":"m","input":[{"type":"item_reference","id":"i","content":"x"}]}`},
		{"the background", "openai", "/v1/responses", begin + `"background":true}`},
		{"sound as output", "openai", "/v1/chat/completions", begin + `"modalities":["text","audio"]}`},
		{"a search", "openai", "/v1/chat/completions", begin + `"web_search_options":{}}`},
		{"a field of tomorrow", "openai", "/v1/chat/completions", begin + `"think_much_harder":true}`},
		{"a tier that is not known", "openai", "/v1/chat/completions", begin + `"service_tier":"gold"}`},
		{"a speed", "anthropic", "/v1/messages", begin + `"speed":"fast"}`},
		{"an edit that writes", "anthropic", "/v1/messages", begin + `"context_management":{"edits":[{"type":"compact_20260112"}]}}`},
		{"an edit of two types", "anthropic", "/v1/messages", begin + `"context_management":{"edits":[{"type":"compact_20260112"},{"type":"clear_thinking_20251015"}]}}`},
		{"a summary in between", "openai", "/v1/responses", begin + `"context_management":[{"type":"compaction","compact_threshold":1000}]}`},
		{"pictures as output", "openai", "/v1/images/edits", `{"model":"m","prompt":"x"}`},
		{"reranking", "cohere", "/v2/rerank", `{"model":"rerank-v4.0-pro","query":"x","documents":["y"]}`},
		{"OCR", "mistral", "/v1/ocr", `{"model":"mistral-ocr-latest","document":{}}`},
		{"transcription", "groq", "/openai/v1/audio/transcriptions", `{"model":"whisper-large-v3"}`},
		{"a container", "anthropic", "/v1/messages", begin + `"container":"c"}`},
		{"a model that searches", "openrouter", "/api/v1/chat/completions", `{"model":"x:online","messages":[]}`},
		{"two models", "openrouter", "/api/v1/chat/completions", `{"model":"a","models":["b"],"messages":[]}`},
		{"no model", "openai", "/v1/chat/completions", `{"messages":[]}`},
		{"Gemini's stored content", "gemini", "/v1beta/models/m:generateContent", `{"contents":[],"cachedContent":"c"}`},
		{"Gemini's stored file", "gemini", "/v1beta/models/m:generateContent", `{"contents":[{"parts":[{"fileData":{"fileUri":"x"}}]}]}`},
		{"a picture as output", "gemini", "/v1beta/models/m:generateContent", `{"contents":[],"generationConfig":{"responseModalities":["IMAGE"]}}`},
		{"a model that searches always", "perplexity", "/chat/completions", `{"model":"sonar","messages":[]}`},
		{"content that is not known", "openai", "/v1/chat/completions", `{"model":"m","messages":[{"content":[{"type":"hologram"}]}]}`},
		{"more answers than anybody reads", "openai", "/v1/completions", `{"model":"m","prompt":["a","b","c"],"n":100,"max_tokens":5}`},
		// llama.cpp answers each of these, and reads their pictures (tools/server/README.md).
		{"prompts that hold more than text", "llamacpp", "/v1/completions", `{"model":"m","prompt":[{"prompt_string":"a","multimodal_data":["AAAA"]},{"prompt_string":"b"}],"max_tokens":5}`},
		{"one of them among texts", "llamacpp", "/v1/completions", `{"model":"m","prompt":["a",{"prompt_string":"b"}],"max_tokens":5}`},
		{"one of them in a list of tokens", "llamacpp", "/v1/completions", `{"model":"m","prompt":[[1,{"prompt_string":"b"}]],"max_tokens":5}`},
		{"answers that overflow", "openai", "/v1/completions", `{"model":"m","prompt":"a","n":128,"best_of":128,"num_generations":128,"max_tokens":2147483647}`},
		{"Gemini's field in a chat", "together", "/v1/chat/completions", `{"model":"m","messages":[],"generationConfig":{"maxOutputTokens":1}}`},
		{"a stored item of no type that says more", "openai", "/v1/responses", `{"model":"m","input":[{"id":"msg_1","type":null,"content":"x"}]}`},
		{"sound that was said before", "openai", "/v1/chat/completions", `{"model":"m","messages":[{"role":"assistant","audio":{"id":"audio_1"}}]}`},
		{"a part of two types", "openai", "/v1/chat/completions", `{"model":"m","messages":[{"content":[{"type":"image_url","type":"text"}]}]}`},
		{"a part of two media types", "anthropic", "/v1/messages", `{"model":"m","messages":[{"content":[{"type":"document","source":{"type":"base64","media_type":"application/pdf","media_type":"image/png","data":"AAAA"}}]}]}`},
		{"a prompt that is repeated", "ollama", "/api/generate", `{"model":"m","prompt":"x","template":"{{.Prompt}}{{.Prompt}}"}`},
		{"a picture in another case", "ollama", "/api/chat", `{"model":"m","messages":[{"Images":["AAAA"]}]}`},
		{"a file in another case", "mistral", "/v1/chat/completions", `{"model":"m","messages":[{"content":[{"type":"file","File_Id":"x"}]}]}`},
		{"a type in another case", "groq", "/openai/v1/chat/completions", `{"model":"m","messages":[{"content":[{"Type":"video"}]}]}`},
		{"a picture's address in another case", "cohere", "/v2/chat", `{"model":"m","messages":[{"content":[{"type":"image_url","Image_URL":{"url":"https://x/y"}}]}]}`},
		{"stored settings", "openrouter", "/api/v1/chat/completions", `{"model":"x@preset/y","messages":[]}`},
		{"too deep", "openai", "/v1/chat/completions", `{"model":"m","messages":` + strings.Repeat("[", 300) + strings.Repeat("]", 300) + `}`},
	} {
		if e, err := estimate(t, test.preset, test.path, test.body); !errors.Is(err, ErrNotMeterable) {
			t.Errorf("%s: %+v, %v", test.name, e, err)
		}
	}
	for name, body := range map[string]string{
		"a bound below zero": begin + `"max_tokens":-5}`, "a bound that is text": begin + `"max_tokens":"5"}`, "half a token": begin + `"max_tokens":1.5}`,
		"a tool's type in another case": begin + `"tools":[{"Type":"web_search","name":"x"}]}`,
		"a tool of two types":           begin + `"tools":[{"type":"web_search","type":"function"}]}`,
		"a bound twice":                 begin + `"max_tokens":5,"max_tokens":5000}`, "a bound in another case": begin + `"max_tokens":5,"Max_Tokens":5000}`,
		"too many answers": begin + `"n":100000}`, "wrong JSON": begin,
	} {
		if e, err := estimate(t, "openai", "/v1/chat/completions", body); !errors.Is(err, ErrBody) && !errors.Is(err, ErrNotMeterable) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
	if _, err := estimate(t, "gemini", "/v1beta/models/m:generateContent", `{"contents":[],"generationConfig":{"maxOutputTokens":5,"max_output_tokens":5000}}`); !errors.Is(err, ErrBody) {
		t.Errorf("two of Gemini's bounds: %v", err)
	}
	if e, err := preset(t, "gemini").Estimate(&Call{Method: "GET", Path: "/v1beta/models/m:generateContent"}); !errors.Is(err, ErrNotMeterable) {
		t.Errorf("generating by GET: %+v, %v", e, err)
	}
	if e, err := preset(t, "openai").Estimate(&Call{Method: "GET", Path: "/v1/models/m"}); e != nil || err != nil {
		t.Errorf("looking at a model: %+v, %v", e, err)
	}
}

// TestTextThatGrowsIsCountedAsItIsRead: tokenizers that convert it to NFC first read
// three characters for some.
func TestTextThatGrowsIsCountedAsItIsRead(t *testing.T) {
	t.Parallel()
	chat := func(text string) string { return `{"model":"m","messages":[{"role":"user","content":"` + text + `"}]}` }
	for _, s := range []string{"\U0001d160", "\U0001d1c0", "\ufb2c", "\u0958", "\u0344"} {
		text := strings.Repeat(s, 1000)
		e, err := estimate(t, "together", "/v1/chat/completions", chat(text))
		if grown := int64(len(norm.NFC.String(text))); err != nil || e.Input < grown {
			t.Errorf("%q: %d tokens, and %d bytes are read: %v", s, e.Input, grown, err)
		}
	}
}

func TestApplicationsOwnDataIsText(t *testing.T) {
	t.Parallel()
	for preset, body := range map[string]string{
		"anthropic": `{"model":"m","max_tokens":5,"messages":[{"role":"assistant","content":[{"type":"tool_use","id":"t","name":"open","input":{"type":"anything","file_id":"f","url":"https://x"}}]}],"tools":[{"name":"open","input_schema":{"type":"object","properties":{"file_id":{"type":"string"}}}},{"type":"bash_20250124","name":"bash"}]}`,
		"openai":    `{"model":"m","max_tokens":5,"messages":[],"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],"response_format":{"type":"json_schema"}}`,
	} {
		path := map[string]string{"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}[preset]
		e, err := estimate(t, preset, path, body)
		if err != nil || e.Window || e.Input > int64(len(body))*2+toolsTokens+256 {
			t.Errorf("%s: %+v, %v", preset, e, err)
		}
	}
}

// TestAgentsAreMetered has requests of the form that Claude Code and Codex send.
func TestAgentsAreMetered(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, preset, path, body string
		stated                   int64
		hour                     bool
	}{
		{"Claude Code", "anthropic", "/v1/messages", `{"model":"claude-sonnet-5-5","max_tokens":32000,"stream":true,"metadata":{"user_id":"u"},"thinking":{"type":"adaptive"},
			"system":[{"type":"text","text":"You are an agent.","cache_control":{"type":"ephemeral","ttl":"1h"}}],"output_config":{"effort":"high"},
			"messages":[{"role":"user","content":[{"type":"text","text":"hi","cache_control":{"type":"ephemeral"}}]},
				{"role":"assistant","content":[{"type":"thinking","thinking":"so","signature":"AA"},{"type":"tool_use","id":"t","name":"Bash","input":{"command":"ls"},"caller":{"type":"direct"}}]},
				{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":"x"}]}],
			"tools":[{"name":"Bash","description":"runs","input_schema":{"type":"object","properties":{"command":{"type":"string"}}}}],
			"context_management":{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]}}`, 32000, true},
		{"Codex", "openai", "/v1/responses", `{"model":"gpt-6-sol","instructions":"You are an agent.","tool_choice":"auto","parallel_tool_calls":false,"store":false,"stream":true,
			"reasoning":{"effort":"medium","summary":"auto"},"include":["reasoning.encrypted_content"],"prompt_cache_key":"k","text":{"verbosity":"low"},"client_metadata":{"x":"y"},
			"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"hi"}]},{"type":"reasoning","summary":[],"encrypted_content":"AA"},
				{"type":"function_call","name":"shell","arguments":"{}","call_id":"c"},{"type":"function_call_output","call_id":"c","output":"x"},
				{"type":"custom_tool_call","call_id":"d","name":"apply_patch","input":"x"},{"type":"custom_tool_call_output","call_id":"d","output":"ok"}],
			"tools":[{"type":"function","name":"shell","parameters":{"type":"object"},"strict":false},{"type":"custom","name":"apply_patch","format":{"type":"grammar","syntax":"lark","definition":"x"}},{"type":"local_shell"}]}`, -1, false},
	} {
		e, err := estimate(t, test.preset, test.path, test.body)
		if err != nil || e.Stated != test.stated || !e.Stream || e.CachedHour != test.hour || e.Window || e.Input > 2*int64(len(test.body))+toolsTokens+256 {
			t.Errorf("%s: %+v, %v", test.name, e, err)
		}
	}
}

func TestBodiesAreFittedAndElseUntouched(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, preset, path, body, want string }{
		{"none stated", "openai", "/v1/chat/completions", `{"model":"m","messages":[]}`, `{"max_completion_tokens":300,"model":"m","messages":[]}`},
		{"one stated", "openai", "/v1/chat/completions", `{"model":"m", "max_tokens" : 9000 ,"messages":[1.50]}`, `{"model":"m", "max_tokens" : 300 ,"messages":[1.50]}`},
		{"both stated", "openai", "/v1/chat/completions", `{"model":"m","max_tokens":9000,"max_completion_tokens":8000}`, `{"model":"m","max_tokens":300,"max_completion_tokens":300}`},
		{"a bound of 0", "openai", "/v1/chat/completions", `{"model":"m","max_tokens":0}`, `{"model":"m","max_tokens":300}`},
		{"Ollama, none", "ollama", "/api/chat", `{"model":"m","messages":[{}]}`, `{"options":{"num_predict":300},"model":"m","messages":[{}]}`},
		{"nothing bounds it", "together", "/v1/chat/completions", `{"model":"m","max_tokens":-1}`, `{"model":"m","max_tokens":300}`},
		{"nothing bounds it, the old field", "openai", "/v1/chat/completions", `{"model":"m","max_tokens":-1,"max_completion_tokens":9000}`, `{"model":"m","max_tokens":300,"max_completion_tokens":300}`},
		{"Ollama, without end", "ollama", "/api/generate", `{"model":"m","prompt":"x","options":{"seed":1,"num_predict":-1}}`, `{"model":"m","prompt":"x","options":{"seed":1,"num_predict":300}}`},
		{"another vendor", "groq", "/openai/v1/chat/completions", `{"model":"m"}`, `{"max_tokens":300,"model":"m"}`},
		{"responses", "openai", "/v1/responses", `{"model":"m","input":"x"}`, `{"max_output_tokens":300,"model":"m","input":"x"}`},
		{"messages", "anthropic", "/v1/messages", `{"max_tokens":5000,"model":"m"}`, `{"max_tokens":300,"model":"m"}`},
		{"Gemini, none", "gemini", "/v1beta/models/m:generateContent", `{"contents":[]}`, `{"generationConfig":{"maxOutputTokens":300},"contents":[]}`},
		{"Gemini, in another writing", "gemini", "/v1beta/models/m:generateContent", `{"contents":[],"generation_config":{"topK":1}}`, `{"contents":[],"generation_config":{"maxOutputTokens":300,"topK":1}}`},
		{"a stream", "openai", "/v1/chat/completions", `{"model":"m","stream":true}`, `{"stream_options":{"include_usage":true},"max_completion_tokens":300,"model":"m","stream":true}`},
		{"a stream with options", "openai", "/v1/chat/completions", `{"model":"m","stream":true,"stream_options":{"include_usage":false,"include_obfuscation":true}}`, `{"max_completion_tokens":300,"model":"m","stream":true,"stream_options":{"include_usage":true,"include_obfuscation":true}}`},
		{"a stream that asks", "openai", "/v1/chat/completions", `{"model":"m","stream":true,"stream_options":{"include_usage":true}}`, `{"max_completion_tokens":300,"model":"m","stream":true,"stream_options":{"include_usage":true}}`},
		{"a stream of a vendor that always tells", "groq", "/openai/v1/chat/completions", `{"model":"m","stream":true}`, `{"max_tokens":300,"model":"m","stream":true}`},
	} {
		e, err := estimate(t, test.preset, test.path, test.body)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if got := asSent(e, 300); string(got) != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.name, got, test.want)
		}
	}
}

// asSent is the whole body.
func asSent(e *Estimate, output int64) []byte { return slices.Concat(e.Rewrite(output)...) }

func FuzzEstimate(f *testing.F) {
	f.Add([]byte(`{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"x"}]}],"max_tokens":5,"stream":true}`), byte(0))
	f.Add([]byte(`{"contents":[{"parts":[{"inlineData":{"mimeType":"image/png","data":"AA"}}]}],"generationConfig":{"maxOutputTokens":5}}`), byte(1))
	f.Add([]byte(`{"model":"m","max_tokens":5,"system":[{"type":"text","text":"x","cache_control":{"type":"ephemeral","ttl":"1h"}}]}`), byte(2))
	f.Add([]byte(`{"model":"m","messages":[],"n":2,"prediction":{"type":"content","content":[{"type":"text","text":"x\u00e9"}]},"max_completion_tokens":5}`), byte(0))
	f.Add([]byte(`{"model":"m","messages":[],"prediction":{"content":"x","type":"content"}}`), byte(0))
	f.Add([]byte(`{"model":"m","max_tokens":5,"tools":[{"name":"f","defer_loading":true,"input_schema":{}}],"messages":[{"role":"user","content":[{"type":"tool_result","content":[{"type":"tool_reference","tool_name":"f"}]},{"type":"web_search_result","url":"https://x"}]}]}`), byte(2))
	f.Add([]byte(`{"model":"m","input":[{"type":"additional_tools","tools":[{"type":"namespace","tools":[{"type":"function","name":"f"}]}]},{"type":"shell_call_output","output":[{"outcome":{"type":"exit"}}]}]}`), byte(3))
	f.Add([]byte(`{"model":"m","messages":[{"role":"assistant","annotations":[{"type":"file","file":{"content":[{"type":"text","text":"x"}]}}],"reasoning_details":[{"type":"reasoning.text"}]}]}`), byte(0))
	paths := []struct{ preset, path string }{{"openai", "/v1/chat/completions"}, {"gemini", "/v1beta/models/m:generateContent"}, {"anthropic", "/v1/messages"}, {"openai", "/v1/responses"}}
	f.Fuzz(func(t *testing.T, body []byte, which byte) {
		to := paths[int(which)%len(paths)]
		c := &Call{Method: "POST", Path: to.path, ContentType: "application/json", Body: body}
		e, err := preset(t, to.preset).Estimate(c)
		if err != nil {
			return
		}
		if e.Input < 0 || e.Predicted < 0 || e.Predicted > e.Input || e.Answers < 1 || e.Permille < 1000 {
			t.Fatalf("%q: %+v", body, e)
		}
		if to.preset != "gemini" {
			judgeByOracle(t, body, e)
		}
		fitted := asSent(e, 7)
		if !json.Valid(fitted) {
			t.Fatalf("%q becomes %q", body, fitted)
		}
		again, err := preset(t, to.preset).Estimate(&Call{Method: "POST", Path: to.path, ContentType: "application/json", Body: fitted})
		if err != nil || again.Stated != 7 || again.Answers != e.Answers || again.Predicted != e.Predicted || again.askUsage {
			t.Errorf("%q becomes %q: %+v, %v", body, fitted, again, err)
		}
	})
}

func BenchmarkEstimate(b *testing.B) {
	p := preset(b, "openai")
	body := []byte(`{"model":"m","messages":[{"role":"user","content":"hi"}],"max_completion_tokens":100}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Estimate(&Call{Method: "POST", Path: "/v1/chat/completions", ContentType: "application/json", Body: body}); err != nil {
			b.Fatal(err)
		}
	}
}

func TestWhatMayBeMoreThanItLooksIsBoundedByTheWindow(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("x", 100_000)
	for _, test := range []struct {
		name, preset, path, body string
		window                   bool
		atLeast                  int64
	}{
		{"Cohere's documents are text", "cohere", "/v2/chat", `{"model":"m","messages":[],"documents":[{"data":{"data":"` + text + `","mime_type":"image/png"}}]}`, true, 100_000},
		{"Cohere's documents with an address", "cohere", "/v2/chat", `{"model":"m","messages":[],"documents":[{"data":{"url":"data:image/` + text + `"}}]}`, false, 100_000},
		{"sound by its address", "mistral", "/v1/chat/completions", `{"model":"m","messages":[{"content":[{"type":"input_audio","input_audio":"https://x/3hours.mp3"}]}]}`, true, 0},
		{"thoughts that are here", "openai", "/v1/responses", `{"model":"m","input":[{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"x"}]}`, false, 0},
		{"a document with an escaped address", "openai", "/v1/chat/completions", `{"model":"m","messages":[{"content":[{"type":"image_url","image_url":{"url":"\u0064ata:application/pdf;base64,AAAA"}}]}]}`, true, 0},
		{"a document with a large address", "openai", "/v1/chat/completions", `{"model":"m","messages":[{"content":[{"type":"image_url","image_url":{"url":"DATA:application/pdf;base64,AAAA"}}]}]}`, true, 0},
		{"a picture, written large", "openai", "/v1/chat/completions", `{"model":"m","messages":[{"content":[{"type":"image_url","image_url":{"url":"Data:Image/PNG;base64,AAAA"}}]}]}`, false, imageTokens},
		{"a picture that vLLM has", "vllm", "/v1/chat/completions", `{"model":"m","messages":[{"content":[{"type":"text","text":"x","uuid":"u","image_url":null}]}]}`, false, imageTokens},
		{"a picture that vLLM has, of no type", "vllm", "/v1/chat/completions", `{"model":"m","messages":[{"content":[{"uuid":"u","image_embeds":null}]}]}`, false, imageTokens},
		{"sound that vLLM has", "vllm", "/v1/chat/completions", `{"model":"m","messages":[{"content":[{"uuid":"u","audio_embeds":null}]}]}`, true, 0},
		{"a film that vLLM has", "vllm", "/v1/chat/completions", `{"model":"m","messages":[{"content":[{"uuid":"u","video_url":null}]}]}`, true, 0},
		{"a film's features that vLLM has", "vllm", "/v1/chat/completions", `{"model":"m","messages":[{"content":[{"uuid":"u","video_embeds":null}]}]}`, true, 0},
		{"a picture without an address that vLLM has", "vllm", "/v1/chat/completions", `{"model":"m","messages":[{"content":[{"type":"text","text":"x","uuid":"u","image_url":{"detail":"auto"}}]}]}`, false, imageTokens},
		{"a picture of as many tokens as it says", "gemini", "/v1beta/models/m:generateContent", `{"contents":[{"parts":[{"inlineData":{"mimeType":"image/png","data":"AAAA"},"mediaResolution":{"numTokens":900000}}]}]}`, true, imageTokens},
		{"an address that may be a film's", "gemini", "/v1beta/openai/chat/completions", `{"model":"m","messages":[{"content":[{"type":"image_url","image_url":{"url":"https://x/y"}}]}]}`, true, imageTokens},
	} {
		e, err := estimate(t, test.preset, test.path, test.body)
		if err != nil || e.Window != test.window || e.Input < test.atLeast {
			t.Errorf("%s: %+v, %v", test.name, e, err)
		}
	}
	for preset, window := range map[string]bool{"fireworks": true, "openai": true} {
		if e, err := estimate(t, preset, "/v1/chat/completions", `{"model":"m","messages":[{"content":[{"type":"image_url","image_url":{"url":"https://x/long.pdf#transform=inline"}}]}]}`); err != nil || e.Window != window {
			t.Errorf("a document that %s reads: %+v, %v", preset, e, err)
		}
	}
	if e, err := estimate(t, "anthropic", "/v1/messages", `{"model":"m","max_tokens":5,"messages":[{"role":"assistant","content":[{"type":"redacted_thinking","data":"`+text+`"}]}]}`); err != nil || e.Window || e.Input < 100_000 {
		t.Errorf("thoughts that nobody may read: %+v, %v", e, err)
	}
	if e, err := estimate(t, "cohere", "/v2/chat", `{"model":"m","messages":[],"documents":[{"data":{"URL":"https://x","Format":"x"}}]}`); err != nil {
		t.Errorf("an application's own fields: %+v, %v", e, err)
	}
	e, err := estimate(t, "anthropic", "/v1/messages", `{"model":"m","max_tokens":5,"messages":[],"tools":[{"name":"f","input_schema":{},"cache_control":{"type":"ephemeral","ttl":"1h"}}]}`)
	if err != nil || !e.Cached || !e.CachedHour {
		t.Errorf("a tool that is written to a cache: %+v, %v", e, err)
	}
	if e, err = estimate(t, "gemini", "/v1beta/openai/chat/completions", `{"model":"m","messages":[],"max_tokens":5,"tools":[{"type":"function","function":{"name":"f"}}]}`); err != nil {
		t.Errorf("a client's tool by Gemini's other path: %+v, %v", e, err)
	}
}

// TestWhatIsNotSetHoldsNothing: some clients write all members that a type has, as null
// where they are not set. Only beside a "uuid", or without a type, does null stand for
// media that vLLM has.
func TestWhatIsNotSetHoldsNothing(t *testing.T) {
	t.Parallel()
	const chat = "/v1/chat/completions"
	for _, test := range []struct {
		preset, path, part string
		pictures           bool
	}{
		{"vllm", chat, `{"type":"text","text":"x","image_url":null,"audio_url":null,"video_url":null,"input_audio":null,"image_pil":null,"image_embeds":null,"audio_embeds":null,"video_embeds":null,"uuid":null}`, false},
		{"openai", chat, `{"type":"text","text":"x","image_url":null,"video_url":null,"file":null}`, false},
		{"openai", chat, `{"type":"image_url","text":null,"video_url":null,"image_url":{"url":"data:image/png;base64,AAAA"}}`, true},
		{"openai", "/v1/responses", `{"type":"input_text","text":"x","image_url":null,"file_url":null}`, false},
		{"gemini", "", `{"inlineData":{"mimeType":"image/png","data":"AAAA"},"mediaResolution":{"level":"MEDIA_RESOLUTION_HIGH","numTokens":null},"mediaProcessing":null}`, true},
	} {
		path, body := test.path, `{"model":"m","messages":[{"role":"user","avatar_url":null,"content":[`+test.part+`]}]}`
		switch test.path {
		case "":
			path, body = "/v1beta/models/m:generateContent", `{"contents":[{"parts":[`+test.part+`]}]}`
		case "/v1/responses":
			body = `{"model":"m","input":[{"role":"user","content":[` + test.part + `]}]}`
		}
		e, err := estimate(t, test.preset, path, body)
		if err != nil {
			t.Errorf("%s: %s: %v", test.preset, test.part, err)
		} else if most := int64(5000 + imageTokens); e.Media || e.Window || e.remote || e.Pictures != test.pictures || e.Input > most || !test.pictures && e.Input > 5000 {
			t.Errorf("%s: %s: %d tokens, pictures %v, media %v, window %v, remote %v", test.preset, test.part, e.Input, e.Pictures, e.Media, e.Window, e.remote)
		}
	}
}

// TestADocumentThatXAISearchesIsNotMetered: a file in a message starts the vendor's tool
// attachment_search, which has rounds and a fee for each
// (docs.x.ai/docs/guides/files/chat-with-files, docs.x.ai/developers/pricing).
func TestADocumentThatXAISearchesIsNotMetered(t *testing.T) {
	t.Parallel()
	const pdf = `"data:application/pdf;base64,AAAA"`
	for _, test := range []struct {
		name, path, part string
		metered          bool
	}{
		{"a file of the Responses API", "/v1/responses", `{"type":"input_file","filename":"x.pdf","file_data":` + pdf + `}`, false},
		{"a file of plain text", "/v1/responses", `{"type":"input_file","filename":"x.txt","file_data":"data:text/plain;base64,AAAA"}`, false},
		{"a file at an address", "/v1/responses", `{"type":"input_file","file_url":"https://example.com/x.pdf"}`, false},
		{"a file without a type", "/v1/responses", `{"file_data":` + pdf + `}`, false},
		{"a file of chat completions", "/v1/chat/completions", `{"type":"file","file":{"filename":"x.pdf","file_data":` + pdf + `}}`, false},
		{"a file where a picture is due", "/v1/chat/completions", `{"type":"image_url","image_url":{"url":` + pdf + `}}`, false},
		{"a document of Anthropic's form", "/v1/messages", `{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"AAAA"}}`, false},
		{"a picture", "/v1/responses", `{"type":"input_image","image_url":"data:image/png;base64,AAAA"}`, true},
		{"text about a file", "/v1/responses", `{"type":"input_text","text":"input_file, file_data"}`, true},
	} {
		list := "messages"
		if speaksResponses(test.path) {
			list = "input"
		}
		_, err := estimate(t, "xai", test.path, `{"model":"grok-4.6","`+list+`":[{"role":"user","content":[`+test.part+`]}]}`)
		if (err == nil) != test.metered || err != nil && !errors.Is(err, ErrNotMeterable) {
			t.Errorf("%s: %v", test.name, err)
		}
		if err != nil && !strings.Contains(err.Error(), "document") && !strings.Contains(err.Error(), "file_url") {
			t.Errorf("%s: %v does not say what to do", test.name, err)
		}
	}
}

// TestEachContentWithAnEmbeddingMayFillTheWindow: the window bounds one embedding
// (https://ai.google.dev/api/embeddings, EmbedContentRequest), of which a batch has many.
func TestEachContentWithAnEmbeddingMayFillTheWindow(t *testing.T) {
	t.Parallel()
	const film = `{"model":"models/m","content":{"parts":[{"inlineData":{"mimeType":"video/mp4","data":"AAAA"}}]}}`
	const text = `{"model":"models/m","content":{"parts":[{"text":"hi"}]}}`
	for _, test := range []struct {
		name, preset, path, body string
		window                   bool
		rounds                   int64
	}{
		{"films", "gemini", "/v1beta/models/m:batchEmbedContents", `{"requests":[` + strings.Repeat(film+",", 99) + film + `]}`, true, 100},
		{"a film among texts", "gemini", "/v1beta/models/m:batchEmbedContents", `{"requests":[` + text + "," + film + "," + text + `]}`, true, 3},
		{"one film", "gemini", "/v1beta/models/m:embedContent", `{"content":{"parts":[{"inlineData":{"mimeType":"video/mp4","data":"AAAA"}}]}}`, true, 0},
		{"texts", "gemini", "/v1beta/models/m:batchEmbedContents", `{"requests":[` + text + "," + text + `]}`, false, 0},
		{"texts of OpenAI's", "openai", "/v1/embeddings", `{"model":"m","input":["a","b"]}`, false, 0},
		{"sounds of OpenRouter's", "openrouter", "/api/v1/embeddings", `{"model":"m","input":[{"content":[{"type":"input_audio","input_audio":{"data":"AAAA"}}]},{"content":[{"type":"text","text":"x"}]}]}`, true, 2},
		// tools/server/README.md of llama.cpp.
		{"pictures of llama.cpp's", "llamacpp", "/v1/embeddings", `{"model":"m","input":[{"prompt_string":"<__media__>","multimodal_data":["AAAA"]},"x"]}`, true, 2},
		{"pictures in the other field of llama.cpp's", "llamacpp", "/v1/embeddings", `{"model":"m","content":[{"prompt_string":"<__media__>","multimodal_data":["AAAA"]},"x","y"]}`, true, 3},
		{"a picture of llama.cpp's", "llamacpp", "/v1/embeddings", `{"model":"m","input":{"prompt_string":"<__media__>","multimodal_data":["AAAA"]}}`, true, 0},
		{"the input of a response is one", "openai", "/v1/responses", `{"model":"m","input":[{"content":[{"type":"input_audio","input_audio":{"data":"AAAA"}}]},{"content":"x"}]}`, true, 0},
	} {
		e, err := estimate(t, test.preset, test.path, test.body)
		if err != nil || e.Window != test.window || e.Rounds != test.rounds {
			t.Errorf("%s: %+v, %v", test.name, e, err)
		}
	}
}
