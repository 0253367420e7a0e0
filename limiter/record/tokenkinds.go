package record

// TokenKinds splits the tokens that were used by type, over the whole life of a key
// or over an hour. It is for reports: no budget depends on it, and a crash may lose
// the last seconds.
type TokenKinds struct {
	Input       int64 `json:"input"` // neither read from a cache nor written to one
	CachedInput int64 `json:"cached_input"`
	CacheWrite  int64 `json:"cache_write"`
	Output      int64 `json:"output"`     // reasoning included
	Unmeasured  int64 `json:"unmeasured"` // charged at the bound, because the actual use was not reported
}

func (t *TokenKinds) All() [5]*int64 {
	return [5]*int64{&t.Input, &t.CachedInput, &t.CacheWrite, &t.Output, &t.Unmeasured}
}

func (t *TokenKinds) Add(o TokenKinds) {
	more := o.All()
	for i, n := range t.All() {
		*n += *more[i]
	}
}

// Minus is what remains without o.
func (t TokenKinds) Minus(o TokenKinds) TokenKinds {
	less := o.All()
	for i, n := range t.All() {
		*n -= *less[i]
	}
	return t
}

// Sum is all tokens.
func (t *TokenKinds) Sum() (sum int64) {
	for _, n := range t.All() {
		sum += *n
	}
	return sum
}
