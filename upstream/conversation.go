package upstream

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"math/bits"
	"strings"
	"sync"
	"unicode/utf8"
)

// A digest stands for a text that is not kept: half of a SHA-256 that begins
// with a key of this process. Clients choose what is hashed, so nobody may be
// able to find two texts with one digest, which a 64-bit hash would not hold.
type digest [16]byte

// The marks that stand before each part of what is hashed. UTF-8 has no such
// bytes, so two different JSON values are never written alike.
const (
	markObject byte = 0xf8 + iota
	markObjectEnd
	markList
	markListEnd
	markString
	markLiteral
	markField
)

// digester hashes JSON values by what they say: however their strings are
// escaped and whatever stands between them, the same is hashed. Marks of a cache
// are left out, because agents move them with every request.
type digester struct {
	sha  hash.Hash
	sum  [sha256.Size]byte
	buf  []byte // not hashed yet
	left int64  // tokens of what was left out, at most
	// thinks says that there may be thoughts of a model, which vendors leave out
	// of some requests and not of others.
	thinks bool
}

var spareDigesters = sync.Pool{New: func() any { return &digester{sha: sha256.New(), buf: make([]byte, 0, 4096)} }}

// begin forgets what came before.
func (d *digester) begin(key *[sha256.BlockSize]byte) {
	d.sha.Reset()
	d.sha.Write(key[:])
	d.buf = d.buf[:0]
}

// digest is that of all that came since begin.
func (d *digester) digest() digest {
	d.flush()
	return digest(d.sha.Sum(d.sum[:0])[:len(digest{})])
}

func (d *digester) flush() {
	d.sha.Write(d.buf)
	d.buf = d.buf[:0]
}

func (d *digester) put(b []byte) {
	if len(b) > cap(d.buf)-len(d.buf) {
		d.flush()
		if len(b) > cap(d.buf)/4 {
			d.sha.Write(b)
			return
		}
	}
	d.buf = append(d.buf, b...)
}

func (d *digester) mark(m byte) {
	if len(d.buf) == cap(d.buf) {
		d.flush()
	}
	d.buf = append(d.buf, m)
}

// field hashes a word that no JSON value can be taken for.
func (d *digester) field(s string) {
	d.mark(markField)
	for len(s) > 0 {
		n := min(len(s), cap(d.buf)/4)
		if n > cap(d.buf)-len(d.buf) {
			d.flush()
		}
		d.buf = append(d.buf, s[:n]...)
		s = s[n:]
	}
}

// value hashes the value that valid JSON begins with, and returns its length.
func (d *digester) value(b []byte) (n int) {
	depth := 0
	for n < len(b) {
		switch c := b[n]; c {
		case ' ', '\t', '\r', '\n', ',', ':':
			n++
			continue
		case '{', '[':
			depth++
			n++
			d.mark(brackets[c])
		case '}', ']':
			depth--
			n++
			d.mark(brackets[c])
		case '"':
			m := d.cacheMark(b[n:])
			if m == 0 {
				m = d.string(b[n:])
			}
			n += m
		default:
			m := skipValue(b[n:])
			d.mark(markLiteral)
			d.put(b[n : n+m])
			n += m
		}
		if depth == 0 {
			break
		}
	}
	return n
}

var brackets = [256]byte{'{': markObject, '}': markObjectEnd, '[': markList, ']': markListEnd}

// string hashes a string as JSON writes it with the fewest escapes, which is how
// nearly all are written. Half of a surrogate pair, which no UTF-8 can say, stays
// an escape.
func (d *digester) string(b []byte) int {
	d.mark(markString)
	from, i := 1, 1
	for {
		i += toMark(b[i:])
		switch {
		case b[i] == '"':
			d.put(b[from:i])
			d.mayThink(b[1:i])
			return i + 1
		case b[i+1] != 'u' && b[i+1] != '/':
			i += 2 // there is no shorter escape
		default:
			d.put(b[from:i])
			r, size := unescape(b[i:])
			d.escaped(r, b[i:i+size])
			i += size
			from = i
		}
	}
}

