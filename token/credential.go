package token

import (
	"errors"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// CheckCredential returns an error if a text cannot be an API key. The error does not
// quote the text.
func CheckCredential(text string) error {
	switch {
	case text == "":
		return errors.New("is empty")
	case !utf8.ValidString(text):
		return errors.New("is not text in UTF-8; some editors and shells write UTF-16: save it as UTF-8")
	case strings.ContainsRune(text, '\ufeff'):
		return errors.New("has a byte order mark; save it as UTF-8 without one")
	case strings.ContainsAny(text, "\r\n"):
		return errors.New("must be one line, and has several")
	case strings.ContainsFunc(text, unseen):
		return errors.New("has control characters, or others that cannot be seen; type or copy the key alone")
	case strings.Contains(text, AdminPrefix):
		return errors.New("is an admin token of till")
	}
	return nil
}

// unseen reports whether a character is invisible or easily mistaken: controls,
// format characters, and every space but the ASCII one.
func unseen(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) || r != ' ' && unicode.Is(unicode.Zs, r)
}

var keyString = regexp.MustCompile(`till_(sk|admin)_[0-9A-Za-z_.-]+`)

// Scrub replaces every key or admin token in a text by "[key]".
func Scrub(text string) string {
	if !strings.Contains(text, "till_") {
		return text
	}
	return keyString.ReplaceAllString(text, "[key]")
}

// HoldsKey reports whether a text contains a scoped key.
func HoldsKey(text string) bool { return strings.Contains(text, KeyPrefix) }

// named matches a key as settings files have it: OPENAI_API_KEY=sk-…, api_key:
// sk-….
var named = regexp.MustCompile(`^(?i:export\s+|set\s+|setx\s+|\$env:)?([A-Z][A-Z0-9]*_[A-Z0-9_]*|(?i:[a-z0-9_."-]*(key|token|secret|password|credential|authorization)[a-z0-9_."-]*))\s*(=|:\s)\s*[^=\s]`)

// schemes matches the beginning of a header's value, which no key has.
var schemes = regexp.MustCompile(`^(?i:authorization\s*:|bearer\s|basic\s|token\s)`)

// DoubtCredential returns an error if a text is unlikely to be an API key alone,
// though it could be a password or a whole header. The error does not quote the text.
func DoubtCredential(text string) error {
	first, _ := utf8.DecodeRuneInString(text)
	last, _ := utf8.DecodeLastRuneInString(text)
	switch {
	case schemes.MatchString(text):
		return errors.New("begins with a word such as Bearer, which is no part of the key; write the key alone")
	case named.MatchString(text):
		return errors.New("begins with a name, as in NAME=value; write the value alone")
	case strings.ContainsRune(quotes, first) || strings.ContainsRune(quotes, last):
		return errors.New("has quotes around it; write the key without them")
	case strings.ContainsFunc(text, unicode.IsSpace):
		return errors.New("has spaces in it; write the key alone")
	}
	return nil
}

const quotes = "\"'`“”‘’„«»"
