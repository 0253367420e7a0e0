package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Much of what is printed was chosen by others: names, models, paths, reasons, file
// names, the answers of a server. Some characters control a terminal, and others
// make a line look like something that it is not. Such characters are never printed
// as they are, but as escapes such as \u001b. This is done in two places that no
// command can bypass: when an answer is decoded, so that a newline in a name does
// not begin a line and widths are right, and when a command writes, which it does
// through a display.

// deceptive reports whether a character can move, colour or hide what is around it:
// control characters of one or two bytes, direction marks, line separators, and
// characters without a width.
func deceptive(r rune) bool {
	return r < ' ' || r == 0x7f || r > 0x7f && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Cs, unicode.Other_Default_Ignorable_Code_Point)
}

// printable returns a foreign text in a form that is safe to print within a line.
func printable(s string) string { return escape(s, "") }

// escape writes deceptive characters as escapes, except for those in keep.
func escape(s, keep string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r == utf8.RuneError || deceptive(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case !deceptive(r) || strings.ContainsRune(keep, r):
			b.WriteString(s[i : i+n])
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		i += n
	}
	return b.String()
}

// escapeJSON writes deceptive characters in JSON as escapes, which have the same
// meaning. It leaves the newlines and tabs between the texts.
func escapeJSON(text []byte) []byte {
	if bytes.IndexFunc(text, func(r rune) bool { return r != '\n' && deceptive(r) }) < 0 {
		return text
	}
	var b bytes.Buffer
	for _, r := range string(text) {
		switch {
		case r == '\n' || r == '\t' || !deceptive(r):
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.Bytes()
}

// decodePrintable decodes an answer that is printed for people.
func decodePrintable(raw []byte, into any) error {
	var v any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return err
	}
	safe, err := json.Marshal(printableJSON(v))
	if err != nil {
		return err
	}
	return json.Unmarshal(safe, into)
}

// printableJSON makes every text and every name in a JSON value printable.
func printableJSON(v any) any {
	switch v := v.(type) {
	case string:
		return printable(v)
	case []any:
		for i := range v {
			v[i] = printableJSON(v[i])
		}
	case map[string]any:
		safe := make(map[string]any, len(v))
		for name, inner := range v {
			safe[printable(name)] = printableJSON(inner)
		}
		return safe
	}
	return v
}

// display is the output of a command for people. Newlines and tabs are the
// command's own, because foreign text has none left by then.
type display struct {
	io.Writer
	rest []byte // the first bytes of an incomplete character
}

// Write implements io.Writer.
func (s *display) Write(p []byte) (int, error) {
	text := append(s.rest, p...)
	complete := len(text)
	for i := 1; i < utf8.UTFMax && i <= len(text); i++ {
		if last := text[len(text)-i:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRune(last) {
				complete -= i
			}
			break
		}
	}
	s.rest = bytes.Clone(text[complete:])
	if _, err := io.WriteString(s.Writer, escape(string(text[:complete]), "\n\t")); err != nil {
		return 0, err
	}
	return len(p), nil
}

// underlying returns the writer below a display, for output that must not be escaped.
func underlying(w io.Writer) io.Writer {
	if s, ok := w.(*display); ok {
		return s.Writer
	}
	return w
}

// fileOf returns the file to which a command's output goes, if it goes to a file.
func fileOf(w io.Writer) (*os.File, bool) {
	file, ok := underlying(w).(*os.File)
	return file, ok
}
