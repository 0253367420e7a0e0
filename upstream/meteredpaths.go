package upstream

import (
	"slices"
	"strings"

	"github.com/till-proxy/till/scope"
)

// Meters reports whether a request is for something that token and dollar limits
// apply to, now or later, so that no operator can call it free. Paths are compared
// without regard to case, parameters and a trailing slash, as servers may read them.
func (p *Preset) Meters(method, path string) bool {
	if p.Dialect == Unified || method == "GET" || method == "HEAD" || method == "OPTIONS" {
		return false
	}
	if _, asynchronous := p.Denied(method, path); asynchronous {
		return true
	}
	return p.asksModel(scope.WithoutParameters(path))
}

// asksModel reports whether a path is that of an endpoint with metered usage.
func (p *Preset) asksModel(path string) bool {
	path = strings.ToLower(strings.TrimSuffix(path, "/"))
	if p.Dialect == Gemini && slices.ContainsFunc(geminiVerbs, func(verb string) bool { return strings.HasSuffix(path, strings.ToLower(verb)) }) {
		return true
	}
	_, err := new(Estimate).endpoint(p, path)
	return err == nil
}

// MeteredBy returns a path with metered usage that a rule matches; empty if there is
// none.
func (p *Preset) MeteredBy(rule scope.PathRule) string {
	method := rule.Method
	if method == "*" {
		method = "POST"
	}
	if p.Meters(method, rule.Pattern) {
		return rule.Pattern
	}
	for _, prefix := range slices.Concat([]string{p.Prefix}, p.Versions, p.Roots) {
		for _, ending := range endings {
			if path := prefix + ending; p.Meters(method, path) && rule.Match(method, path, p.Version(path)) {
				return path
			}
		}
	}
	return ""
}

// geminiVerbs are the methods of Gemini's API that use a model.
var geminiVerbs = []string{":generateContent", ":streamGenerateContent", ":embedContent", ":batchEmbedContents"}

// endings are the endings of the paths with metered usage; see endpoint.
var endings = []string{
	"/chat/completions", "/fim/completions", "/completions", "/responses", "/messages", "/v1/messages", "/embeddings", "/openai/chat/completions", "/openai/embeddings",
	"/chat", "/generate", "/embed", "/models/a:generateContent", "/models/a:streamGenerateContent", "/models/a:embedContent", "/models/a:batchEmbedContents",
}
