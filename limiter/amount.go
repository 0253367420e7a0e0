package limiter

import (
	"fmt"
	"strings"
)

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

func (a *Amounts) add(b Amounts) {
	for i, n := range b {
		a[i] += n
	}
}

func (a Amounts) minus(b Amounts) Amounts {
	for i, n := range b {
		a[i] -= n
	}
	return a
}

// NoLimits is the budget that limits nothing.
func NoLimits() Amounts { return Amounts{NoLimit, NoLimit, NoLimit, NoLimit} }

// ParseUSD reads an amount of dollars as nano-dollars: "5", "5.00", "$0.25", with
// at most nine decimals.
func ParseUSD(s string) (int64, error) {
	wrong := fmt.Errorf("an amount is written 5, 5.00 or 0.25, in US dollars, got %q", s)
	whole, fraction, point := strings.Cut(strings.TrimPrefix(s, "$"), ".")
	if len(whole) > 9 || len(fraction) > 9 || whole == "" || point && fraction == "" {
		return 0, wrong
	}
	n := int64(0)
	for _, digits := range []string{whole, fraction + "000000000"[len(fraction):]} {
		for i := range len(digits) {
			if digits[i] < '0' || digits[i] > '9' {
				return 0, wrong
			}
			n = n*10 + int64(digits[i]-'0')
		}
	}
	return n, nil
}
