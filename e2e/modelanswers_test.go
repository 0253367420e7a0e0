package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
)

// How the model of scriptedmodel_test.go says something in each dialect: with every field
// that the vendors' SDK types of 2026-11 have for it, null or empty where a vendor
// says nothing.

// messages is Anthropic's (@anthropic-ai/sdk 1.12.0, resources/messages).
func (a *spoken) messages(said string, calls []call, in, out int64) error {
	content := []object{}
	if a.t.thinks {
		content = append(content, object{"type": "thinking", "thinking": "", "signature": sealThought(100)})
	}
	content = append(content, object{"type": "text", "text": said}) // citations: null is in the SDK's type, and the AI SDK does not read it
	for _, c := range calls {
		content = append(content, object{"type": "tool_use", "id": fmt.Sprintf("toolu_%s_%s", a.t.errand, c.id), "name": c.name, "input": c.arguments,
			"caller": object{"type": "direct"}})
	}
	stop := "end_turn"
	if len(calls) > 0 {
		stop = "tool_use"
	}
	usage := object{"input_tokens": in, "output_tokens": out, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
		"cache_creation": object{"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}, "server_tool_use": nil, "service_tier": "standard",
		"inference_geo": "global", "output_tokens_details": nil, "iterations": nil, "speed": "standard"}
	message := object{"id": fmt.Sprintf("msg_%024d", a.t.n), "type": "message", "role": "assistant", "model": a.t.model, "content": content, "container": nil,
		"context_management": nil, "stop_reason": stop, "stop_sequence": nil, "stop_details": nil, "usage": usage}
	if !a.t.stream {
		return a.whole(message)
	}
	message["content"], message["stop_reason"] = []any{}, nil
	send := func(name string, data object) error {
		data["type"] = name
		return a.event(name, data)
	}
	if err := send("message_start", object{"message": message}); err != nil {
		return err
	}
	for i, block := range content {
		var start, delta object
		switch block["type"] {
		case "thinking":
			start, delta = object{"type": "thinking", "thinking": "", "signature": ""}, object{"type": "signature_delta", "signature": block["signature"]}
		case "text":
			start, delta = object{"type": "text", "text": ""}, object{"type": "text_delta", "text": said}
		default:
			text, err := json.Marshal(block["input"])
			if err != nil {
				return err
			}
			start = object{"type": "tool_use", "id": block["id"], "name": block["name"], "input": object{}, "caller": block["caller"]}
			delta = object{"type": "input_json_delta", "partial_json": string(text)}
		}
		if err := send("content_block_start", object{"index": i, "content_block": start}); err != nil {
			return err
		}
		if block["type"] == "text" && a.isEndless() {
			return a.forever(func() error { return send("content_block_delta", object{"index": i, "delta": delta}) })
		}
		if err := send("content_block_delta", object{"index": i, "delta": delta}); err != nil {
			return err
		}
		if err := send("content_block_stop", object{"index": i}); err != nil {
			return err
		}
	}
	if err := send("message_delta", object{"delta": object{"stop_reason": stop, "stop_sequence": nil, "stop_details": nil, "container": nil}, "usage": usage}); err != nil {
		return err
	}
	return send("message_stop", object{})
}

// responses is OpenAI's Responses API (openai 6.49.0, resources/responses).
func (a *spoken) responses(said string, calls []call, in, out int64) error {
	reasoning := object{"type": "reasoning", "id": fmt.Sprintf("rs_%024d", a.t.n), "summary": []any{}, "content": []any{}, "encrypted_content": nil, "status": "completed"}
	if a.t.sealed {
		reasoning["encrypted_content"] = sealThought(100)
		delete(reasoning, "content")
	}
	items := []object{reasoning, {"type": "message", "id": fmt.Sprintf("msg_%024d", a.t.n), "role": "assistant", "status": "completed", "phase": "commentary",
		"content": []object{{"type": "output_text", "text": said, "annotations": []any{}, "logprobs": []any{}}}}}
	if !a.t.reasons() {
		items = items[1:]
		delete(items[0], "phase")
	}
	for _, c := range calls {
		text, err := json.Marshal(c.arguments)
		if err != nil {
			return err
		}
		item := object{"type": "function_call", "id": fmt.Sprintf("fc_%024d_%s", a.t.n, c.id), "call_id": fmt.Sprintf("call_%s_%s", a.t.errand, c.id),
			"name": c.name, "arguments": string(text), "status": "completed", "caller": object{"type": "direct"}}
		if c.space != "" {
			item["namespace"] = c.space
		}
		items = append(items, item)
	}
	response := object{"id": fmt.Sprintf("resp_%024d", a.t.n), "object": "response", "created_at": 1_790_000_000, "completed_at": nil, "status": "in_progress",
		"background": false, "billing": object{"payer": "developer"}, "error": nil, "incomplete_details": nil, "instructions": nil, "max_output_tokens": nil,
		"max_tool_calls": nil, "metadata": object{}, "model": a.t.model, "output": []any{}, "parallel_tool_calls": true, "previous_response_id": nil,
		"prompt_cache_key": nil, "prompt_cache_retention": nil, "reasoning": object{"effort": "medium", "summary": nil}, "safety_identifier": nil,
		"service_tier": "default", "store": false, "temperature": 1, "text": object{"format": object{"type": "text"}, "verbosity": "medium"}, "tool_choice": "auto",
		"tools": []any{}, "top_logprobs": 0, "top_p": 1, "truncation": "disabled", "usage": nil, "user": nil}
	usage := object{"input_tokens": in, "input_tokens_details": object{"cached_tokens": 0, "cache_write_tokens": 0}, "output_tokens": out,
		"output_tokens_details": object{"reasoning_tokens": 10}, "total_tokens": in + out}
	send := func(name string, data object) error {
		data["type"], data["sequence_number"] = name, a.events
		return a.event(name, data)
	}
	done := func() {
		response["status"], response["output"], response["usage"] = "completed", items, usage
	}
	if !a.t.stream {
		done()
		return a.whole(response)
	}
	if err := send("response.created", object{"response": response}); err != nil {
		return err
	}
	for i, item := range items {
		begun := object{}
		for name, value := range item {
			begun[name] = value
		}
		begun["status"] = "in_progress"
		part := object{"output_index": i, "item_id": item["id"]}
		with := func(more object) object {
			for name, value := range part {
				more[name] = value
			}
			return more
		}
		var middle []func() error
		switch item["type"] {
		case "message":
			begun["content"] = []any{}
			text := func() error {
				return send("response.output_text.delta", with(object{"content_index": 0, "delta": said, "logprobs": []any{}, "obfuscation": "x"}))
			}
			whole := item["content"].([]object)[0]
			middle = []func() error{
				func() error {
					return send("response.content_part.added", with(object{"content_index": 0, "part": object{"type": "output_text", "text": "", "annotations": []any{}, "logprobs": []any{}}}))
				},
				text,
				func() error {
					if a.isEndless() {
						return a.forever(text)
					}
					return send("response.output_text.done", with(object{"content_index": 0, "text": said, "logprobs": []any{}}))
				},
				func() error {
					return send("response.content_part.done", with(object{"content_index": 0, "part": whole}))
				},
			}
		case "function_call":
			begun["arguments"] = ""
			middle = []func() error{
				func() error {
					return send("response.function_call_arguments.delta", with(object{"delta": item["arguments"], "obfuscation": "x"}))
				},
				func() error {
					return send("response.function_call_arguments.done", with(object{"arguments": item["arguments"], "name": item["name"]}))
				},
			}
		}
		if err := send("response.output_item.added", object{"output_index": i, "item": begun}); err != nil {
			return err
		}
		for _, one := range middle {
			if err := one(); err != nil {
				return err
			}
		}
		if err := send("response.output_item.done", object{"output_index": i, "item": item}); err != nil {
			return err
		}
	}
	done()
	return send("response.completed", object{"response": response})
}

// reasons reports whether the vendor's model of that name does.
func (t *asked) reasons() bool {
	return strings.HasPrefix(t.model, "gpt-5") || strings.HasPrefix(t.model, "gpt-6")
}

// completions is the chat API of OpenAI (openai 6.49.0, resources/chat) and of
// those that copied it, Mistral among them.
func (a *spoken) completions(said string, calls []call, in, out int64) error {
	id := func(c call) string { return fmt.Sprintf("call%05d", 100*a.t.n)[:7] + fmt.Sprintf("%02s", c.id) } // nine letters, which Mistral insists on
	var list []object
	for i, c := range calls {
		text, err := json.Marshal(c.arguments)
		if err != nil {
			return err
		}
		one := object{"id": id(c), "type": "function", "function": object{"name": c.name, "arguments": string(text)}}
		if a.t.stream {
			one["index"] = i
		}
		list = append(list, one)
	}
	stop := "stop"
	message := object{"role": "assistant", "content": said, "refusal": nil, "annotations": []any{}, "audio": nil}
	if list != nil {
		stop = "tool_calls"
		message["tool_calls"] = list
	}
	usage := object{"prompt_tokens": in, "completion_tokens": out, "total_tokens": in + out,
		"prompt_tokens_details":     object{"cached_tokens": 0, "audio_tokens": 0, "cache_write_tokens": 0},
		"completion_tokens_details": object{"reasoning_tokens": 10, "audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}}
	chunk := func(delta object, stop any) object {
		return object{"id": fmt.Sprintf("chatcmpl-%d", a.t.n), "object": "chat.completion.chunk", "created": 1_790_000_000, "model": a.t.model,
			"service_tier": "default", "system_fingerprint": "fp_1", "obfuscation": "x",
			"choices": []object{{"index": 0, "delta": delta, "finish_reason": stop, "logprobs": nil}}}
	}
	if !a.t.stream {
		whole := chunk(nil, nil)
		whole["object"], whole["usage"] = "chat.completion", usage
		whole["choices"] = []object{{"index": 0, "message": message, "finish_reason": stop, "logprobs": nil}}
		delete(whole, "obfuscation")
		return a.whole(whole)
	}
	text := func() error {
		return a.event("", chunk(object{"role": "assistant", "content": said, "refusal": nil}, nil))
	}
	if a.isEndless() {
		return a.forever(text)
	}
	if err := text(); err != nil {
		return err
	}
	if list != nil {
		if err := a.event("", chunk(object{"tool_calls": list}, nil)); err != nil {
			return err
		}
	}
	if err := a.event("", chunk(object{}, stop)); err != nil {
		return err
	}
	last := chunk(nil, nil)
	last["choices"], last["usage"] = []any{}, usage
	if err := a.event("", last); err != nil {
		return err
	}
	_, err := fmt.Fprint(a.w, "data: [DONE]\n\n")
	return err
}

// gemini is Google's generateContent (@google/genai 2.32.0, types).
func (a *spoken) gemini(said string, calls []call, in, out int64) error {
	parts := []object{{"text": said, "thoughtSignature": sealThought(60)}}
	for _, c := range calls {
		parts = append(parts, object{"functionCall": object{"id": fmt.Sprintf("f%d-%s", a.t.n, c.id), "name": c.name, "args": c.arguments}, "thoughtSignature": sealThought(60)})
	}
	answer := func(parts []object, stop any) object {
		candidate := object{"index": 0, "content": object{"role": "model", "parts": parts}, "citationMetadata": object{"citations": []object{
			{"startIndex": 0, "endIndex": 1, "uri": "https://example.com/", "title": "Example", "license": "MIT", "publicationDate": object{"year": 2026, "month": 1, "day": 1}}}},
			"safetyRatings": []object{{"category": "HARM_CATEGORY_HARASSMENT", "probability": "NEGLIGIBLE", "blocked": false}}, "avgLogprobs": -0.1}
		if stop != nil {
			candidate["finishReason"], candidate["finishMessage"] = stop, "done"
		}
		return object{"candidates": []object{candidate}, "modelVersion": a.t.model, "responseId": fmt.Sprintf("r%d", a.t.n), "createTime": "2026-11-01T00:00:00Z",
			"usageMetadata": object{"promptTokenCount": in, "candidatesTokenCount": out - 10, "thoughtsTokenCount": 10, "totalTokenCount": in + out, "cachedContentTokenCount": 0,
				"trafficType": "ON_DEMAND", "promptTokensDetails": []object{{"modality": "TEXT", "tokenCount": in}},
				"candidatesTokensDetails": []object{{"modality": "TEXT", "tokenCount": out - 10}}}}
	}
	if !a.t.stream {
		return a.whole(answer(parts, "STOP"))
	}
	if a.isEndless() {
		return a.forever(func() error { return a.event("", answer([]object{{"text": said}}, nil)) })
	}
	if err := a.event("", answer(parts[:1], nil)); err != nil {
		return err
	}
	return a.event("", answer(parts[1:], "STOP"))
}

// cohere is Cohere's chat (cohere-ai 8.1.0, V2ChatResponse).
func (a *spoken) cohere(said string, calls []call, in, out int64) error {
	message := object{"role": "assistant", "content": []object{{"type": "text", "text": said}}, "citations": []any{}}
	stop := "COMPLETE"
	var list []object
	for _, c := range calls {
		text, err := json.Marshal(c.arguments)
		if err != nil {
			return err
		}
		list = append(list, object{"id": fmt.Sprintf("%s_%s", c.name, c.id), "type": "function", "function": object{"name": c.name, "arguments": string(text)}})
	}
	if list != nil {
		stop = "TOOL_CALL"
		message["tool_plan"], message["tool_calls"] = "I will read it.", list
		delete(message, "content")
	}
	usage := object{"billed_units": object{"input_tokens": in, "output_tokens": out}, "tokens": object{"input_tokens": in, "output_tokens": out}, "cached_tokens": 0}
	if !a.t.stream {
		return a.whole(object{"id": fmt.Sprintf("c%d", a.t.n), "finish_reason": stop, "message": message, "usage": usage, "logprobs": []any{}})
	}
	send := func(name string, index int, delta object) error {
		data := object{"type": name, "id": fmt.Sprintf("c%d", a.t.n), "delta": delta}
		if index >= 0 {
			data["index"] = index
		}
		return a.event(name, data)
	}
	if err := send("message-start", -1, object{"message": object{"role": "assistant", "content": []any{}, "tool_plan": "", "tool_calls": []any{}, "citations": []any{}}}); err != nil {
		return err
	}
	if err := send("content-start", 0, object{"message": object{"content": object{"type": "text", "text": ""}}}); err != nil {
		return err
	}
	text := func() error {
		return send("content-delta", 0, object{"message": object{"content": object{"text": said}}})
	}
	if a.isEndless() {
		return a.forever(text)
	}
	if err := text(); err != nil {
		return err
	}
	if err := send("content-end", 0, nil); err != nil {
		return err
	}
	for i, one := range list {
		if err := send("tool-call-start", i, object{"message": object{"tool_calls": one}}); err != nil {
			return err
		}
		if err := send("tool-call-end", i, nil); err != nil {
			return err
		}
	}
	return send("message-end", -1, object{"finish_reason": stop, "usage": usage, "error": nil})
}
