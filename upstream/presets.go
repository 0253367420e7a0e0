package upstream

import (
	"regexp"

	"github.com/till-proxy/till/scope"
)

func rules(lines ...string) scope.PathRules { return scope.MustPathRules(lines...) }

// below denies a path and everything below it, for any method.
func below(paths ...string) scope.PathRules {
	var lines []string
	for _, p := range paths {
		lines = append(lines, "* "+p, "* "+p+"/*")
	}
	return rules(lines...)
}

func join(lists ...scope.PathRules) scope.PathRules {
	var all scope.PathRules
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

var bearer = Auth{In: InHeader, Name: "Authorization", Scheme: "Bearer"}

// What the vendors of OpenAI's shape have in common, below a prefix.
func modelList(prefix string) scope.PathRules {
	return rules("GET "+prefix+"/models", "HEAD "+prefix+"/models")
}

// openAIAsynchronous is what OpenAI's own API, and those that copy it, do
// after the answer.
func openAIAsynchronous(prefix string) scope.PathRules {
	return below(
		prefix+"/batches", prefix+"/files", prefix+"/uploads", prefix+"/fine_tuning", prefix+"/fine-tunes",
		prefix+"/evals", prefix+"/assistants", prefix+"/threads", prefix+"/vector_stores", prefix+"/containers",
		prefix+"/videos", prefix+"/realtime", prefix+"/skills", prefix+"/conversations", prefix+"/batch",
	)
}

// presets is the table. The order is that of the documentation.
var presets = []*Preset{
	{
		// https://platform.openai.com/docs/api-reference
		Name: "openai", Origin: "https://api.openai.com", Dialect: OpenAI, OwnModels: true, Unshared: true, Auth: bearer, Prefix: "/v1", AsksForUsage: true,
		Free: join(modelList("/v1"), rules("POST /v1/responses/input_tokens")),
		// https://platform.openai.com/docs/guides/moderation; what is stored is found
		// by its id alone: lists of it would show what other keys have said.
		Unbilled: rules("POST /v1/moderations",
			"GET /v1/responses/*", "DELETE /v1/responses/*", "POST /v1/responses/*/cancel",
			"GET /v1/chat/completions/*", "DELETE /v1/chat/completions/*"),
		Asynchronous: openAIAsynchronous("/v1"),
		Administrative: below("/v1/organization", "/v1/realtime/client_secrets", "/v1/realtime/sessions",
			"/v1/realtime/transcription_sessions", "/v1/chatkit", "/v1/projects", "/v1/admin"),
		AccountHeaders: []string{"Openai-Organization", "Openai-Project"},
		KeyEnv:         []string{"OPENAI_API_KEY"},
		ClientEnv:      []ClientVar{{Name: "OPENAI_BASE_URL", Path: "/v1"}, {Name: "OPENAI_API_KEY", Key: true}},
		// Aider and LiteLLM. (Codex takes an address from its configuration alone,
		// and CODEX_API_KEY sends it to the vendor.)
		ToolEnv: []ClientVar{{Name: "OPENAI_API_BASE", Path: "/v1"}},
		// https://developers.openai.com/api/docs/guides/data-residency
		Regions: []Region{{Hosts: []string{"us.api.openai.com", "eu.api.openai.com", "au.api.openai.com", "in.api.openai.com", "jp.api.openai.com"},
			Permille: 1100, Spared: openAIBefore2026March.MatchString}},
		OtherEnv: []string{"OPENAI_ADMIN_KEY", "CODEX_API_KEY", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN", "AZURE_API_KEY"},
	}, {
		// https://docs.anthropic.com/en/api
		Name: "anthropic", Origin: "https://api.anthropic.com", Dialect: Anthropic, OwnModels: true, Unshared: true, InputFirst: true,
		Auth: Auth{In: InHeader, Name: "X-Api-Key"}, Prefix: "/v1",
		AsksForUsage: true, // its chat completions: https://platform.claude.com/docs/en/api/openai-sdk
		Free:         join(modelList("/v1"), rules("POST /v1/messages/count_tokens")),
		Asynchronous: below("/v1/messages/batches", "/v1/files", "/v1/skills", "/v1/agents", "/v1/sessions",
			"/v1/environments", "/v1/deployments", "/v1/memory_stores", "/v1/dreams"),
		Administrative: below("/v1/organizations", "/v1/organization", "/v1/vaults", "/v1/tunnels", "/v1/oauth"),
		AccountHeaders: []string{"Anthropic-Organization-Id"},
		KeyEnv:         []string{"ANTHROPIC_API_KEY"},
		ClientEnv:      []ClientVar{{Name: "ANTHROPIC_BASE_URL"}, {Name: "ANTHROPIC_AUTH_TOKEN", Key: true}},
		// The Vercel AI SDK and LangChain read ANTHROPIC_API_KEY alone.
		ToolEnv: []ClientVar{{Name: "ANTHROPIC_API_KEY", Key: true}, {Name: "ANTHROPIC_API_URL"}, {Name: "ANTHROPIC_API_BASE"}},
		OtherEnv: []string{"CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY",
			"ANTHROPIC_FOUNDRY_API_KEY", "AWS_BEARER_TOKEN_BEDROCK"},
	}, {
		// https://ai.google.dev/api
		Name: "gemini", Origin: "https://generativelanguage.googleapis.com", Dialect: Gemini, OwnModels: true, Unshared: true,
		AsksForUsage: true, InputFirst: true,
		Auth: Auth{In: InHeader, Name: "X-Goog-Api-Key"}, Prefix: "/v1beta",
		Versions: []string{"/v1", "/v1alpha", "/v1beta1", "/v1main", "/upload", "/download", "/ws"},
		Free: join(modelList("/v1beta"), modelList("/v1"), modelList("/v1alpha"), modelList("/v1beta/openai"),
			rules("POST /v1beta/models/*:countTokens", "POST /v1/models/*:countTokens", "POST /v1alpha/models/*:countTokens")),
		Asynchronous: join(below("/upload", "/download", "/ws",
			"/v1beta/files", "/v1beta/batches", "/v1beta/cachedContents", "/v1beta/tunedModels", "/v1beta/corpora", "/v1beta/interactions", "/v1beta/fileSearchStores", "/v1beta/operations",
			"/v1/files", "/v1/batches", "/v1/cachedContents", "/v1/tunedModels", "/v1/interactions", "/v1/operations",
			"/v1alpha/files", "/v1alpha/batches", "/v1alpha/cachedContents", "/v1alpha/tunedModels", "/v1alpha/corpora", "/v1alpha/interactions", "/v1alpha/fileSearchStores", "/v1alpha/operations",
			"/v1beta/openai/batches", "/v1beta/openai/files", "/v1beta/openai/videos"),
			rules("* /v1beta/models/*:predictLongRunning", "* /v1beta/models/*:batchGenerateContent", "* /v1beta/models/*:asyncBatchEmbedContent",
				"* /v1/models/*:predictLongRunning", "* /v1/models/*:batchGenerateContent", "* /v1/models/*:asyncBatchEmbedContent",
				"* /v1alpha/models/*:predictLongRunning", "* /v1alpha/models/*:batchGenerateContent", "* /v1alpha/models/*:asyncBatchEmbedContent")),
		Administrative: join(below("/v1/authTokens", "/v1beta/authTokens", "/v1alpha/authTokens",
			"/v1/auth_tokens", "/v1beta/auth_tokens", "/v1alpha/auth_tokens"),
			rules("* /v1beta/tunedModels/*/permissions", "* /v1beta/corpora/*/permissions")),
		AccountHeaders: []string{"X-Goog-User-Project"},
		// The SDKs prefer GOOGLE_API_KEY when both are set.
		KeyEnv: []string{"GOOGLE_API_KEY", "GEMINI_API_KEY"},
		ClientEnv: []ClientVar{{Name: "GOOGLE_GEMINI_BASE_URL"}, {Name: "GEMINI_API_KEY", Key: true},
			{Name: "GOOGLE_API_KEY", Key: true}},
		// The Vercel AI SDK; the Interactions API of the SDKs; LiteLLM.
		ToolEnv:  []ClientVar{{Name: "GOOGLE_GENERATIVE_AI_API_KEY", Key: true}, {Name: "GOOGLE_GENAI_API_KEY", Key: true}, {Name: "GEMINI_API_BASE"}},
		OtherEnv: []string{"GOOGLE_GENAI_ACCESS_TOKEN", "GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_GENAI_USE_ENTERPRISE", "GOOGLE_VERTEX_BASE_URL"},
	}, {
		// https://openrouter.ai/docs/api-reference
		Name: "openrouter", Origin: "https://openrouter.ai", Dialect: OpenAI, Auth: bearer, Prefix: "/api/v1", Routes: true,
		Free:         modelList("/api/v1"),
		Unbilled:     rules("GET /api/v1/generation"), // what one request cost, by its id
		Asynchronous: openAIAsynchronous("/api/v1"),
		Administrative: below("/api/v1/keys", "/api/v1/key", "/api/v1/auth", "/api/v1/credits", "/api/v1/activity",
			"/api/v1/provisioning", "/api/v1/organization"),
		KeyEnv:    []string{"OPENROUTER_API_KEY"},
		ClientEnv: []ClientVar{{Name: "OPENAI_BASE_URL", Path: "/api/v1"}, {Name: "OPENAI_API_KEY", Key: true}, {Name: "OPENROUTER_API_KEY", Key: true}},
	}, {
		// https://docs.mistral.ai/api
		Name: "mistral", Origin: "https://api.mistral.ai", Dialect: Mistral, OwnModels: true, InputExtra: 1024, Auth: bearer, Prefix: "/v1",
		Free:         modelList("/v1"),
		Asynchronous: join(openAIAsynchronous("/v1"), below("/v1/agents", "/v1/libraries", "/v1/beta")),
		Administrative: below("/v1/organizations", "/v1/organization", "/v1/workspaces", "/v1/admin",
			"/v1/api-keys"),
		KeyEnv:    []string{"MISTRAL_API_KEY"},
		ClientEnv: []ClientVar{{Name: "MISTRAL_API_KEY", Key: true}}, InCode: "serverURL",
	}, {
		// https://console.groq.com/docs/api-reference
		Name: "groq", Origin: "https://api.groq.com", Dialect: OpenAI, Auth: bearer, Prefix: "/openai/v1",
		Free:           modelList("/openai/v1"),
		Asynchronous:   openAIAsynchronous("/openai/v1"),
		Administrative: below("/openai/v1/organization", "/openai/v1/admin"),
		KeyEnv:         []string{"GROQ_API_KEY"},
		ClientEnv:      []ClientVar{{Name: "GROQ_BASE_URL"}, {Name: "GROQ_API_KEY", Key: true}},
	}, {
		// https://docs.together.ai/reference
		Name: "together", Origin: "https://api.together.xyz", Dialect: OpenAI, Auth: bearer, Prefix: "/v1",
		Free:           modelList("/v1"),
		Asynchronous:   join(openAIAsynchronous("/v1"), below("/v1/endpoints", "/v1/evaluation", "/v1/tci")),
		Administrative: below("/v1/organization", "/v1/admin", "/v1/api-keys"),
		KeyEnv:         []string{"TOGETHER_API_KEY"},
		ClientEnv:      []ClientVar{{Name: "TOGETHER_BASE_URL", Path: "/v1"}, {Name: "TOGETHER_API_KEY", Key: true}},
	}, {
		// https://docs.fireworks.ai/api-reference
		Name: "fireworks", Origin: "https://api.fireworks.ai", Dialect: OpenAI, Auth: bearer, Prefix: "/inference/v1",
		AsksForUsage:   true,
		Free:           modelList("/inference/v1"),
		Asynchronous:   openAIAsynchronous("/inference/v1"),
		Administrative: below("/inference/v1/accounts", "/inference/v1/organization"),
		KeyEnv:         []string{"FIREWORKS_API_KEY"},
		ClientEnv:      []ClientVar{{Name: "OPENAI_BASE_URL", Path: "/inference/v1"}, {Name: "OPENAI_API_KEY", Key: true}, {Name: "FIREWORKS_API_KEY", Key: true}},
	}, {
		// https://docs.perplexity.ai/api-reference
		Name: "perplexity", Origin: "https://api.perplexity.ai", Dialect: OpenAI, Auth: bearer,
		Free:           join(modelList(""), modelList("/v1")),
		Asynchronous:   below("/async", "/v1/async"),
		Administrative: below("/generate_auth_token", "/revoke_auth_token", "/v1/organization"),
		KeyEnv:         []string{"PERPLEXITY_API_KEY", "PPLX_API_KEY"},
		ClientEnv:      []ClientVar{{Name: "OPENAI_BASE_URL"}, {Name: "OPENAI_API_KEY", Key: true}, {Name: "PERPLEXITY_API_KEY", Key: true}},
	}, {
		// https://api-docs.deepseek.com
		Name: "deepseek", Origin: "https://api.deepseek.com", Dialect: OpenAI, OwnModels: true, Auth: bearer, Prefix: "/v1",
		AsksForUsage:   true,
		Versions:       []string{"/anthropic", "/beta"},
		Free:           join(modelList("/v1"), modelList("/beta")),
		Asynchronous:   join(openAIAsynchronous("/v1"), below("/anthropic/v1/messages/batches")),
		Administrative: below("/v1/user", "/v1/organization"),
		KeyEnv:         []string{"DEEPSEEK_API_KEY"},
		ClientEnv:      []ClientVar{{Name: "OPENAI_BASE_URL", Path: "/v1"}, {Name: "OPENAI_API_KEY", Key: true}, {Name: "DEEPSEEK_API_KEY", Key: true}},
	}, {
		// https://docs.x.ai/docs/api-reference
		Name: "xai", Origin: "https://api.x.ai", Dialect: OpenAI, OwnModels: true, InputExtra: 1024, Auth: bearer, Prefix: "/v1",
		AsksForUsage:   true,
		Free:           join(modelList("/v1"), rules("GET /v1/language-models", "POST /v1/tokenize-text")),
		Unbilled:       rules("GET /v1/responses/*", "DELETE /v1/responses/*"),
		Asynchronous:   join(openAIAsynchronous("/v1"), below("/v1/chat/deferred-completion", "/v1/collections")),
		Administrative: below("/v1/api-key", "/v1/organization", "/auth", "/v1/auth", "/v1/management"),
		// https://docs.x.ai/developers/advanced-api-usage/regions
		Regions:   []Region{{Hosts: []string{"us.api.x.ai"}, Permille: 1100}},
		KeyEnv:    []string{"XAI_API_KEY"},
		ClientEnv: []ClientVar{{Name: "OPENAI_BASE_URL", Path: "/v1"}, {Name: "OPENAI_API_KEY", Key: true}, {Name: "XAI_API_KEY", Key: true}},
	}, {
		// https://docs.cohere.com/reference
		// Its chat completions refuse stream_options: see
		// https://strandsagents.com/docs/user-guide/concepts/model-providers/cohere/
		Name: "cohere", Origin: "https://api.cohere.com", Dialect: Cohere, OwnModels: true, InputExtra: 1024, Auth: bearer, Prefix: "/v2",
		Versions: []string{"/v1", "/compatibility"},
		Free:     join(modelList("/v1"), modelList("/v2"), rules("POST /v1/tokenize", "POST /v2/tokenize", "POST /v1/check-api-key")),
		Asynchronous: below("/v1/embed-jobs", "/v2/embed-jobs", "/v1/datasets", "/v2/datasets", "/v1/finetuning",
			"/v1/connectors", "/v2/batches", "/v1/batches"),
		Administrative: below("/v1/organization", "/v1/api-keys", "/v2/organization"),
		KeyEnv:         []string{"CO_API_KEY", "COHERE_API_KEY"},
		ClientEnv:      []ClientVar{{Name: "CO_API_KEY", Key: true}}, InCode: "environment",
	}, {
		// https://docs.ollama.com/api
		Name: "ollama", Origin: "http://127.0.0.1:11434", Dialect: OpenAI, Auth: bearer, Prefix: "/v1",
		Versions:     []string{"/api"},
		AsksForUsage: true,
		Free:         join(modelList("/v1"), rules("GET /api/tags", "HEAD /api/tags", "GET /api/version", "GET /api/ps", "POST /api/show", "HEAD /", "GET /")),
		Asynchronous: below("/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete", "/api/blobs"),
		KeyEnv:       []string{"OLLAMA_API_KEY"},
		ClientEnv:    []ClientVar{{Name: "OLLAMA_HOST"}, {Name: "OPENAI_BASE_URL", Path: "/v1"}, {Name: "OPENAI_API_KEY", Key: true}},
	},
	// https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
	local(Preset{Name: "vllm", Origin: "http://127.0.0.1:8000", KeyEnv: []string{"VLLM_API_KEY"},
		Versions: []string{"/tokenize", "/detokenize", "/health"},
		Free:     rules("POST /tokenize", "POST /detokenize", "POST /v1/messages/count_tokens"),
	}, "load_lora_adapter", "unload_lora_adapter", "collective_rpc", "sleep", "wake_up", "reset_prefix_cache", "server_info", "load", "pause", "resume", "scale_elastic_ep"),
	// https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
	// "slots" shows what others ask.
	local(Preset{Name: "llamacpp", Origin: "http://127.0.0.1:8080", KeyEnv: []string{"LLAMA_API_KEY"},
		Versions: []string{"/tokenize", "/detokenize", "/apply-template", "/health"},
		Free:     rules("POST /tokenize", "POST /detokenize", "POST /apply-template", "POST /v1/messages/count_tokens"),
	}, "slots", "props", "lora-adapters", "models/load", "models/unload"),
	// https://lmstudio.ai/docs/developer
	local(Preset{Name: "lmstudio", Origin: "http://127.0.0.1:1234", KeyEnv: []string{"LM_API_TOKEN"},
		Versions:       []string{"/api"},
		Free:           rules("GET /api/v0/models", "GET /api/v1/models"),
		Administrative: below("/api/v1/models/load", "/api/v1/models/unload", "/api/v1/models/download"),
	}),
	// https://huggingface.co/docs/text-generation-inference/basic_tutorials/consuming_tgi
	local(Preset{Name: "tgi", Origin: "http://127.0.0.1:8080",
		Versions: []string{"/tokenize", "/chat_tokenize", "/info", "/health"},
		Free:     rules("GET /info", "POST /tokenize", "POST /chat_tokenize"),
	}),
	// https://docs.sglang.io/docs/basic_usage/openai_api_completions
	local(Preset{Name: "sglang", Origin: "http://127.0.0.1:30000",
		Versions: []string{"/tokenize", "/detokenize", "/health"},
		Free:     rules("POST /v1/tokenize", "POST /v1/detokenize", "POST /tokenize", "POST /detokenize", "POST /v1/messages/count_tokens"),
	}, "load_lora_adapter", "unload_lora_adapter", "flush_cache", "server_info", "get_server_info", "get_load", "loads", "abort_request",
		"start_profile", "stop_profile", "update_weights_from_disk", "release_memory_occupation", "resume_memory_occupation",
		"pause_generation", "continue_generation", "set_internal_state", "configure_logging"),
}

// local completes the preset of a server that people run themselves. Paths
// outside of /v1 that it does not name are sent as paths below /v1, where there
// is nothing; administrative ones are refused there in plain words.
//
// Such servers bound an answer by max_tokens. Some know max_completion_tokens as
// well (vLLM, SGLang, llama.cpp since ggml-org/llama.cpp#19831), others drop it
// in silence (abetlen/llama-cpp-python#1907, ikawrakow/ik_llama.cpp#2321,
// huggingface/text-generation-inference#2844). Their templates add what no
// request holds: some 100 tokens for "hello" (danny-avila/LibreChat#1543).
func local(p Preset, administrative ...string) *Preset {
	p.Dialect, p.Auth, p.Prefix = OpenAI, bearer, "/v1"
	p.AsksForUsage, p.Keyless, p.OutputField = true, true, MaxTokens
	p.Free = join(modelList("/v1"), p.Free)
	if p.Name != "lmstudio" {
		p.Free = join(rules("GET /health", "HEAD /health"), p.Free)
	}
	p.Asynchronous = openAIAsynchronous("/v1")
	for _, name := range append(administrative, "metrics", "admin") {
		p.Administrative = join(p.Administrative, below("/v1/"+name))
	}
	p.ClientEnv = []ClientVar{{Name: "OPENAI_BASE_URL", Path: "/v1"}, {Name: "OPENAI_API_KEY", Key: true}}
	return &p
}

// openAIBefore2026March are the models of before 5 March 2026, by name or dated
// snapshot: data residency costs nothing for them.
var openAIBefore2026March = regexp.MustCompile(`^(gpt-3\.5-turbo|gpt-4(\.1|o|-turbo)?|chatgpt-4o-latest|o1|o3|o4-mini|gpt-5(\.1|\.2|\.3-codex)?|` +
	`text-embedding-(3-large|3-small|ada-002)|davinci-002|babbage-002)(-|$)`)

func init() {
	for _, p := range presets {
		p.administrative = scope.NewDenyList(p.Administrative)
		p.asynchronous = scope.NewDenyList(p.Asynchronous)
	}
}
