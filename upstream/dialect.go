package upstream

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
)

// Dialect is the form in which an upstream reports errors and usage. The empty
// Dialect belongs to an API that nothing is known about.
type Dialect string

// The dialects.
const (
	Unified   Dialect = ""
	OpenAI    Dialect = "openai"
	Anthropic Dialect = "anthropic"
	Gemini    Dialect = "gemini"
	Cohere    Dialect = "cohere"
	Mistral   Dialect = "mistral"
)

// Refusal is an error as a client of the dialect receives it.
type Refusal struct {
	Code      string // till_…
	Status    int    // HTTP
	Message   string
	RequestID string
	// Field is the member of the request that the refusal is about; empty: none.
	Field string
}

// codes gives each refusal code its HTTP status. Vendors' SDKs and agents do not
// retry 402 and 403; 429 is only for what a retry can cure. See Status for codes that
// depend on the endpoint.
var codes = map[string]int{
	"till_bad_request":           http.StatusBadRequest,
	"till_body_too_large":        http.StatusRequestEntityTooLarge,
	"till_key_missing":           http.StatusUnauthorized,
	"till_key_invalid":           http.StatusUnauthorized,
	"till_activations_exhausted": http.StatusPaymentRequired,
	"till_tokens_exhausted":      http.StatusPaymentRequired,
	"till_spend_exhausted":       http.StatusPaymentRequired,
	"till_key_expired":           http.StatusPaymentRequired,
	"till_key_idle":              http.StatusPaymentRequired,
	"till_budget_too_small":      http.StatusPaymentRequired,
	"till_key_revoked":           http.StatusForbidden,
	"till_key_suspended":         http.StatusForbidden,
	"till_locked_down":           http.StatusForbidden,
	"till_wrong_upstream":        http.StatusForbidden,
	"till_path_not_allowed":      http.StatusForbidden,
	"till_method_not_allowed":    http.StatusForbidden,
	"till_model_not_allowed":     http.StatusForbidden,
	"till_ip_not_allowed":        http.StatusForbidden,
	"till_upgrade_not_allowed":   http.StatusForbidden,
	"till_too_early":             http.StatusTooEarly,
	"till_price_unknown":         http.StatusForbidden,
	"till_not_meterable":         http.StatusForbidden,
	"till_rate_limited":          http.StatusTooManyRequests,
	"till_concurrency":           http.StatusTooManyRequests,
	"till_budget_held":           http.StatusTooManyRequests,
	"till_upstream_failed":       http.StatusBadGateway,
	"till_upstream_auth_failed":  http.StatusBadGateway,
	"till_upstream_changed":      http.StatusBadGateway,
	"till_store_unavailable":     http.StatusServiceUnavailable,
	"till_upstream_unknown":      http.StatusServiceUnavailable,
}

// unfit are the codes that refuse one request where another would pass: nothing is
// wrong with the key.
var unfit = set("till_model_not_allowed", "till_price_unknown", "till_not_meterable")

// Status returns the HTTP status of a code for a client of the endpoint at path,
// which is canonical; 500 for a code that is not in the table.
//
// Clients of Messages and of Responses take 403 for a fault of the key: Claude Code
// says that it failed to authenticate, and Codex asks five more times. On those paths
// a request that does not fit its key is answered with 400, at which Codex stops, and
// Claude Code retries without its beta features before it shows the reason.
func Status(path, code string) int {
	if unfit[code] && (speaksMessages(path) || speaksResponses(path)) {
		return http.StatusBadRequest
	}
	if status, ok := codes[code]; ok {
		return status
	}
	return http.StatusInternalServerError
}

// Body returns the body of an error answer in the dialect.
func (d Dialect) Body(r Refusal) []byte { return marshal(d.shape(r)) }

// The structs keep the vendors' order of fields.
type (
	object   = map[string]any
	openAIIn struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    string  `json:"code"`
	}
	openAIError struct {
		Error openAIIn `json:"error"`
	}
	anthropicIn struct {
		Type    string `json:"type"`
		Message string `json:"message"`
		Details object `json:"details"`
	}
	anthropicError struct {
		Type      string      `json:"type"`
		Error     anthropicIn `json:"error"`
		RequestID string      `json:"request_id"`
	}
	geminiIn struct {
		Code    int      `json:"code"`
		Message string   `json:"message"`
		Status  string   `json:"status"`
		Details []object `json:"details"`
	}
	geminiError struct {
		Error geminiIn `json:"error"`
	}
	cohereError struct {
		Message string `json:"message"`
		Code    string `json:"code"`
		ID      string `json:"id"`
	}
	mistralError struct {
		Object  string `json:"object"`
		Message string `json:"message"`
		Type    string `json:"type"`
		Code    string `json:"code"`
	}
	unifiedIn struct {
		Type    string `json:"type"`
		Code    string `json:"code"`
		Message string `json:"message"`
		Status  int    `json:"status"`
	}
	unifiedError struct {
		Type      string    `json:"type"`
		Error     unifiedIn `json:"error"`
		Message   string    `json:"message"`
		RequestID string    `json:"request_id"`
	}
)

