// Package echo is an upstream for trying till out: an offline API in OpenAI's shape, as
// the Caddy handler `till_echo`. `caddy till up` serves it if it finds no provider's
// key.
//
// It knows how such an API answers and reports its use, and nothing of keys, limits or
// the handler that calls it: for that handler it is an upstream like any other.
package echo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/till-proxy/till/upstream"
)

func init() {
	caddy.RegisterModule(Handler{})
	httpcaddyfile.RegisterHandlerDirective("till_echo", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		if len(h.RemainingArgs()) > 0 || h.NextBlock(0) {
			return nil, h.Err("till_echo takes no options")
		}
		return new(Handler), nil
	})
	httpcaddyfile.RegisterDirectiveOrder("till_echo", httpcaddyfile.Before, "respond")
}

// Handler is an offline API in OpenAI's shape: it answers a chat with the last message.
// `caddy till up` serves it if it finds no provider's key, so that limits can be tried
// without one. It needs no credential.
//
// It answers `POST /v1/chat/completions` (also as a stream), `POST /v1/responses` and
// `GET /v1/models`.
type Handler struct{}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.till_echo", New: func() caddy.Module { return new(Handler) }}
}

const (
	model   = "echo"
	maxBody = 1 << 20
)

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	switch r.Method + " " + r.URL.Path {
	case "GET /v1/models", "HEAD /v1/models":
		return writeJSON(w, map[string]any{"object": "list", "data": []any{
			map[string]any{"id": model, "object": "model", "created": 0, "owned_by": "till"},
		}})
	case "POST /v1/chat/completions":
		return chat(w, r)
	case "POST /v1/responses":
		return respond(w, r)
	}
	return refuse(w, http.StatusNotFound, "the echo upstream answers POST /v1/chat/completions, POST /v1/responses and GET /v1/models")
}

type message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

// text returns a message's text: a string, or the text parts of a list.
func (m message) text() string {
	var s string
	if json.Unmarshal(m.Content, &s) == nil {
		return s
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if json.Unmarshal(m.Content, &parts) != nil {
		return ""
	}
	var all []string
	for _, p := range parts {
		all = append(all, p.Text)
	}
	return strings.Join(all, " ")
}

func lastUser(messages []message) (string, error) {
	for i := len(messages) - 1; i >= 0; i-- {
		if messages[i].Role == "user" {
			return messages[i].text(), nil
		}
	}
	return "", errors.New("messages must hold one with role user")
}

func read(r *http.Request, into any) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return err
	}
	if len(body) > maxBody {
		return fmt.Errorf("the body may be %d bytes long", maxBody)
	}
	return json.Unmarshal(body, into)
}

func chat(w http.ResponseWriter, r *http.Request) error {
	var ask struct {
		Model         string    `json:"model"`
		Messages      []message `json:"messages"`
		Stream        bool      `json:"stream"`
		StreamOptions struct {
			IncludeUsage bool `json:"include_usage"`
		} `json:"stream_options"`
	}
	if err := read(r, &ask); err != nil {
		return refuse(w, http.StatusBadRequest, "the body must be JSON in the shape of a chat: "+err.Error())
	}
	text, err := lastUser(ask.Messages)
	if err != nil {
		return refuse(w, http.StatusBadRequest, err.Error())
	}
	usage := map[string]any{"prompt_tokens": len(text), "completion_tokens": len(text), "total_tokens": 2 * len(text)}
	answer := map[string]any{
		"id": "chatcmpl-echo", "created": time.Now().Unix(), "model": model,
		"object": "chat.completion", "usage": usage,
		"choices": []any{map[string]any{
			"index": 0, "finish_reason": "stop",
			"message": map[string]any{"role": "assistant", "content": text},
		}},
	}
	if !ask.Stream {
		return writeJSON(w, answer)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	chunk := func(delta map[string]any, finish any) error {
		answer["object"] = "chat.completion.chunk"
		answer["usage"] = nil
		answer["choices"] = []any{map[string]any{"index": 0, "delta": delta, "finish_reason": finish}}
		return writeEvent(w, answer)
	}
	if err := chunk(map[string]any{"role": "assistant", "content": ""}, nil); err != nil {
		return err
	}
	for word := range strings.FieldsSeq(text) {
		if err := chunk(map[string]any{"content": word + " "}, nil); err != nil {
			return err
		}
	}
	if err := chunk(map[string]any{}, "stop"); err != nil {
		return err
	}
	if ask.StreamOptions.IncludeUsage {
		answer["choices"], answer["usage"] = []any{}, usage
		if err := writeEvent(w, answer); err != nil {
			return err
		}
	}
	_, err = io.WriteString(w, "data: [DONE]\n\n")
	return err
}

func respond(w http.ResponseWriter, r *http.Request) error {
	var ask struct {
		Input  json.RawMessage `json:"input"`
		Stream bool            `json:"stream"`
	}
	if err := read(r, &ask); err != nil {
		return refuse(w, http.StatusBadRequest, "the body must be JSON in the shape of a response request: "+err.Error())
	}
	if ask.Stream {
		return refuse(w, http.StatusBadRequest, "the echo upstream does not stream responses; use /v1/chat/completions")
	}
	var text string
	if json.Unmarshal(ask.Input, &text) != nil {
		var messages []message
		if json.Unmarshal(ask.Input, &messages) != nil {
			return refuse(w, http.StatusBadRequest, "input must be a text or a list of messages")
		}
		var err error
		if text, err = lastUser(messages); err != nil {
			return refuse(w, http.StatusBadRequest, err.Error())
		}
	}
	return writeJSON(w, map[string]any{
		"id": "resp_echo", "object": "response", "created_at": time.Now().Unix(), "status": "completed", "model": model,
		"output": []any{map[string]any{
			"id": "msg_echo", "type": "message", "role": "assistant", "status": "completed",
			"content": []any{map[string]any{"type": "output_text", "text": text, "annotations": []any{}}},
		}},
		"usage": map[string]any{"input_tokens": len(text), "output_tokens": len(text), "total_tokens": 2 * len(text)},
	})
}

func refuse(w http.ResponseWriter, status int, text string) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, err := w.Write(upstream.OpenAI.Body(upstream.Refusal{Code: "echo_invalid_request", Status: status, Message: text}))
	return err
}

func writeJSON(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(v)
}

func writeEvent(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "data: %s\n\n", b); err != nil {
		return err
	}
	return http.NewResponseController(w).Flush()
}

// Interface guard
var _ caddyhttp.MiddlewareHandler = (*Handler)(nil)
