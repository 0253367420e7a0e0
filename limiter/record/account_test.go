package record

import (
	"encoding/hex"
	"testing"

	"github.com/till-proxy/till/limiter/store"
)

// TestAccountsAreKeptInTheFormOfTheirFormat: a store that was written in another form
// must have another format, or it would be opened and misread.
func TestAccountsAreKeptInTheFormOfTheirFormat(t *testing.T) {
	t.Parallel()
	a := Account{
		Lineage: 1, First: 2, Last: 3, Pin: "a", Addr: "b", Epoch: 4, Version: 5,
		Kinds: TokenKinds{Input: 6, CachedInput: 7, CacheWrite: 8, Output: 9, Unmeasured: 10},
	}
	for i, amounts := range []*Amounts{&a.Limit, &a.Reserved, &a.Settled, &a.Past, &a.Given, &a.Returned, &a.Booked} {
		for kind := range amounts {
			amounts[kind] = int64(11 + 10*i + kind)
		}
	}
	const want = "till/8 0516181a1c2a2c2e303e4042440104060161016208525456580c0e1012140a66686a6c7a7c7e80018e01900192019401"
	if got := store.Format + " " + hex.EncodeToString(a.Encode()); got != want {
		t.Errorf("an account is kept as\n%s, want\n%s\nIf that is meant, raise accountVersion and store.Format.", got, want)
	}
}
