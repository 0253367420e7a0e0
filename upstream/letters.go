package upstream

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// usualLetters are letters and signs of scripts in which a byte of text is far less
// than a token for a vocabulary that knows the script, and a whole token for one that
// does not. So the new part of a conversation is bounded by its bytes, unless the
// count of its prefix shows that the vocabulary knows the script: then each of these
// letters counts one and a quarter tokens.
//
// Of the ten vocabularies of bench/tokenizers, each that has a token of three or more
// letters of a script has every one of these letters as a token, and keeps them whole
// in any order: no sequence of them counts more than one token per letter. Letters for
// which that does not hold are not in the table: many Georgian ones (DeepSeek v3 lacks
// them), and the Bengali digit nine. Devanagari's nukta is not in it either, because
// NFC joins it to letters that are not usual.
var usualLetters = [...]string{
	"АБВГДЕЗИКЛМНОПРСТУФЧЯабвгдежзийклмнопрстуфхцчшщъыьэюяёі",
	"\u0902\u0903अआइईउएकखगचजटठडणतथदधनपफबभमयरलवशषसह\u093e\u093f\u0940\u0941\u0942\u0943\u0947\u0948\u0949\u094b\u094c\u094d।०१२३४५६७८९",
	"\u0981\u0982\u0983অআইউএওকখগঘচছজঝঞটঠডণতথদধনপফবভমযরলশষসহ\u09be\u09bf\u09c0\u09c1\u09c2\u09c3\u09c7\u09c8\u09cb\u09cc\u09cd০১২৩৪৫৬৭৮",
	"அஇகசடணதநனபமயரறலளழவ\u0bbe\u0bbf\u0bc0\u0bc1\u0bc2\u0bc6\u0bc7\u0bc8\u0bca\u0bcb\u0bcd",
	"กขคงจชณดตถทนบปผพมยรลวสหอะ\u0e31า\u0e34\u0e35\u0e37\u0e38\u0e39เแใไ\u0e47\u0e48\u0e49\u0e4c",
	"აბგდევთიკლმნორსტხ",
}

const (
	// scriptBlock is how many characters Unicode sets aside for each of these scripts.
	scriptBlock = 128
	lastBlock   = 0x10ff / scriptBlock
	// A vocabulary knows a script if it makes one token of knownLetters/knownTokens
	// letters. No letter counts for more than 1/variety of a text, so that a text of
	// one word that happens to be a token shows nothing.
	knownLetters, knownTokens = 7, 4
	variety                   = 8
)

// usual has a row for each block of a script: 1 + the script's index in usualLetters
// for each of its usual letters, and 0 for everything else.
var usual = func() (table [lastBlock + 1]*[scriptBlock]byte) {
	for script, all := range usualLetters {
		row := new([scriptBlock]byte)
		for _, r := range all {
			table[r/scriptBlock] = row
			row[r%scriptBlock] = byte(script + 1)
		}
	}
	return table
}()

// letters counts usual letters.
type letters [len(usualLetters)][scriptBlock]int32

// addString counts the letters of a JSON string.
func (l *letters) addString(s []byte) {
	s = s[:len(s)-1]
	for i := 1; i < len(s); {
		r, n := rune(s[i]), 1
		switch {
		case r == '\\':
			r, n = unescape(s[i:])
		case r >= utf8.RuneSelf:
			r, n = utf8.DecodeRune(s[i:])
		}
		i += n
		if block := uint32(r / scriptBlock); block > lastBlock || usual[block] == nil {
			continue
		} else if script := usual[block][r%scriptBlock]; script > 0 {
			l[script-1][r%scriptBlock]++
		}
	}
}

// addTurns counts the letters of messages that are nothing but text, which templates
// print as it is. list is the rest of a list, or a part of it. If the template is not
// known, only a user's single text is certain to be printed: some leave out a model's
// words beside a call, or any block but the first.
func (l *letters) addTurns(list []byte, known bool) {
	for {
		list = list[spaces(list):]
		if len(list) == 0 || list[0] == ']' {
			return
		}
		n := skipValue(list)
		element := list[:n]
		list = list[n:]
		if element[0] != '{' {
			continue
		}
		role, said, ok := "", []byte(nil), true
		for name, value := range rawObject(element).members {
			switch {
			case name == "role" && role == "":
				role = word(value)
			case (name == "content" || name == "parts") && said == nil:
				said = value
			default:
				ok = false // something else, or the same twice
			}
		}
		switch {
		case !ok || said == nil || role != "user" && !(known && (role == "assistant" || role == "model")):
		case said[0] == '"':
			l.addString(said)
		case said[0] == '[':
			texts := textBlocks(said)
			if len(texts) > 1 && !known {
				continue
			}
			for _, text := range texts {
				l.addString(text)
			}
		}
	}
}

// textBlocks returns the strings of a list of blocks, or nil if one of them is not
// just text.
func textBlocks(list rawList) (texts [][]byte) {
	for block := range list.elements {
		if block[0] != '{' {
			return nil
		}
		var text []byte
		ok := true
		for name, value := range rawObject(block).members {
			switch name {
			case "text":
				ok = ok && text == nil && value[0] == '"'
				text = value
			case "type":
				kind := word(value)
				ok = ok && (kind == "text" || kind == "input_text" || kind == "output_text")
			default:
				ok = ok && name == "cache_control"
			}
		}
		if !ok || text == nil {
			return nil
		}
		texts = append(texts, text)
	}
	return texts
}

// excessBytes returns by how much the bytes of a conversation's new part exceed the most
// tokens that it can count, given the tokens that the messages before it counted. known
// says that the vendor's template reads every text.
func excessBytes(before, fresh []byte, tokens int64, known bool) (less int64) {
	if !beyondASCII(fresh) {
		return 0
	}
	var now letters
	now.addTurns(fresh, true)
	var then *letters
	for script := range now {
		n := now.sum(script)
		if n == 0 {
			continue
		}
		if then == nil {
			then = new(letters)
			then.addTurns(before[1:], known)
		}
		if then.show(script, tokens) {
			first, _ := utf8.DecodeRuneInString(usualLetters[script])
			less += n * int64(4*utf8.RuneLen(first)-5) / 4
		}
	}
	return less
}

func (l *letters) sum(script int) (n int64) {
	for _, of := range l[script] {
		n += int64(of)
	}
	return n
}

// show reports whether text with these letters can be so few tokens only in a
// vocabulary that knows the script.
func (l *letters) show(script int, tokens int64) bool {
	all, varied := l.sum(script), int64(0)
	for _, of := range l[script] {
		varied += min(int64(of), all/variety)
	}
	return varied/knownLetters >= tokens/knownTokens+1
}

// beyondASCII reports whether JSON holds a character beyond ASCII, or an escape that
// may be one.
func beyondASCII(b []byte) bool {
	i := 0
	for ; i+8 <= len(b); i += 8 {
		if binary.LittleEndian.Uint64(b[i:])&highs != 0 {
			return true
		}
	}
	for ; i < len(b); i++ {
		if b[i] >= utf8.RuneSelf {
			return true
		}
	}
	return bytes.Contains(b, []byte(`\u`))
}
