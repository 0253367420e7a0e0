package wire

// Fingerprinted is the fingerprint of a real key.
type Fingerprinted struct {
	CredentialFingerprint string `json:"credential_fingerprint"`
	// Upstreams lists the upstreams whose held credential it is.
	Upstreams []string `json:"upstreams"`
}

// PriceObject is a price as the management API shows it, in USD per million
// tokens.
type PriceObject struct {
	Provider     string      `json:"provider"`
	Model        string      `json:"model"`
	Input        string      `json:"input"`
	Output       string      `json:"output"`
	CachedInput  string      `json:"cached_input,omitempty"`
	CacheWrite   string      `json:"cache_write,omitempty"`
	CacheWrite1h string      `json:"cache_write_1h,omitempty"`
	Tiers        []TierPrice `json:"tiers,omitempty"`
	Context      int64       `json:"context_window,omitempty"`
	MaxOutput    int64       `json:"max_output_tokens,omitempty"`
	AsOf         string      `json:"as_of,omitempty"`
	Source       string      `json:"source,omitempty"`
	Confidence   string      `json:"confidence,omitempty"`
}

// TierPrice is the price of requests with a long input.
type TierPrice struct {
	Above  int64  `json:"above_input_tokens"`
	Input  string `json:"input"`
	Output string `json:"output"`
}

// ListedPrices is the price table, or the models in it that a name finds.
type ListedPrices struct {
	AsOf   string        `json:"as_of"` // of the built-in table
	Prices []PriceObject `json:"prices"`
}

// SealKeyObject is a seal key as the management API shows it. It never holds the
// key itself.
type SealKeyObject struct {
	ID string `json:"id"`
	// Seals is true for the seal key with which new sealed keys are sealed.
	Seals bool `json:"seals"`
	// Opens is true if the server has the seal key.
	Opens bool `json:"opens"`
	// LiveKeys counts the keys that need it. EndedKeys counts the exhausted and
	// expired keys that would need it again after a grant.
	LiveKeys  int64 `json:"live_keys"`
	EndedKeys int64 `json:"ended_keys"`
}

// SealKeysAnswer lists the seal keys. The first is the one that seals.
type SealKeysAnswer struct {
	SealKeys []SealKeyObject `json:"seal_keys"`
}

// UpstreamInfo is what callers may see of a configured upstream.
type UpstreamInfo struct {
	Name    string   `json:"name"`
	Preset  string   `json:"preset,omitempty"`
	Dialect string   `json:"dialect,omitempty"`
	Origins []string `json:"origins"`
	// Held is true if the server has a credential, so that keys with held custody
	// can be minted.
	Held bool `json:"held"`
	// CredentialFingerprint is the fingerprint of that credential; see
	// [limiter.Limiter.Fingerprint].
	CredentialFingerprint string `json:"credential_fingerprint,omitempty"`
	// CredentialEnv is the environment variable from which the server takes the
	// credential: `run` removes it from its command's environment.
	CredentialEnv string `json:"credential_env,omitempty"`
}

// ClientText has the lines that one client of an upstream needs to use a scoped
// key; they are those of docs/clients.md.
type ClientText struct {
	Name  string   `json:"name"`
	Note  string   `json:"note,omitempty"`
	Lines []string `json:"lines"`
}

// UpstreamsAnswer lists the configured upstreams.
type UpstreamsAnswer struct {
	BaseURL   string         `json:"base_url"`
	Upstreams []UpstreamInfo `json:"upstreams"`
}

// ClientsAnswer says how the clients of an upstream are pointed at this server.
type ClientsAnswer struct {
	Upstream string       `json:"upstream"`
	BaseURL  string       `json:"base_url"`
	Clients  []ClientText `json:"clients"`
}
