package upstream

import (
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// decomposed is by how many bytes a text may grow when a model's tokenizer
// brings it to Unicode's form NFC first, as those of Qwen and Cohere do. A few
// characters, such as notes of music, become three there, of four bytes each.
func decomposed(b []byte) (more int64) {
	for i := 0; i < len(b); {
		if b[i] < utf8.RuneSelf {
			i++
			continue
		}
		p := norm.NFC.Properties(b[i:])
		size := max(p.Size(), 1)
		if d := len(p.Decomposition()); d > size && norm.NFC.QuickSpan(b[i:i+size]) < size {
			more += int64(d - size)
		}
		i += size
	}
	return more
}
