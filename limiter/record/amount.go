package record

import (
	"fmt"
	"slices"
	"strconv"
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

// LimitKinds are the kinds that can be limited directly. The limit on attempts
// follows from that on activations.
var LimitKinds = [...]Kind{Activations, Tokens, Nanodollars}

// kinds holds everything in which the kinds differ.
var kinds = [NumKinds]struct {
	name      string // in messages
	limit     string // the field of a key that limits it
	unit      string // the field of a grant or a shared budget that adds to it
	exhausted Code   // the refusal where nothing is left
	dollars   bool   // written in dollars
	metered   bool   // known only where the upstream reports its use
}{
	Activations: {name: "activations", limit: "max_activations", unit: "activations", exhausted: CodeActivationsExhausted},
	Tokens:      {name: "tokens", limit: "max_tokens", unit: "tokens", exhausted: CodeTokensExhausted, metered: true},
	Nanodollars: {name: "nano-dollars", limit: "max_spend_usd", unit: "spend_usd", exhausted: CodeSpendExhausted, dollars: true, metered: true},
	Attempts:    {name: "attempts", limit: "attempts", unit: "attempts", exhausted: CodeActivationsExhausted},
}

// String names the kind as it stands in messages.
func (k Kind) String() string {
	if int(k) < len(kinds) {
		return kinds[k].name
	}
	return "unknown"
}

// Exhausted is the code of refusals once nothing of the kind remains.
func (k Kind) Exhausted() Code { return kinds[k].exhausted }

// Unit is what a grant of the kind is called.
func (k Kind) Unit() string { return kinds[k].unit }

// LimitField is the field of a key that limits the kind.
func (k Kind) LimitField() string { return kinds[k].limit }

// Metered reports whether use is known only where the upstream reports it.
func (k Kind) Metered() bool { return kinds[k].metered }

// Value is a number of the kind as it stands in JSON.
func (k Kind) Value(n int64) any {
	if kinds[k].dollars {
		return FormatUSD(n)
	}
	return n
}

// Format prints a number without its unit, except for the dollar sign.
func (k Kind) Format(n int64) string {
	if kinds[k].dollars {
		return "$" + FormatUSD(n)
	}
	return strconv.FormatInt(n, 10)
}

// FormatAmount prints a number of a kind the way people say it.
func FormatAmount(k Kind, n int64) string {
	switch {
	case kinds[k].dollars:
		return k.Format(n)
	case k == Activations && n == 1:
		return "1 activation"
	}
	return fmt.Sprintf("%d %s", n, k)
}

// Amounts holds one number per kind.
type Amounts [NumKinds]int64

func (a *Amounts) Add(b Amounts) {
	for i, n := range b {
		a[i] += n
	}
}

func (a Amounts) Minus(b Amounts) Amounts {
	for i, n := range b {
		a[i] -= n
	}
	return a
}

// NoLimits is the budget that limits nothing.
func NoLimits() Amounts { return Amounts{NoLimit, NoLimit, NoLimit, NoLimit} }

// limited reports whether any kind has a limit.
func (a *Amounts) limited() bool {
	return slices.ContainsFunc(LimitKinds[:], func(kind Kind) bool { return a[kind] != NoLimit })
}

// Metered reports whether a kind has a limit that is known only where the
// upstream reports its use.
func (a *Amounts) Metered() bool {
	return slices.ContainsFunc(LimitKinds[:], func(kind Kind) bool { return kind.Metered() && a[kind] != NoLimit })
}

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

// FormatUSD prints nano-dollars as dollars, with two decimals or as many as
// it takes: "5.00", "0.000125".
func FormatUSD(nano int64) string {
	b := make([]byte, 0, 24)
	if nano < 0 {
		b, nano = append(b, '-'), -nano
	}
	b = strconv.AppendInt(b, nano/1_000_000_000, 10)
	point := len(b)
	b = strconv.AppendInt(b, 1_000_000_000+nano%1_000_000_000, 10)
	b[point] = '.' // in place of the 1 that keeps the zeros
	for len(b) > point+3 && b[len(b)-1] == '0' {
		b = b[:len(b)-1]
	}
	return string(b)
}
