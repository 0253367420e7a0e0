package upstream

import (
	"regexp"
	"slices"

	"github.com/till-proxy/till/scope"
)

// below denies a path and everything below it, for any method.
func below(paths ...string) scope.PathRules {
	var lines []string
	for _, p := range paths {
		lines = append(lines, "* "+p, "* "+p+"/*")
	}
	return scope.MustPathRules(lines...)
}

var bearer = Auth{In: InHeader, Name: "Authorization", Scheme: "Bearer"}

var modelList = scope.MustPathRules("GET /models", "HEAD /models")

// asynchronous are the paths that continue their work after the answer, by the names
// that OpenAI and Anthropic gave them and others copy.
var asynchronous = below(
	"/batches", "/batch", "/messages/batches", "/files", "/uploads", "/fine_tuning", "/fine-tunes", "/graders",
	"/evals", "/assistants", "/threads", "/vector_stores", "/containers",
	"/videos", "/realtime", "/skills", "/conversations",
)

// administrative are the paths of accounts, their members and their credentials, by
// the names that vendors give them, and those that change or destroy a model.
var administrative = slices.Concat(below(
	"/organization", "/organizations", "/admin", "/workspaces", "/users", "/invites", "/billing", "/webhooks", "/credentials",
	"/api-keys", "/api-key", "/api_keys", "/service-accounts", "/service_accounts",
), scope.MustPathRules("DELETE /models", "DELETE /models/*", "PUT /models/*", "PATCH /models/*"))

