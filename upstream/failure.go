package upstream

import (
	"bytes"
	"net/http"
	"strings"
)

// SpeaksError reports whether the body of an answer is an error as an API writes it,
// and not one of a proxy in front of the API.
func SpeaksError(body []byte) bool {
	o, err := parseObject(body)
	if err != nil {
		return false
	}
	for name, value := range o.members {
		if name == "error" && (value[0] == '{' || value[0] == '"') || name == "message" && value[0] == '"' {
			return true
		}
	}
	return false
}

// insured are the presets whose vendor bills nothing for an answer that ends in an
// error, whatever came before the error:
// https://openrouter.ai/docs/features/zero-completion-insurance.
var insured = set("openrouter")

// Failed reports whether an answer that began well contained an error.
func (m *Meter) Failed() bool { return m.failed }

// readError reads an error's code, or its message, which a gateway may have put into its
// own.
func (m *Meter) readError(s string) {
	s = strings.ToLower(s)
	m.spent = m.spent || s == "content_filter" || strings.Contains(s, "content management policy") ||
		strings.Contains(s, "could not finish the message because max_tokens") ||
		m.BillsErrors && s == "context_length_exceeded"
	m.refused = m.refused || strings.Contains(s, "violates usage guidelines")
}

// readBase reads MiniMax's base_resp, whose code is not 0 in an error. Behind 1027, which
// says that what was written is sensitive, a model has worked, and behind any other that is
// not known to stop a request before a model reads it, one may have
// (https://platform.minimax.io/docs/api-reference/errorcode).
func (m *Meter) readBase(o rawObject) {
	code, ok := wholeNumber(string(bytes.Trim(o.get("status_code"), `"`)))
	m.pending.failed = m.pending.failed || ok && code != 0
	m.spent = m.spent || code == 1027
	m.doubted = m.doubted || !ok || code != 0 && !stopsBefore(code)
}

// stopsBefore reports whether MiniMax's error with that code says that no model has read the
// request. 1039, a limit of tokens, is not among them, because it does not say whose.
func stopsBefore(code int64) bool {
	switch code {
	case 1002, 1041, 2045, 2056, // too many requests, connections, or too much use
		1004, 2049, // the key
		1008,             // the balance
		1026, 1042, 2013: // the request is sensitive, not legible or not valid
		return true
	}
	return false
}

// Worked reports whether an error shows that a model worked before it. Groq's errors show a
// model's text that does not match a schema or a tool
// (https://console.groq.com/docs/tool-use/overview); OpenAI's says that a reasoning model
// did not finish within its bound. Neither vendor says what it bills then. Azure may bill
// requests that its content filter refuses, and inputs that are too long: see BillsErrors.
func (m *Meter) Worked() bool { return m.shown && m.wrote > 0 || m.spent && !m.insured }

// BillsErrors reports whether a host may bill a request that it answers with status 408,
// or with 400 because of its content filter or of an input that is too long. Azure does
// (https://learn.microsoft.com/azure/ai-services/openai/how-to/manage-costs), but not the
// machines that its customers run there.
func BillsErrors(host string) bool {
	host = strings.ToLower(host)
	if strings.HasSuffix(host, ".cloudapp.azure.com") {
		return false
	}
	return strings.HasSuffix(host, ".azure.com") || strings.HasSuffix(host, ".azure.us") || strings.HasSuffix(host, ".azure.cn")
}

// violationFee is what xAI charges, in nano-dollars, for a request to its Responses API
// that violates its guidelines, if it is caught before anything is generated
// (https://docs.x.ai/developers/pricing).
const violationFee = 50_000_000

// Violated reports whether an error says that the request violates the vendor's
// guidelines.
func (m *Meter) Violated() bool { return m.refused }

// Answered reports whether a model has answered, as far as can be seen: something was
// written, or usage was reported.
func (m *Meter) Answered() bool { return m.wrote > 0 || m.usage != unreported }

// Forgiven reports whether an answer that began well (200) contained an error, and
// nothing is billed for it: by the vendor's rule, or because nothing was written, and no
// use was reported, before the error, so that a status could have reported it as well. A
// count that is not known is no count of 0, so a report that could not be read, or that
// contradicts itself, is charged.
func (m *Meter) Forgiven() bool {
	switch {
	case !m.failed:
		return false
	case m.insured && !m.Several: // of several answers, the others may be billed
		return !m.final || m.usage.Nanodollars == 0
	}
	return m.wrote == 0 && !m.embeds && m.usage.nothing() && !m.doubted && !m.spent
}

// FromCache reports whether an answer with this header comes from the vendor's cache of
// whole answers, for which it bills nothing
// (https://openrouter.ai/docs/guides/features/response-caching).
func (p *Preset) FromCache(h http.Header) bool {
	return p.Name == "openrouter" && strings.EqualFold(h.Get("X-Openrouter-Cache-Status"), "HIT")
}
