package upstream

import (
	"errors"
	"strings"
	"testing"
)

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
		// DashScope's own parts have no type (help.aliyun.com, API reference of Qwen).
		{"a picture without a type", "openai", "/v1/chat/completions", chat(`{"image":"https://x/y.png"},{"text":"x"}`), 1, false},
		{"pictures without a type", "openai", "/v1/chat/completions", chat(`{"image":["https://x/1.png","https://x/2.png"]},{"text":"x"}`), 2, false},
		{"pictures without a type, as objects", "openai", "/v1/chat/completions", chat(`{"image":[{"url":"https://x/1.png"},{"bytes":"AAAA"}]}`), 2, false},
		{"pictures with a type", "vllm", "/v1/chat/completions", chat(`{"type":"image","image":["https://x/1.png","https://x/2.png"]}`), 2, false},
		{"a film without a type", "openai", "/v1/chat/completions", chat(`{"video":["https://x/1.png","https://x/2.png"]},{"text":"x"}`), 0, true},
		{"sound without a type", "openai", "/v1/chat/completions", chat(`{"audio":"https://x/y.mp3"}`), 0, true},
		{"text with a type, beside nothing", "openai", "/v1/chat/completions", chat(`{"type":"text","text":"x","audio":null,"video":null}`), 0, false},
		// prepare_input in router/src/validation.rs of text-generation-inference.
		{"pictures within text", "tgi", "/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"![](https://x/y.png) and \u0021\u005B]\u0028data:image/png;base64,AAAA)"}]}`, 2, false},
		{"a picture in text that comes in two parts", "tgi", "/v1/chat/completions", chat(`{"type":"text","text":"!["},{"type":"text","text":"](https://x/y.png)"}`), 1, false},
		{"a picture in text that comes in four parts", "tgi", "/v1/chat/completions", chat(`{"type":"text","text":"!"},{"type":"text","text":"\u005b"},{"type":"text","text":"]"},{"text":"(https://x/y.png) ![](https://x/z.png)","type":"text"}`), 2, false},
		{"no picture in text that comes in two parts", "vllm", "/v1/chat/completions", chat(`{"type":"text","text":"!["},{"type":"text","text":"](https://x/y.png)"}`), 0, false},
		{"a picture within a prompt", "tgi", "/v1/completions", `{"model":"m","prompt":"![](https://x/y.png)"}`, 1, false},
		{"no picture within text", "vllm", "/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"![](https://x/y.png)"}]}`, 0, false},
		// MultimodalEmbeddingInput there.
		{"a picture to embed", "sglang", "/v1/embeddings", `{"model":"m","input":[{"text":"x","image":"https://x/y.png"},{"text":"y","image":null}]}`, 1, false},
		{"a picture to embed that is in the request", "sglang", "/v1/embeddings", `{"model":"m","input":[{"image":"data:image/png;base64,` + picture + `"}]}`, 1, false},
		{"a list of pictures to embed", "openai", "/v1/embeddings", `{"model":"m","input":[{"image":["https://x/1.png","https://x/2.png"]}]}`, 2, false},
		{"pictures in a conversation to embed", "vllm", "/v1/embeddings", `{"model":"m","messages":[{"role":"user","content":[{"image":["https://x/1.png","https://x/2.png"]}]}]}`, 2, false},
		{"a picture in a conversation to embed that is in the request", "vllm", "/v1/embeddings", `{"model":"m","messages":[{"role":"user","content":[{"image":"data:image/png;base64,` + picture + `"}]}]}`, 1, false},
		{"a film where a picture in a conversation to embed is due", "sglang", "/v1/embeddings", `{"model":"m","messages":[{"role":"user","content":[{"image":"video:AAAA"}]}]}`, 1, true}, // and what an empty member may be
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

func TestWhatMayBeMoreThanItLooksIsBoundedByTheWindow(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("x", 100_000)
	for _, test := range []struct {
		name, preset, path, body string
		window                   bool
		atLeast                  int64
	}{
		{"a picture within text", "openai", "/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"![](data:image/png;base64,` + text + `)"}]}`, false, 100_000},
		{"a picture in a part that is text", "vllm", "/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"data:image/png;base64,` + text + `"}]}]}`, false, 100_000},
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
