package wire

// Fingerprinted names a real key.
type Fingerprinted struct {
	CredentialFingerprint string `json:"credential_fingerprint"`
	// Upstreams are those whose held credential it is.
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

// TierPrice is a price of requests with a long input.
type TierPrice struct {
	Above  int64  `json:"above_input_tokens"`
	Input  string `json:"input"`
	Output string `json:"output"`
}

// ListedPrices is the table, or those of its models that a name finds.
type ListedPrices struct {
	AsOf   string        `json:"as_of"` // of the built-in table
	Prices []PriceObject `json:"prices"`
}

// SealKeyObject is a seal key as the management API shows it: never the key.
type SealKeyObject struct {
	ID string `json:"id"`
	// Seals says that new sealed keys are sealed with it.
	Seals bool `json:"seals"`
	// Opens says that the server has it.
	Opens bool `json:"opens"`
	// LiveKeys count the keys that need it, EndedKeys the exhausted and expired
	// ones that would need it again after a grant.
	LiveKeys  int64 `json:"live_keys"`
	EndedKeys int64 `json:"ended_keys"`
}

// SealKeysAnswer lists the seal keys, the one that seals first.
type SealKeysAnswer struct {
	SealKeys []SealKeyObject `json:"seal_keys"`
}

// UpstreamInfo is what may be told of a configured upstream.
type UpstreamInfo struct {
	Name    string   `json:"name"`
	Preset  string   `json:"preset,omitempty"`
	Dialect string   `json:"dialect,omitempty"`
	Origins []string `json:"origins"`
	// Held says that the server has a credential, so that keys with held
	// custody can be minted.
	Held bool `json:"held"`
	// CredentialFingerprint names that credential; see
	// [limiter.Limiter.Fingerprint].
	CredentialFingerprint string `json:"credential_fingerprint,omitempty"`
	// CredentialEnv is the environment variable that the server has the
	// credential from: `run` takes it out of its command's environment.
	CredentialEnv string `json:"credential_env,omitempty"`
}

// ClientText is what one client of an upstream needs to use a scoped key: the
// lines of docs/clients.md.
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

// ClientsAnswer is how the clients of an upstream are pointed at this server.
type ClientsAnswer struct {
	Upstream string       `json:"upstream"`
	BaseURL  string       `json:"base_url"`
	Clients  []ClientText `json:"clients"`
}