// toMark is how far away in a string its end or an escape is.
func toMark(b []byte) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; i+8 <= len(b); i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		quote, slash := w^(ones*'"'), w^(ones*'\\')
		if at := ((quote-ones)&^quote | (slash-ones)&^slash) & highs; at != 0 {
			return i + bits.TrailingZeros64(at)/8
		}
	}
	for b[i] != '"' && b[i] != '\\' {
		i++
	}
	return i
}

// mayThink notes what says that there are thoughts, also where it is no such
// thing.
func (d *digester) mayThink(s []byte) {
	switch string(s) {
	case "thinking", "redacted_thinking", "reasoning", "reasoning_content", "reasoning_details", "thought", "thoughtSignature", "thought_signature":
		d.thinks = true
	}
}

// escaped hashes a character that was written as \u or with an escape that it
// does not need.
func (d *digester) escaped(r rune, as []byte) {
	var room [8]byte
	short := ""
	switch r {
	case '"':
		short = `\"`
	case '\\':
		short = `\\`
	case '\b':
		short = `\b`
	case '\f':
		short = `\f`
	case '\n':
		short = `\n`
	case '\r':
		short = `\r`
	case '\t':
		short = `\t`
	}
	half := r == utf8.RuneError && !bytes.EqualFold(as, []byte(`\ufffd`))
	switch {
	case short != "":
		d.put(append(room[:0], short...))
	case half || r < ' ':
		out := append(room[:0], as...)
		for i, c := range out {
			if c >= 'A' && c <= 'F' {
				out[i] = c | 0x20
			}
		}
		d.put(out)
	default:
		d.put(utf8.AppendRune(room[:0], r))
	}
}

// cacheMark is the length of a member at the beginning of b that says no more
// than that a cache may begin or end there, and 0 where there is none. It is left
// out, and counted at its length: a template may print it for all that is known.
func (d *digester) cacheMark(b []byte) int {
	n := 0
	if c := b[1]; c != 'c' && c != 'p' {
		return 0
	}
	for _, name := range []string{`"cache_control"`, `"prompt_cache_breakpoint"`} {
		if len(b) > len(name) && string(b[:len(name)]) == name {
			n = len(name)
		}
	}
	if n == 0 {
		return 0
	}
	colon := n + len(b[n:]) - len(bytes.TrimLeft(b[n:], jsonSpace))
	if colon == len(b) || b[colon] != ':' {
		return 0 // a text that is called so
	}
	from := n + spaces(b[n:])
	size := skipValue(b[from:])
	value := b[from : from+size]
	const longest = 64
	if value[0] != '{' || len(value) > longest {
		return 0
	}
	plain := true
	err := rawObject(value).members(func(_ string, value []byte) error {
		plain = plain && value[0] == '"' && !bytes.ContainsAny(value, `\:/.`)
		return nil
	})
	if err != nil || !plain {
		return 0
	}
	d.leaveOut(b[:from+size])
	return from + size
}

func (d *digester) leaveOut(text []byte) {
	n := int64(len(text)) + 32 // where it is printed with lines of its own
	d.left += n + n/10
}

// billingHeader is how a block of Claude Code's system prompt begins that is
// another in every request and is taken out by the vendor
// (claude-code#24168, llama.cpp#20623).
const billingHeader = `x-anthropic-billing-header:`

// system hashes a system prompt without that block.
func (d *digester) system(b []byte) {
	const longest = 512
	if b[0] != '[' {
		d.value(b)
		return
	}
	d.mark(markList)
	_ = elements(b, func(block []byte) error {
		if block[0] == '{' && len(block) <= longest {
			if from, to, ok := memberOf(block, "text"); ok && block[from] == '"' && bytes.HasPrefix(block[from+1:to], []byte(billingHeader)) {
				d.leaveOut(block)
				return nil
			}
		}
		d.value(block)
		return nil
	}) // nothing in there fails
	d.mark(markListEnd)
}

