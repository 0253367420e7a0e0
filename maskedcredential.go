package till

import (
	"bytes"
	"regexp"
)

// masks match what vendors write in place of the middle of a key that they show.
var masks = regexp.MustCompile(`\*{2,}|\.{3,}|[xX]{3,}|•{2,}|…|\\u2026`)

// maxMasked is how much of either end of a key is looked for beside a mask, in bytes.
const maxMasked = 64

// shownMasked reports whether a text shows both ends of the credential, or as much of the
// second as people tell keys apart by, with a mask for the rest. It is not looked for in
// other forms.
func (c *credential) shownMasked(text []byte) bool {
	secret := []byte(c.secret.Reveal())
	if len(secret) < minSearched {
		return false
	}
	most := min(maxMasked, len(secret)-1)
	for _, at := range masks.FindAllIndex(text, -1) {
		before, after := text[:at[0]], text[at[1]:]
		var first, last int
		for n := 2; n <= most; n++ {
			if bytes.HasSuffix(before, secret[:n]) {
				first = n
			}
			if bytes.HasPrefix(after, secret[len(secret)-n:]) {
				last = n
			}
		}
		if first > 0 && last > 0 || last >= 4 {
			return true
		}
	}
	return false
}
