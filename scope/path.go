package scope

import (
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"
)

// CleanPath checks the path of a request as it came (net/url's EscapedPath) and returns
// it decoded, for matching. What was matched is what is sent, so anything that two
// servers could read differently is an error: "." and ".." segments in any encoding,
// empty segments, backslashes, control characters, encoded slashes, double encoding,
// invalid UTF-8. One slash at the end is allowed.
//
// A path without escapes costs no allocation.
func CleanPath(escaped string) (string, error) {
	if !strings.HasPrefix(escaped, "/") {
		return "", fmt.Errorf("%w: it does not begin with a slash", ErrPath)
	}
	path := escaped
	if strings.IndexByte(escaped, '%') >= 0 {
		if err := checkEscapes(escaped); err != nil {
			return "", err
		}
		decoded, err := url.PathUnescape(escaped)
		if err != nil {
			return "", fmt.Errorf("%w: a %%-escape is not valid", ErrPath)
		}
		// Encoded twice, in any form: %252e, %25%32%65.
		for i := range len(decoded) - 2 {
			if decoded[i] == '%' && isHex(decoded[i+1]) && isHex(decoded[i+2]) {
				return "", fmt.Errorf("%w: it is encoded twice", ErrPath)
			}
		}
		path = decoded
	}
	ascii := true
	for i := range len(path) {
		switch c := path[i]; {
		case c < ' ' || c == 0x7f:
			return "", fmt.Errorf("%w: it holds a control character", ErrPath)
		case c == '\\':
			return "", fmt.Errorf("%w: it holds a backslash", ErrPath)
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	if !ascii {
		if !utf8.ValidString(path) {
			return "", fmt.Errorf("%w: it is not valid UTF-8", ErrPath)
		}
		for _, r := range path {
			if r >= 0x80 && r < 0xa0 {
				return "", fmt.Errorf("%w: it holds a control character", ErrPath)
			}
		}
	}
	return path, checkSegments(path)
}

// OneSlash returns a path with one slash at its beginning if there were several, which
// clients produce when they join an address that ends with a slash and a path that
// begins with one.
func OneSlash(escaped string) string {
	if rest := strings.TrimLeft(escaped, "/"); len(rest)+1 < len(escaped) {
		return escaped[len(escaped)-len(rest)-1:]
	}
	return escaped
}

// checkEscapes refuses escapes that hide structure.
func checkEscapes(s string) error {
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			continue
		}
		if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
			return fmt.Errorf("%w: a %%-escape is not valid", ErrPath)
		}
		if strings.EqualFold(s[i+1:i+3], "2f") {
			return fmt.Errorf("%w: it holds an encoded slash", ErrPath)
		}
		i += 2
	}
	return nil
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// checkSegments refuses segments that some server would resolve.
func checkSegments(path string) error {
	rest := path[1:]
	for rest != "" {
		segment, after, more := strings.Cut(rest, "/")
		// Some servers drop what follows a semicolon: "..;x" is ".." there.
		name, _, _ := strings.Cut(segment, ";")
		switch {
		case segment == "":
			return fmt.Errorf("%w: it holds an empty segment", ErrPath)
		case name == "." || name == ".." || name == "":
			return fmt.Errorf("%w: it holds a dot segment", ErrPath)
		}
		if !more {
			break
		}
		rest = after
	}
	return nil
}
