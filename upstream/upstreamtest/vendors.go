package upstreamtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// answer sends a valid answer in the vendor's form.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, body []byte) {
	var ask struct {
		Model   string `json:"model"`
		Stream  bool   `json:"stream"`
		Options struct {
			Usage bool `json:"include_usage"`
		} `json:"stream_options"`
	}
	if len(body) > 0 && strings.Contains(r.Header.Get("Content-Type"), "json") {
		if err := json.Unmarshal(body, &ask); err != nil {
			s.violate("%s %s: the body is no JSON: %v", r.Method, r.URL.Path, err)
			s.fail(w, http.StatusBadRequest, "the body is no JSON")
			return
		}
	}
	path := r.URL.Path
	post := r.Method == http.MethodPost
	// Below this prefix the vendor speaks OpenAI's protocol.
	spoken, speaksOpenAI := prefixes[s.vendor]
	openAI, below := strings.CutPrefix(path, spoken)
	speaksOpenAI = speaksOpenAI && below && post
	switch {
	case s.vendor == Any:
		s.json(w, object{"path": path, "method": r.Method})
	case speaksOpenAI && openAI == "/chat/completions" && ask.Stream:
		last := object{
			"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
			"choices": []object{{"index": 0, "delta": object{"content": ""}, "finish_reason": "stop"}},
		}
		usage := object{"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
		switch s.vendor { // these report usage without being asked
		case Mistral, "openrouter", "together":
			last["usage"] = usage
		case "groq":
			last["x_groq"] = object{"id": "req_1", "usage": usage}
		}
		end := event("", last)
		if ask.Options.Usage {
			end += event("", object{"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": []any{}, "usage": usage})
		}
		s.stream(w, r, openAIChunk, end+"data: [DONE]\n\n")
	case speaksOpenAI && openAI == "/chat/completions":
		s.json(w, object{
			"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": ask.Model,
			"choices": []object{{"index": 0, "finish_reason": "stop", "message": object{"role": "assistant", "content": "hello"}}},
			"usage":   object{"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
		})
	case speaksOpenAI && openAI == "/responses" && ask.Stream:
		s.stream(w, r, responsesChunk, event("response.completed", object{"type": "response.completed", "sequence_number": 99, "response": response("m", "completed")}))
	case speaksOpenAI && openAI == "/responses":
		s.json(w, response(ask.Model, "completed"))
	case s.vendor == OpenAI && post && path == "/v1/responses/input_tokens":
		s.json(w, object{"object": "response.input_tokens", "input_tokens": 5})
	case s.vendor == Cohere && post && path == "/v2/chat" && ask.Stream:
		s.stream(w, r, cohereChunk, event("content-end", object{"type": "content-end", "index": 0})+
			event("message-end", object{"type": "message-end", "delta": object{"finish_reason": "COMPLETE", "usage": cohereUsage}}))
	case s.vendor == Cohere && post && path == "/v2/chat":
		s.json(w, object{
			"id": "c-1", "finish_reason": "COMPLETE", "usage": cohereUsage,
			"message": object{"role": "assistant", "content": []object{{"type": "text", "text": "hello"}}},
		})
	case s.vendor == Anthropic && post && path == "/v1/messages" && ask.Stream:
		s.stream(w, r, anthropicChunk, event("content_block_stop", object{"type": "content_block_stop", "index": 0})+
			event("message_delta", object{"type": "message_delta", "delta": object{"stop_reason": "end_turn", "stop_sequence": nil}, "usage": object{"output_tokens": 2}})+
			"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")
	case s.vendor == Anthropic && post && path == "/v1/messages":
		s.json(w, object{
			"id": "msg_1", "type": "message", "role": "assistant", "model": ask.Model, "stop_reason": "end_turn", "stop_sequence": nil,
			"content": []object{{"type": "text", "text": "hello"}}, "usage": object{"input_tokens": 5, "output_tokens": 2},
		})
	case s.vendor == Anthropic && post && path == "/v1/messages/count_tokens":
		s.json(w, object{"input_tokens": 5})
	case s.vendor == Gemini && post && strings.HasSuffix(path, ":generateContent"):
		s.json(w, geminiChunk("hello"))
	case s.vendor == Gemini && post && strings.HasSuffix(path, ":countTokens"):
		s.json(w, object{"totalTokens": 5})
	case s.vendor == Gemini && post && strings.HasSuffix(path, ":streamGenerateContent"):
		s.stream(w, r, func(i int, text string) string { return event("", geminiChunk(text)) }, "")
	case r.Method == http.MethodGet && strings.HasSuffix(path, "/models"):
		s.json(w, object{"object": "list", "data": []object{{"id": "m-1", "object": "model"}, {"id": "m-2", "object": "model"}}, "models": []object{{"name": "models/m-1"}, {"name": "models/m-2"}}})
	default:
		s.violate("unknown path %s %s", r.Method, path)
		s.fail(w, http.StatusNotFound, "unknown path "+path)
	}
}

type object = map[string]any

// prefixes are where the paths of OpenAI's protocol begin.
var prefixes = map[Vendor]string{
	OpenAI: "/v1", Mistral: "/v1", "openrouter": "/api/v1", "groq": "/openai/v1", "together": "/v1", "fireworks": "/inference/v1",
	"perplexity": "", "deepseek": "/v1", "xai": "/v1", "ollama": "/v1",
	"vllm": "/v1", "llamacpp": "/v1", "lmstudio": "/v1", "tgi": "/v1", "sglang": "/v1",
}

// response is an answer of OpenAI's Responses API, which reports its usage once it is
// complete.
func response(model, status string) object {
	var usage object
	if status == "completed" {
		usage = object{"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
	}
	return object{
		"id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": model,
		"output": []object{{"id": "msg_1", "type": "message", "role": "assistant", "status": status,
			"content": []object{{"type": "output_text", "text": "hello", "annotations": []any{}}}}},
		"usage": usage,
	}
}

func responsesChunk(i int, text string) string {
	s := ""
	if i == 0 {
		s = event("response.created", object{"type": "response.created", "sequence_number": 0, "response": response("m", "in_progress")}) +
			event("response.output_item.added", object{"type": "response.output_item.added", "sequence_number": 1, "output_index": 0,
				"item": object{"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []any{}}})
	}
	return s + event("response.output_text.delta", object{"type": "response.output_text.delta", "sequence_number": 2 + i,
		"item_id": "msg_1", "output_index": 0, "content_index": 0, "delta": text})
}

var cohereUsage = object{
	"billed_units": object{"input_tokens": 5, "output_tokens": 2},
	"tokens":       object{"input_tokens": 9, "output_tokens": 4},
}

func cohereChunk(i int, text string) string {
	s := ""
	if i == 0 {
		s = event("message-start", object{"type": "message-start", "id": "c-1", "delta": object{"message": object{"role": "assistant", "content": []any{}}}}) +
			event("content-start", object{"type": "content-start", "index": 0, "delta": object{"message": object{"content": object{"type": "text", "text": ""}}}})
	}
	return s + event("content-delta", object{"type": "content-delta", "index": 0, "delta": object{"message": object{"content": object{"text": text}}}})
}

func (s *Server) json(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	write(w, v)
}

func event(name string, v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	if name != "" {
		name = "event: " + name + "\n"
	}
	return name + "data: " + string(b) + "\n\n"
}

func openAIChunk(_ int, text string) string {
	return event("", object{
		"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
		"choices": []object{{"index": 0, "delta": object{"content": text}, "finish_reason": nil}},
	})
}

func anthropicChunk(i int, text string) string {
	s := ""
	if i == 0 {
		s = event("message_start", object{"type": "message_start", "message": object{
			"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []any{},
			"stop_reason": nil, "stop_sequence": nil, "usage": object{"input_tokens": 5, "output_tokens": 1},
		}}) + event("content_block_start", object{"type": "content_block_start", "index": 0, "content_block": object{"type": "text", "text": ""}})
	}
	return s + event("content_block_delta", object{"type": "content_block_delta", "index": 0, "delta": object{"type": "text_delta", "text": text}})
}

func geminiChunk(text string) object {
	return object{
		"candidates":    []object{{"index": 0, "finishReason": "STOP", "content": object{"role": "model", "parts": []object{{"text": text}}}}},
		"usageMetadata": object{"promptTokenCount": 5, "candidatesTokenCount": 2, "totalTokenCount": 7},
	}
}

// stream sends events. The text of each is the time at which it was sent, in Unix
// nanoseconds, so that a reader can measure the delay.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, chunk func(i int, text string) string, last string) {
	events, pause := 3, time.Duration(0)
	if n, err := strconv.Atoi(r.Header.Get(HeaderEvents)); err == nil {
		events = n
	}
	if d, err := time.ParseDuration(r.Header.Get(HeaderPause)); err == nil {
		pause = d
	}
	w.Header().Set("Content-Type", "text/event-stream")
	flusher := http.NewResponseController(w)
	for i := range events {
		if i > 0 && pause > 0 {
			select {
			case <-time.After(pause):
			case <-r.Context().Done():
				return
			}
		}
		if _, err := fmt.Fprint(w, chunk(i, fmt.Sprintf("at %d;", time.Now().UnixNano()))); err != nil || flusher.Flush() != nil {
			return
		}
		if i == 0 && r.Header.Get(HeaderFail) == "after" {
			reset(w)
			return
		}
	}
	if _, err := fmt.Fprint(w, last); err != nil {
		return
	}
}