func (d Dialect) shape(r Refusal) any {
	kind := typeOfError(r.Status)
	switch d {
	case OpenAI:
		return openAIError{openAIIn{Message: r.Message, Type: kind.openAI, Param: param(r), Code: r.Code}}
	case Anthropic:
		return anthropicError{"error", anthropicIn{kind.anthropic, r.Message, anthropicDetails(r)}, r.RequestID}
	case Gemini:
		return geminiError{geminiIn{r.Status, r.Message, kind.gemini, []object{{
			"@type":  "type.googleapis.com/google.rpc.ErrorInfo",
			"reason": strings.ToUpper(r.Code), "domain": "till",
		}}}}
	case Cohere:
		return cohereError{r.Message, r.Code, r.RequestID}
	case Mistral:
		return mistralError{"error", r.Message, kind.openAI, r.Code}
	default:
		return unifiedError{"error", unifiedIn{kind.anthropic, r.Code, r.Message, r.Status}, r.Message, r.RequestID}
	}
}

func param(r Refusal) *string {
	switch {
	case r.Field != "":
		return &r.Field
	case r.Code == "till_model_not_allowed":
		return new("model")
	}
	return nil
}

// anthropicDetails returns the words by which the SDKs recognize what happened. When
// the error is about a thread, their tool runner sends the whole conversation instead
// (lib/internal/threads/ThreadState of @anthropic-ai/sdk 1.12.0).
func anthropicDetails(r Refusal) object {
	if r.Code == "till_not_meterable" && r.Field == "thread" {
		return object{"error_code": "thread_unsupported_request", "unsupported": []string{r.Field}}
	}
	return object{"error_code": r.Code}
}

// errorType is what the vendors call an error with a status. Gemini's follow
// google.rpc.Code: RESOURCE_EXHAUSTED is for errors that pass by themselves, because
// clients retry it, and FAILED_PRECONDITION for errors that somebody has to fix.
type errorType struct{ openAI, anthropic, gemini string }

var errorTypes = map[int]errorType{
	http.StatusPaymentRequired:       {"insufficient_quota", "billing_error", "FAILED_PRECONDITION"},
	http.StatusUnauthorized:          {"authentication_error", "authentication_error", "UNAUTHENTICATED"},
	http.StatusForbidden:             {"permission_error", "permission_error", "PERMISSION_DENIED"},
	http.StatusTooManyRequests:       {"rate_limit_exceeded", "rate_limit_error", "RESOURCE_EXHAUSTED"},
	http.StatusRequestEntityTooLarge: {"invalid_request_error", "request_too_large", "INVALID_ARGUMENT"},
	http.StatusBadGateway:            {"server_error", "api_error", "UNAVAILABLE"},
	http.StatusServiceUnavailable:    {"server_error", "overloaded_error", "UNAVAILABLE"},
	http.StatusGatewayTimeout:        {"server_error", "timeout_error", "DEADLINE_EXCEEDED"},
}

func typeOfError(status int) errorType {
	switch known, ok := errorTypes[status]; {
	case ok:
		return known
	case status >= 500:
		return errorType{"server_error", "api_error", "INTERNAL"}
	}
	return errorType{"invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT"}
}

// Several vendors speak the protocols of others in addition to their own.
func speaksMessages(path string) bool  { return strings.HasSuffix(path, "/messages") }
func speaksResponses(path string) bool { return strings.HasSuffix(path, "/responses") }

// StreamError returns the event that ends a server-sent event stream of the dialect, in
// a form in which clients report the message. path is canonical, and distinguishes the
// protocols that one vendor speaks.
func (d Dialect) StreamError(path string, r Refusal) []byte {
	switch {
	case d == Anthropic, speaksMessages(path):
		return event("error", Anthropic.shape(r))
	case speaksResponses(path):
		return event("response.failed", object{
			"type": "response.failed", "sequence_number": 0,
			"response": object{
				"id": "resp_till", "object": "response", "status": "failed", "output": []any{},
				"error": object{"code": r.Code, "message": r.Message},
			},
		})
	case d == Cohere:
		// Cohere's SDKs know no error event; they pass this event on.
		return event("message-end", object{"type": "message-end", "delta": object{"error": r.Message, "finish_reason": "ERROR", "code": r.Code}})
	case d == Mistral:
		return event("", OpenAI.shape(r))
	default:
		return event("", d.shape(r))
	}
}

// StreamEnd returns what follows a StreamError in a write of its own; nil: nothing.
// The Google SDK in Gemini CLI 0.61.0 looks for errors only in chunks of a stream
// that hold nothing else, and takes an event with an error for an empty answer.
// Readers of events ignore a line that is no field, and drop one that does not end
// (https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation).
func (d Dialect) StreamEnd(path string, r Refusal) []byte {
	if d != Gemini || !strings.HasSuffix(path, ":streamGenerateContent") {
		return nil
	}
	return marshal(d.shape(r))
}

// LineError returns the line that ends a stream of JSON lines.
func (d Dialect) LineError(r Refusal) []byte {
	return append(marshal(object{"error": r.Message, "code": r.Code}), '\n')
}

func event(name string, data any) []byte {
	var b bytes.Buffer
	if name != "" {
		b.WriteString("event: " + name + "\n")
	}
	b.WriteString("data: ")
	b.Write(marshal(data))
	b.WriteString("\n\n")
	return b.Bytes()
}

// marshal cannot fail: every value consists of strings and numbers.
func marshal(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
