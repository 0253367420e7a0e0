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

// What is printed was chosen by others: names, models, paths, reasons, the names
// of files, what a server answers. A terminal obeys what some characters say, and
// people believe what others make of a line. Those are shown as \u001b, and never
// written. It happens at two places that no command can leave out: answers are
// read with it, so that a line end in a name makes no line and widths are right,
// and what a command writes passes through a display.

// deceptive are characters that move, colour or hide what is around them:
// controls of one byte and of two, and marks of direction, of the line's end and
// without a width.
func deceptive(r rune) bool {
	return r < ' ' || r == 0x7f || r > 0x7f && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Cs, unicode.Other_Default_Ignorable_Code_Point)
}

// printable is a foreign text as it may be printed within a line.
func printable(s string) string { return escape(s, "") }

// escape makes what deceives visible, but for what is in keep.
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

// escapeJSON writes what deceives in JSON as escapes, which mean the same. What
// it may not change is outside of texts: the line ends and spaces between.
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

// decodePrintable decodes an answer for a text that people read.
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

// printableJSON makes every text of a JSON value visible, and every name.
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

// display is where a command writes for people. Line ends and tabs are its own,
// since foreign text has none by then.
type display struct {
	io.Writer
	rest []byte // of a character that is not complete yet
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

// underlying is what a command's output is written to: for what is passed on as it is,
// and for those who draw.
func underlying(w io.Writer) io.Writer {
	if s, ok := w.(*display); ok {
		return s.Writer
	}
	return w
}

// fileOf is the file behind a command's output, if there is one.
func fileOf(w io.Writer) (*os.File, bool) {
	file, ok := underlying(w).(*os.File)
	return file, ok
}
