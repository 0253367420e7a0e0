package access

import (
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"github.com/till-proxy/till/limiter/record"
)

// In the audit log a token's name stands for one person, so no name may be
// mistaken for another. What follows is the part of Unicode's rules about confusable
// identifiers (UTS 39) that names need: nothing invisible, no word of letters
// from two scripts, and a skeleton of its own, which is the name with letters
// replaced by those that look the same.

// ValidName refuses a name that would be mistaken for another. others are the audit log's
// names for callers without a token.
func ValidName(name string, others ...string) error {
	if err := record.ValidText("name", name); err != nil {
		return err
	}
	switch {
	case name == "":
		return record.Invalid("name", "must say who the token is for")
	case strings.TrimSpace(name) != name || strings.ContainsFunc(name, invisible):
		return record.Invalid("name", "must hold nothing invisible, and no space around it, so that none looks like another, got %q", name)
	case mixesScripts(name):
		return record.Invalid("name", "must not mix letters of two alphabets in one word, because they look alike, got %+q", name)
	case notATokensName(name, others):
		return record.Invalid("name", "must not be %q nor look like it, because the audit log calls others that", name)
	}
	return nil
}

func invisible(r rune) bool {
	return !unicode.IsPrint(r) || r == '\u2800' || // a braille pattern without dots
		unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// notATokensName reports whether the audit log gives another actor this name, or one
// that looks like it in upper or lower case.
func notATokensName(name string, others []string) bool {
	look := func(s string) string { return alike.Replace(strings.ToLower(skeleton(s))) }
	name = look(name)
	same := func(other string) bool { return name == look(other) }
	return slices.ContainsFunc(append([]string{Unknown, Many}, others...), same) || strings.HasPrefix(name, look(record.IDPrefix))
}

// alike are characters of one script that some fonts do not distinguish.
var alike = strings.NewReplacer("0", "o", "1", "l", "i", "l", "|", "l")

// mixesScripts reports whether a word has letters of two scripts. Those of China,
// Japan and Korea are written together, and with Latin ones.
func mixesScripts(name string) bool {
	script := ""
	for _, r := range norm.NFKC.String(name) {
		if !unicode.IsLetter(r) {
			if !unicode.IsMark(r) {
				script = ""
			}
			continue
		}
		switch now := scriptOf(r); {
		case now == "":
		case script != "" && now != script:
			return true
		default:
			script = now
		}
	}
	return false
}

// scriptOf is the script of a letter; empty for one that goes with any.
func scriptOf(r rune) string {
	if unicode.In(r, unicode.Common, unicode.Inherited, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Bopomofo, unicode.Hangul) {
		return ""
	}
	for name, table := range unicode.Scripts {
		if unicode.Is(table, r) {
			return name
		}
	}
	return ""
}

// skeleton is what a name looks like.
func skeleton(name string) string {
	return lookalikes.Replace(norm.NFKC.String(name))
}

// lookalikes are the letters of other scripts that look like a Latin one, and the
// odd ones of Latin itself.
var lookalikes = func() *strings.Replacer {
	var pairs []string
	for _, table := range [][2]string{
		{"асԁеһіјӏкорԛѕѵԝхуАВЕЅІЈКМНОРСТХУԌԚԜ", "acdehijlkopqsvwxyABESIJKMHOPCTXYGQW"}, // Cyrillic
		{"αγικνορτυΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ayikvoptuABEZHIKMNOPTYX"},                         // Greek
		{"օոսհցյզՕՍՏ", "onuhgjqOUS"},                                                   // Armenian
		{"ıɑɡɩʟӀꞮ", "iagilII"},
	} {
		latin := []rune(table[1])
		for i, r := range []rune(table[0]) {
			pairs = append(pairs, string(r), string(latin[i]))
		}
	}
	return strings.NewReplacer(pairs...)
}()