// presets is the table. The order is that of the documentation.
var presets = []*Preset{
	{
		// https://platform.openai.com/docs/api-reference
		Name: "openai", Origin: "https://api.openai.com", Dialect: OpenAI, OwnModels: true, Unshared: true, Auth: bearer, Prefix: "/v1", AsksForUsage: true,
		Free: slices.Concat(modelList, scope.MustPathRules("POST /responses/input_tokens")),
		// https://platform.openai.com/docs/guides/moderation; stored answers are found
		// only by id, because lists would show those of other keys.
		Unbilled: scope.MustPathRules("POST /moderations",
			"GET /responses/*", "DELETE /responses/*", "POST /responses/*/cancel",
			"GET /chat/completions/*", "DELETE /chat/completions/*"),
		// A permission shares a model with another project.
		Administrative: below("/realtime/client_secrets", "/realtime/sessions", "/realtime/transcription_sessions",
			"/chatkit", "/projects", "/fine_tuning/checkpoints/*/permissions"),
		AccountHeaders: []string{"Openai-Organization", "Openai-Project"},
		KeyEnv:         []string{"OPENAI_API_KEY"},
		ClientEnv:      []ClientVar{{Name: "OPENAI_BASE_URL", Path: "/v1"}, {Name: "OPENAI_API_KEY", Key: true}},
		// Aider and LiteLLM. (Codex takes an address from its configuration alone,
		// and CODEX_API_KEY sends it to the vendor.)
		ToolEnv: []ClientVar{{Name: "OPENAI_API_BASE", Path: "/v1"}},
		// "Data residency endpoints are charged a 10% uplift":
		// https://developers.openai.com/api/docs/guides/data-residency. The list of
		// regions grows: openai-node's src/internal/data-residency.ts also has ae.
		Regions:   []Region{{Hosts: []string{".api.openai.com"}, Permille: 1100, Spared: openAIBefore2026March.MatchString}},
		TierHosts: []string{"api.openai.com", ".api.openai.com"},
		OtherEnv:  []string{"OPENAI_ADMIN_KEY", "CODEX_API_KEY", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN", "AZURE_API_KEY"},
	}, {
		// https://docs.anthropic.com/en/api
		Name: "anthropic", Origin: "https://api.anthropic.com", Dialect: Anthropic, OwnModels: true, Unshared: true, InputFirst: true,
		Auth: Auth{In: InHeader, Name: "X-Api-Key"}, Prefix: "/v1",
		AsksForUsage:   true, // its chat completions: https://platform.claude.com/docs/en/api/openai-sdk
		Free:           slices.Concat(modelList, scope.MustPathRules("POST /messages/count_tokens")),
		Asynchronous:   below("/agents", "/sessions", "/environments", "/deployments", "/deployment_runs", "/memory_stores", "/dreams"),
		Administrative: below("/vaults", "/tunnels", "/oauth", "/user_profiles"),
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
		// Its API in OpenAI's form answers 400 to the header of its own API, to both at
		// once, and to ?key=: NousResearch/hermes-agent#62259, NVIDIA/NemoClaw#1960 and
		// #2093; without "/openai" the same: sipeed/picoclaw#2374.
		BearerPaths: scope.MustPathRules("* /openai/*", "* /chat/completions"),
		// With 400 and 403: google-gemini/gemini-cli#25198, continuedev/continue#11541 and
		// #12781, google/generative-ai-docs#356. The reasons are those of
		// googleapis/googleapis, google/api/error_reason.proto.
		CredentialErrors: regexp.MustCompile(`"reason"\s*:\s*"(API_KEY_\w+|CONSUMER_(INVALID|SUSPENDED))"|` +
			`"message"\s*:\s*"(API [Kk]ey (not valid|not found|expired)|Your API key was reported as leaked)`),
		Versions: []string{"/v1", "/v1alpha", "/v1beta1", "/v1main"}, Roots: []string{"/upload", "/download", "/ws"},
		Free: slices.Concat(modelList, scope.MustPathRules("GET /openai/models", "HEAD /openai/models", "POST /models/*:countTokens")),
		Asynchronous: slices.Concat(below("/upload", "/download", "/ws", "/cachedContents", "/tunedModels", "/tuningJobs", "/corpora", "/interactions",
			"/agents", "/environments", "/triggers", "/fileSearchStores", "/generatedFiles", "/operations", "/models/*/operations", "/batchPredictionJobs"),
			scope.MustPathRules("* /files:*", "* /tuningJobs:*", "POST /voices", "DELETE /voices/*", "* /models/*:predictLongRunning", "* /models/*:fetchPredictOperation",
				"* /models/*:batchGenerateContent", "* /models/*:asyncBatchEmbedContent")),
		Administrative: slices.Concat(below("/authTokens", "/auth_tokens", "/tunedModels/*/permissions", "/corpora/*/permissions"),
			scope.MustPathRules("* /tunedModels/*:transferOwnership")),
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
		Free:           modelList,
		Unbilled:       scope.MustPathRules("GET /generation"), // the cost of one request, by its id
		Administrative: below("/keys", "/key", "/auth", "/credits", "/activity", "/provisioning", "/guardrails"),
		KeyEnv:         []string{"OPENROUTER_API_KEY"},
		ClientEnv:      []ClientVar{{Name: "OPENAI_BASE_URL", Path: "/api/v1"}, {Name: "OPENAI_API_KEY", Key: true}, {Name: "OPENROUTER_API_KEY", Key: true}},
	}, {
		// https://docs.mistral.ai/api
		Name: "mistral", Origin: "https://api.mistral.ai", Dialect: Mistral, OwnModels: true, InputExtra: 1024, Auth: bearer, Prefix: "/v1",
		Versions: []string{"/v2"},
		Free:     modelList,
		Asynchronous: slices.Concat(below("/agents", "/libraries", "/beta", "/connectors", "/workflows", "/observability", "/rag", "/prompts"),
			scope.MustPathRules("POST /audio/voices", "PATCH /audio/voices/*", "DELETE /audio/voices/*")),
		Administrative: below("/client/sessions", "/libraries/*/share", "/connectors/*/share", "/connectors/*/auth_url",
			"/connectors/*/user", "/connectors/*/workspace", "/connectors/*/*/credentials"),
		// Regional inference is billed at 1.1 times the list price:
		// https://docs.mistral.ai/inference/regional-inference
		Regions:   []Region{{Hosts: []string{"api.eu.mistral.ai", "api.us.mistral.ai"}, Permille: 1100}},
		KeyEnv:    []string{"MISTRAL_API_KEY"},
		ClientEnv: []ClientVar{{Name: "MISTRAL_API_KEY", Key: true}}, InCode: "serverURL",
	}, {
		// https://console.groq.com/docs/api-reference
		Name: "groq", Origin: "https://api.groq.com", Dialect: OpenAI, Auth: bearer, Prefix: "/openai/v1",
		Free:         modelList,
		Asynchronous: below("/fine_tunings"),
		KeyEnv:       []string{"GROQ_API_KEY"},
		ClientEnv:    []ClientVar{{Name: "GROQ_BASE_URL"}, {Name: "GROQ_API_KEY", Key: true}},
	}, {
		// https://docs.together.ai/reference
		Name: "together", Origin: "https://api.together.xyz", Dialect: OpenAI, Auth: bearer, Prefix: "/v1",
		AsksForUsage: true, // streams of some models, such as Kimi K3, report none otherwise: vercel/ai#17986
		Free:         modelList,
		Asynchronous: slices.Concat(below("/endpoints", "/deployments", "/projects", "/compute", "/clusters", "/queue", "/jobs", "/finetune", "/evaluation", "/tci"),
			scope.MustPathRules("POST /models")),
		Administrative: slices.Concat(below("/deployments/secrets"), scope.MustPathRules("DELETE /projects/*/models/*")),
		// https://docs.together.ai/docs/serverless/geo-specific-inference
		Regions:   []Region{{Hosts: []string{"us-api.together.ai", "ca-api.together.ai"}, Permille: 1250}},
		KeyEnv:    []string{"TOGETHER_API_KEY"},
		ClientEnv: []ClientVar{{Name: "TOGETHER_BASE_URL", Path: "/v1"}, {Name: "TOGETHER_API_KEY", Key: true}},
	}, {
		// https://docs.fireworks.ai/api-reference
		Name: "fireworks", Origin: "https://api.fireworks.ai", Dialect: OpenAI, Auth: bearer, Prefix: "/inference/v1",
		AsksForUsage:   true,
		Free:           modelList,
		Administrative: below("/accounts"),
		KeyEnv:         []string{"FIREWORKS_API_KEY"},
		ClientEnv:      []ClientVar{{Name: "OPENAI_BASE_URL", Path: "/inference/v1"}, {Name: "OPENAI_API_KEY", Key: true}, {Name: "FIREWORKS_API_KEY", Key: true}},
	}, {
		// https://docs.perplexity.ai/api-reference
		Name: "perplexity", Origin: "https://api.perplexity.ai", Dialect: OpenAI, Auth: bearer,
		Versions:       []string{"/v1"},
		Free:           modelList,
		Asynchronous:   below("/async"),
		Administrative: below("/generate_auth_token", "/revoke_auth_token"),
		KeyEnv:         []string{"PERPLEXITY_API_KEY", "PPLX_API_KEY"},
		ClientEnv:      []ClientVar{{Name: "OPENAI_BASE_URL"}, {Name: "OPENAI_API_KEY", Key: true}, {Name: "PERPLEXITY_API_KEY", Key: true}},
	}, {
		// https://api-docs.deepseek.com
		Name: "deepseek", Origin: "https://api.deepseek.com", Dialect: OpenAI, OwnModels: true, Auth: bearer, Prefix: "/v1",
		AsksForUsage:   true,
		Versions:       []string{"/anthropic/v1", "/anthropic", "/beta"},
		Free:           modelList,
		Administrative: below("/user"),
		KeyEnv:         []string{"DEEPSEEK_API_KEY"},
		ClientEnv:      []ClientVar{{Name: "OPENAI_BASE_URL", Path: "/v1"}, {Name: "OPENAI_API_KEY", Key: true}, {Name: "DEEPSEEK_API_KEY", Key: true}},
	}, {
		// https://docs.x.ai/docs/api-reference
		Name: "xai", Origin: "https://api.x.ai", Dialect: OpenAI, OwnModels: true, InputExtra: 1024, Auth: bearer, Prefix: "/v1",
		// "400: An incorrect API key is supplied": https://docs.x.ai/docs/key-information/debugging.
		// It shows both ends of the key (continuedev/continue#10778), and may be escaped as in
		// a URL (i-am-bee/beeai-framework#447). 403 is for a key that was blocked.
		CredentialErrors: regexp.MustCompile(`"(error|message)"\s*:\s*"(Incorrect( |%20)API( |%20)key|API key is currently (blocked|disabled))`),
		AsksForUsage:     true,
		Free:             slices.Concat(modelList, scope.MustPathRules("GET /language-models", "POST /tokenize-text")),
		Unbilled:         scope.MustPathRules("GET /responses/*", "DELETE /responses/*"),
		Asynchronous:     below("/chat/deferred-completion", "/collections"),
		Administrative:   below("/auth", "/management"),
		// https://docs.x.ai/developers/advanced-api-usage/regions
		Regions:   []Region{{Hosts: []string{"us.api.x.ai"}, Permille: 1100}},
		KeyEnv:    []string{"XAI_API_KEY"},
		ClientEnv: []ClientVar{{Name: "OPENAI_BASE_URL", Path: "/v1"}, {Name: "OPENAI_API_KEY", Key: true}, {Name: "XAI_API_KEY", Key: true}},
	}, {
		// https://docs.cohere.com/reference
		// Its chat completions refuse stream_options: see
		// https://strandsagents.com/docs/user-guide/concepts/model-providers/cohere/
		Name: "cohere", Origin: "https://api.cohere.com", Dialect: Cohere, OwnModels: true, InputExtra: 1024, Auth: bearer, Prefix: "/v2",
		Versions:     []string{"/v1", "/compatibility/v1", "/compatibility"},
		Free:         slices.Concat(modelList, scope.MustPathRules("POST /tokenize", "POST /check-api-key")),
		Asynchronous: below("/embed-jobs", "/datasets", "/finetuning", "/connectors"),
		KeyEnv:       []string{"CO_API_KEY", "COHERE_API_KEY"},
		ClientEnv:    []ClientVar{{Name: "CO_API_KEY", Key: true}}, InCode: "environment",
	}, {
		// https://docs.ollama.com/api
		Name: "ollama", Origin: "http://127.0.0.1:11434", Dialect: OpenAI, Auth: bearer, Prefix: "/v1",
		Versions:     []string{"/api"},
		AsksForUsage: true,
		Free:         slices.Concat(modelList, scope.MustPathRules("GET /tags", "HEAD /tags", "GET /version", "GET /ps", "POST /show", "HEAD /", "GET /")),
		Asynchronous: below("/pull", "/push", "/create", "/copy", "/delete", "/blobs"),
		KeyEnv:       []string{"OLLAMA_API_KEY"},
		ClientEnv:    []ClientVar{{Name: "OLLAMA_HOST"}, {Name: "OPENAI_BASE_URL", Path: "/v1"}, {Name: "OPENAI_API_KEY", Key: true}},
	},
	// https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
	local(Preset{Name: "vllm", Origin: "http://127.0.0.1:8000", KeyEnv: []string{"VLLM_API_KEY"},
		Roots: []string{"/tokenize", "/detokenize", "/health"},
		Free:  scope.MustPathRules("POST /tokenize", "POST /detokenize", "POST /messages/count_tokens"),
	}, "load_lora_adapter", "unload_lora_adapter", "collective_rpc", "sleep", "wake_up", "reset_prefix_cache", "server_info", "load", "pause", "resume", "scale_elastic_ep"),
	// https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md "slots"
	// shows other clients' requests.
	local(Preset{Name: "llamacpp", Origin: "http://127.0.0.1:8080", KeyEnv: []string{"LLAMA_API_KEY"},
		Roots: []string{"/tokenize", "/detokenize", "/apply-template", "/health"},
		Free:  scope.MustPathRules("POST /tokenize", "POST /detokenize", "POST /apply-template", "POST /messages/count_tokens"),
	}, "slots", "props", "lora-adapters", "models/load", "models/unload"),
	// https://lmstudio.ai/docs/developer
	local(Preset{Name: "lmstudio", Origin: "http://127.0.0.1:1234", KeyEnv: []string{"LM_API_TOKEN"},
		Versions: []string{"/api/v0", "/api/v1", "/api"},
	}, "models/load", "models/unload", "models/download"),
	// https://huggingface.co/docs/text-generation-inference/basic_tutorials/consuming_tgi
	local(Preset{Name: "tgi", Origin: "http://127.0.0.1:8080",
		Roots: []string{"/tokenize", "/chat_tokenize", "/info", "/health"},
		Free:  scope.MustPathRules("GET /info", "POST /tokenize", "POST /chat_tokenize"),
	}),
	// https://docs.sglang.io/docs/basic_usage/openai_api_completions
	local(Preset{Name: "sglang", Origin: "http://127.0.0.1:30000",
		Roots: []string{"/tokenize", "/detokenize", "/health"},
		Free:  scope.MustPathRules("POST /tokenize", "POST /detokenize", "POST /messages/count_tokens"),
	}, "load_lora_adapter", "unload_lora_adapter", "flush_cache", "server_info", "get_server_info", "get_load", "loads", "abort_request",
		"start_profile", "stop_profile", "update_weights_from_disk", "release_memory_occupation", "resume_memory_occupation",
		"pause_generation", "continue_generation", "set_internal_state", "configure_logging"),
}

// local completes the preset of a server that people run themselves. A path outside
// /v1 that the preset does not name is sent below /v1, where there is nothing;
// administrative ones are refused by name.
//
// Such servers bound an answer by max_tokens. Some know max_completion_tokens as well
// (vLLM, SGLang, llama.cpp since ggml-org/llama.cpp#19831), others ignore it silently
// (abetlen/llama-cpp-python#1907, ikawrakow/ik_llama.cpp#2321,
// huggingface/text-generation-inference#2844). Their templates add text that no
// request holds: some 100 tokens for "hello" (danny-avila/LibreChat#1543).
func local(p Preset, administrative ...string) *Preset {
	p.Dialect, p.Auth, p.Prefix = OpenAI, bearer, "/v1"
	p.AsksForUsage, p.Keyless, p.OutputField = true, true, MaxTokens
	p.Free = slices.Concat(modelList, p.Free)
	if p.Name != "lmstudio" {
		p.Free = slices.Concat(scope.MustPathRules("GET /health", "HEAD /health"), p.Free)
	}
	for _, name := range append(administrative, "metrics", "admin") {
		p.Administrative = slices.Concat(p.Administrative, below("/"+name))
	}
	p.ClientEnv = []ClientVar{{Name: "OPENAI_BASE_URL", Path: "/v1"}, {Name: "OPENAI_API_KEY", Key: true}}
	return &p
}

// openAIBefore2026March are the models from before 5 March 2026, by name or dated
// snapshot, for which data residency costs nothing.
var openAIBefore2026March = regexp.MustCompile(`^(gpt-3\.5-turbo|gpt-4(\.1|o|-turbo)?|chatgpt-4o-latest|o1|o3|o4-mini|gpt-5(\.1|\.2|\.3-codex)?|` +
	`text-embedding-(3-large|3-small|ada-002)|davinci-002|babbage-002)(-|$)`)

func init() {
	for _, p := range presets {
		p.Administrative, p.Asynchronous = slices.Concat(administrative, p.Administrative), slices.Concat(asynchronous, p.Asynchronous)
		p.administrative, p.asynchronous = scope.NewDenyList(p.Administrative), scope.NewDenyList(p.Asynchronous)
	}
}
