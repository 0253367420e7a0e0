package e2e

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/upstream"
)

// refusedMembers are the members of requests that keys with a limit in tokens or
// dollars may not send, and why. What a vendor bills for one is not known, or it is
// for something that the request does not hold.
var refusedMembers = map[string]string{
	// openai
	"audio":              "speech is billed by other units",
	"web_search_options": "it searches, for a fee of its own",
	"moderation":         "another model reads what is asked and answered, and OpenAI does not say for what price",
	"multi_agent":        "agents at the provider ask as often as they like",
	// @anthropic-ai/sdk; those of the last line are headers
	"container":             "it runs code at the provider",
	"mcp_servers":           "it runs tools at the provider",
	"fallbacks":             "other models may answer",
	"fallback_credit_token": "it is for one of several models, and begins an answer that another ends",
	"billing_policy":        "it chooses who is billed",
	"compaction":            "a summary is written, of which it is not said what bounds it",
	"user_profile_id":       "it chooses who is billed",
	"workspace_id":          "it chooses who is billed",
	// @google/genai
	"cachedContent":     "it is kept by the provider",
	"continuationToken": "it is kept by the provider",
	// cohere-ai, of embeddings
	"images": "pictures are billed by other units than text",
	// groq-sdk
	"compound_custom": "it runs tools at the provider",
	"exclude_domains": "it searches, for a fee of its own",
	"include_domains": "it searches, for a fee of its own",
	"search_settings": "it searches, for a fee of its own",
	// together-ai
	"safety_model": "another model reads what is asked and answered",
	"compliance":   "it chooses where it is served, at a price that is not published",
	// @mistralai/mistralai
	"guardrails": "another model reads what is asked and answered",
}

// TestEveryMemberOfTheSDKsRequestsIsDecided: for each member that the vendors' SDKs
// can send, till knows the cost or has a reason to refuse. The test fails if the
// types of a new SDK have another member.
func TestEveryMemberOfTheSDKsRequestsIsDecided(t *testing.T) {
	t.Parallel()
	needsSDKs(t)
	const converters = "@google/genai/dist/node/index.mjs"
	kept := make(map[string]bool) // of the reasons, those that are still needed
	for _, sdk := range []struct{ preset, path, file, begins string }{
		{"openai", "/v1/chat/completions", "openai/resources/chat/completions/completions.d.ts", "interface ChatCompletionCreateParamsBase {"},
		{"openai", "/v1/completions", "openai/resources/completions.d.ts", "interface CompletionCreateParamsBase {"},
		{"openai", "/v1/responses", "openai/resources/responses/responses.d.ts", "interface ResponseCreateParamsBase {"},
		{"openai", "/v1/responses", "openai/resources/beta/responses/responses.d.ts", "interface ResponseCreateParamsBase {"},
		{"openai", "/v1/embeddings", "openai/resources/embeddings.d.ts", "interface EmbeddingCreateParams {"},
		{"anthropic", "/v1/messages", "@anthropic-ai/sdk/resources/messages/messages.d.ts", "interface MessageCreateParamsBase {"},
		{"anthropic", "/v1/messages", "@anthropic-ai/sdk/resources/beta/messages/messages.d.ts", "interface MessageCreateParamsBase {"},
		{"gemini", "/v1beta/models/m:generateContent", converters, "function generateContentConfigToMldev("},
		{"gemini", "/v1beta/models/m:generateContent", converters, "function generateContentParametersToMldev("},
		{"mistral", "/v1/chat/completions", "@mistralai/mistralai/esm/models/components/chatcompletionrequest.d.ts", "type ChatCompletionRequest$Outbound = {"},
		{"mistral", "/v1/fim/completions", "@mistralai/mistralai/esm/models/components/fimcompletionrequest.d.ts", "type FIMCompletionRequest$Outbound = {"},
		{"mistral", "/v1/embeddings", "@mistralai/mistralai/esm/models/components/embeddingrequest.d.ts", "type EmbeddingRequest$Outbound = {"},
		{"cohere", "/v2/chat", "cohere-ai/dist/serialization/resources/v2/client/requests/V2ChatRequest.d.ts", "interface Raw {"},
		{"cohere", "/v2/embed", "cohere-ai/dist/serialization/resources/v2/client/requests/V2EmbedRequest.d.ts", "interface Raw {"},
		{"groq", "/openai/v1/chat/completions", "groq-sdk/resources/chat/completions.d.ts", "interface ChatCompletionCreateParamsBase {"},
		{"groq", "/openai/v1/embeddings", "groq-sdk/resources/embeddings.d.ts", "interface EmbeddingCreateParams {"},
		{"together", "/v1/chat/completions", "together-ai/resources/chat/completions.d.ts", "interface CompletionCreateParamsBase {"},
		{"together", "/v1/completions", "together-ai/resources/completions.d.ts", "interface CompletionCreateParamsBase {"},
		{"together", "/v1/embeddings", "together-ai/resources/embeddings.d.ts", "interface EmbeddingCreateParams {"},
	} {
		text, err := os.ReadFile("sdk/node_modules/" + sdk.file)
		if err != nil {
			t.Fatal(err)
		}
		members := membersOf(string(text), sdk.begins)
		if len(members) < 2 {
			t.Errorf("%s: %s has the members %v", sdk.file, sdk.begins, members)
		}
		preset, _ := upstream.Lookup(sdk.preset)
		for _, name := range members {
			if name == "model" {
				continue
			}
			model := `"model":"m",`
			if sdk.preset == "gemini" {
				model = ""
			}
			_, err := preset.Estimate(&upstream.Call{Method: "POST", Path: sdk.path, Body: fmt.Appendf(nil, `{%s%q:{}}`, model, name)})
			var unknown upstream.UnknownFieldError
			if !errors.As(err, &unknown) {
				continue
			}
			if kept[name] = true; refusedMembers[name] == "" {
				t.Errorf("%s: %s may hold %s: decide what it costs, or why it is refused", sdk.file, strings.Fields(sdk.begins)[1], name)
			}
		}
	}
	for name := range refusedMembers {
		if !kept[name] {
			t.Errorf("no SDK sends %s any more, or it is not refused: take it off the list", name)
		}
	}
}

var (
	declared  = regexp.MustCompile(`^\s*'?([A-Za-z_]+)'?\??:`)
	converted = regexp.MustCompile(`setValueByPath\((parentObject|toObject), \['([A-Za-z_]+)'\]`)
)

// membersOf are the members of an object's type in TypeScript; or, where a function
// begins there, those that it writes.
func membersOf(text, begins string) (names []string) {
	_, rest, ok := strings.Cut(text, begins)
	if !ok {
		return nil
	}
	if strings.HasPrefix(begins, "function ") {
		body, _, _ := strings.Cut(rest, "\n}\n")
		object := "toObject"
		if strings.Contains(body, "(parentObject,") {
			object = "parentObject" // the other one is a part of the request
		}
		for _, m := range converted.FindAllStringSubmatch(body, -1) {
			if m[1] == object && !slices.Contains(names, m[2]) {
				names = append(names, m[2])
			}
		}
		return names
	}
	depth := 1
	for line := range strings.SplitSeq(rest, "\n") {
		if line := strings.TrimSpace(line); strings.HasPrefix(line, "*") || strings.HasPrefix(line, "/*") {
			continue
		}
		if m := declared.FindStringSubmatch(line); m != nil && depth == 1 {
			names = append(names, m[1])
		}
		if depth += strings.Count(line, "{") - strings.Count(line, "}"); depth <= 0 {
			break
		}
	}
	return names
}
