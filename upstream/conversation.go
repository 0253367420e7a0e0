package upstream

import (
	"bytes"
	"slices"
	"strings"
)

// billingHeader begins a block of Claude Code's system prompt that changes with every
// request and that the vendor removes (claude-code#24168, llama.cpp#20623).
const billingHeader = `x-anthropic-billing-header:`

// system hashes a system prompt without the block that billingHeader begins.
func (d *digester) system(b []byte, o *outline) {
	const longest = 512
	if b[0] != '[' {
		d.outlined(b, o)
		return
	}
	for block := range rawList(b).elements {
		if block[0] == '{' && len(block) <= longest && bytes.HasPrefix(rawObject(block).get("text"), []byte(`"`+billingHeader)) {
			d.leaveOut(0, block, 1)
			continue
		}
		d.mark(markList)
		d.outlined(block, o)
	}
	d.mark(markListEnd)
}

// unread are the members of a request that do not change what a model reads. Every
// other member has to be the same for two requests to share a prefix.
var unread = set(
	"stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens", "temperature", "top_p", "top_k", "min_p", "top_a", "typical_p", "seed", "random_seed",
	"stop", "stop_sequences", "frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias", "logprobs", "top_logprobs",
	"user", "metadata", "client_metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "service_tier", "session_id", "user_id", "labels", "cache_control",
	"ignore_eos", "return_token_ids", "perf_metrics_in_response", "prompt_cache_isolation_key", "serviceTier", "diagnostics", "trace", "request_id", "rid", "cache_salt", "id_slot",
)

// shortens are the members that let a server leave out a part of a conversation, or
// choose who answers: then another request does not say how long a prefix is.
var shortens = set("truncate", "truncate_prompt_tokens", "prompt_truncate_len", "context_length_exceeded_behavior", "transforms", "models", "route", "provider")

// conversation is a request whose list of messages may continue one that was seen.
type conversation struct {
	turns []byte
	rest  digest // of everything but the messages
}

func (e *Estimate) listed() string {
	switch {
	case e.outer == "generationConfig":
		return "contents"
	case e.responses():
		return "input"
	case e.outer == "" && e.field != "":
		return "messages"
	}
	return ""
}

// conversation reads the request. It returns false where nothing can be learned from
// other requests, or for them.
func (e *Estimate) conversation(d *digester, key *secret, p *Preset, c *Call, upstream string) (t conversation, ok bool) {
	if p.Routes || p.Dialect == Cohere || p.Name == "ollama" || e.object == nil || e.remote || e.unsure || e.Rounds > 1 || len(e.turns) == 0 || e.turns[0] != '[' {
		// Either another model may answer each time, or the reported count is lower
		// than what was read, as Cohere's is, and Ollama's, which leaves out the
		// middle.
		return t, false
	}
	name := e.listed()
	if slices.ContainsFunc(e.stored, func(s stored) bool { return s.kind == storedAnswer || s.kind == storedConversation }) {
		return t, false // what precedes the list changes each time
	}
	t.turns = e.turns
	d.begin(key)
	d.left, d.thinks = 0, false
	for _, s := range []string{upstream, p.Name, c.Path, c.Query, c.Features, name} {
		d.field(s)
	}
	for member, value := range c.members {
		switch {
		case member == name, unread[member], value[0] == 'n':
			continue
		case shortens[member],
			member == "truncation" && string(value) != `"disabled"`,
			member == "context_management" && !onlyThoughts(value):
			return t, false
		}
		d.field(member)
		if member == "system" {
			d.system(value, c.outline)
		} else {
			d.outlined(value, c.outline)
		}
	}
	t.rest, d.thinks = d.digest(), false
	return t, true
}

// onlyThoughts reports whether edits of a context remove nothing but thoughts. Tool
// results are removed from a certain length on, so the longer of two requests may
// keep one that the shorter one lost. (contextEdits has checked that there is nothing
// but edits.)
func onlyThoughts(value []byte) bool {
	edits := rawObject(value).get("edits")
	if edits == nil {
		return false
	}
	for edit := range rawList(edits).elements {
		if !strings.HasPrefix(word(rawObject(edit).get("type")), "clear_thinking") {
			return false
		}
	}
	return true
}

// Who speaks last in a conversation.
const (
	endsOther byte = iota
	endsUser
	endsTool
)

func speaker(element []byte) byte {
	if element[0] != '{' {
		return endsOther
	}
	role, kind := "", ""
	for name, value := range rawObject(element).members {
		switch {
		case value[0] != '"':
		case name == "role":
			role = view(value)
		case name == "type":
			kind = view(value)
		}
	}
	switch {
	case role == "tool", role == "function", strings.HasSuffix(kind, "_output"):
		return endsTool
	case role == "user", role == "" && kind == "":
		return endsUser
	}
	return endsOther
}
