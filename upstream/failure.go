package upstream

import (
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
// https://openrouter.ai/docs/features/zero-completion-insurance. No other vendor says
// what it bills then.
var insured = set("openrouter")

// Failed reports whether an answer that began well contained an error.
func (m *Meter) Failed() bool { return m.failed }

// ShowsText reports whether an error shows what a model wrote, as Groq's do where that does
// not match a schema or a tool. Groq does not say what it bills then
// (https://console.groq.com/docs/tool-use/overview).
func (m *Meter) ShowsText() bool { return m.shown && m.wrote > 0 }

// Forgiven reports whether an answer that began well (200) contained an error, and
// nothing is billed for it: by the vendor's rule, or because nothing was written or
// reported before the error, so that a status could have reported it as well.
func (m *Meter) Forgiven() bool {
	switch {
	case !m.failed:
		return false
	case m.insured && !m.Several: // of several answers, the others may be billed
		return !m.final || m.usage.Nanodollars == 0
	}
	return m.wrote == 0 && !m.embeds && m.usage == unreported
}

// FromCache reports whether an answer with this header comes from a cache of the vendor's
// for whole answers, for which it bills nothing
// (https://openrouter.ai/docs/guides/features/response-caching).
func (p *Preset) FromCache(h http.Header) bool {
	return p.Name == "openrouter" && strings.EqualFold(h.Get("X-Openrouter-Cache-Status"), "HIT")
}
