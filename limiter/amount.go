package limiter

// Kind is one dimension of a budget. Every kind is a whole number: requests,
// tokens, or nano-dollars (1 USD = 1,000,000,000). No float touches a budget.
type Kind uint8

// The kinds a budget can limit.
const (
	// Activations counts admitted requests.
	Activations Kind = iota
	// Tokens counts input (cached and cache writes included) and output
	// (reasoning included) tokens.
	Tokens
	// Nanodollars counts spend in billionths of a US dollar.
	Nanodollars
	// Attempts counts requests dispatched for keys that are charged by
	// success only; its limit is twice the activations, so that failures
	// given back cannot run for ever.
	Attempts

	// NumKinds is the number of kinds, not a kind.
	NumKinds = 4
)

// NoLimit stands in a limit for "this kind is not limited".
const NoLimit int64 = -1

var kindNames = [NumKinds]string{"activations", "tokens", "nano-dollars", "attempts"}

// String names the kind as it stands in messages.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// Amounts holds one number per kind.
type Amounts [NumKinds]int64

// NoLimits is the budget that limits nothing.
func NoLimits() Amounts { return Amounts{NoLimit, NoLimit, NoLimit, NoLimit} }