// beside are the members of a request that change nothing of what a model reads.
// Any other is part of what must be the same.
var beside = set(
	"stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens", "temperature", "top_p", "top_k", "min_p", "top_a", "typical_p", "seed", "random_seed",
	"stop", "stop_sequences", "frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias", "logprobs", "top_logprobs",
	"user", "metadata", "client_metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "service_tier", "session_id", "user_id", "labels", "cache_control",
	"ignore_eos", "return_token_ids", "perf_metrics_in_response", "prompt_cache_isolation_key", "serviceTier", "diagnostics", "trace", "request_id", "rid", "cache_salt", "id_slot",
)

// shortens are those that let a server leave out a part of a conversation, or
// choose who answers: how long its beginning is cannot be told from another
// request then.
var shortens = set("truncate", "truncate_prompt_tokens", "prompt_truncate_len", "context_length_exceeded_behavior", "transforms", "models", "route", "provider")

// talk is a request whose list of messages may go on from one that was seen.
type talk struct {
	list []byte
	rest digest // of everything else
}

// listed is the member that holds the list of messages.
func (e *Estimate) listed() string {
	switch {
	case e.outer == "generationConfig":
		return "contents"
	case e.field == "max_output_tokens":
		return "input"
	case e.outer == "" && e.field != "":
		return "messages"
	}
	return ""
}

// talk reads the request. It reports false where nothing can be learned from
// other requests, or by them.
func (e *Estimate) talk(d *digester, key *[sha256.BlockSize]byte, p *Preset, c *Call, upstream string) (t talk, ok bool) {
	if p.Routes || p.Dialect == Cohere || p.Name == "ollama" || e.object == nil || e.remote || len(e.list) == 0 || e.list[0] != '[' {
		// Who answers may be another each time; or what is reported is less than
		// what was read: Cohere's, and Ollama's, which leaves out the middle.
		return t, false
	}
	name := e.listed()
	t.list = e.list
	d.begin(key)
	d.left, d.thinks = 0, false
	for _, s := range []string{upstream, p.Name, c.Path, c.Query, c.Features, name} {
		d.field(s)
	}
	b := e.object[1:]
	for {
		b = b[spaces(b):]
		if b[0] == '}' {
			break
		}
		n := skipString(b)
		member, err := view(b[:n])
		if err != nil {
			return t, false
		}
		b = b[n:]
		b = b[spaces(b):]
		if member == name {
			b = b[len(t.list):]
			continue
		}
		n = skipValue(b)
		value := b[:n]
		b = b[n:]
		switch {
		case beside[member], value[0] == 'n':
			continue
		case shortens[member],
			member == "truncation" && string(value) != `"disabled"`,
			member == "context_management" && !onlyThoughts(value):
			return t, false
		}
		d.field(member)
		if member == "system" {
			d.system(value)
			continue
		}
		d.value(value)
	}
	t.rest, d.thinks = d.digest(), false
	return t, true
}

// onlyThoughts reports whether edits of a context take away thoughts alone. What
// tools answered is taken away from a certain length on, and so may be there in
// the longer of two requests and not in the shorter. (That there is nothing but
// edits, contextEdits has seen to.)
func onlyThoughts(value []byte) bool {
	from, to, ok := memberOf(value, "edits")
	if !ok {
		return false
	}
	thoughts := true
	err := elements(value[from:to], func(edit []byte) error {
		from, to, ok := memberOf(edit, "type")
		if !ok || edit[from] != '"' {
			thoughts = false
			return nil
		}
		kind, err := text(edit[from:to])
		thoughts = thoughts && strings.HasPrefix(kind, "clear_thinking")
		return err
	})
	return err == nil && thoughts
}

// The kinds of who speaks last.
const (
	endsElse byte = iota
	endsUser
	endsTool
)

// speaker is who says an element of a list.
func speaker(element []byte) byte {
	if element[0] != '{' {
		return endsElse
	}
	role, kind := "", ""
	_ = rawObject(element).members(func(name string, value []byte) error {
		switch {
		case value[0] != '"':
		case name == "role":
			role, _ = text(value)
		case name == "type":
			kind, _ = text(value)
		}
		return nil
	}) // one that is not well formed is nobody known
	switch {
	case role == "tool", role == "function", strings.HasSuffix(kind, "_output"):
		return endsTool
	case role == "user", role == "" && kind == "":
		return endsUser
	}
	return endsElse
}
