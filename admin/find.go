package admin

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/till-proxy/till/token"
)

// How a key may be named.
const (
	// byPrefix takes the only key whose id or name begins like that.
	byPrefix = false
	// exactly takes an id or a whole name: for what cannot be undone.
	exactly = true
)

// errKeyString is the answer to a key's string where an id belongs. It does
// not repeat the string.
var errKeyString = usage("that is the string of a key or token, which belongs in no argument here: name the key by its id or name, see caddy till list")

// mistaken reports whether an argument is a secret in the wrong place.
func mistaken(text string) bool {
	return token.LooksLikeKey(text) || strings.HasPrefix(text, token.AdminPrefix)
}

// find returns the key with that id or name, or, unless whole is asked for,
// the only one whose id or name begins like that.
func (c *client) find(ctx context.Context, text string, whole bool) (*KeyObject, error) {
	if mistaken(text) {
		return nil, errKeyString
	}
	if text == "" {
		return nil, usage("a key's id or name must not be empty")
	}
	if strings.HasPrefix(text, "key_") {
		var k KeyObject
		err := c.call(ctx, "GET", "/keys/"+url.PathEscape(text), nil, &k)
		var no *refused
		if err == nil || !errors.As(err, &no) || no.code != "not_found" {
			return &k, err
		}
	}
	const shown = 20
	keys, _, err := c.all(ctx, url.Values{"q": {text}}, shown)
	if err != nil {
		return nil, err
	}
	var same []*KeyObject
	for _, k := range keys {
		if k.Name == text {
			same = append(same, k)
		}
	}
	switch {
	case len(same) == 1:
		return same[0], nil
	case len(same) > 1:
		return nil, usage("several keys have the name %q; name one by its id:\n%s", text, candidates(same))
	case len(keys) == 0:
		return nil, fmt.Errorf("no key has the id or name %q; see: caddy till list", text)
	case whole:
		return nil, usage("no key has the id or name %q, and this cannot be undone, so name it in full:\n%s", text, candidates(keys))
	case len(keys) > 1:
		return nil, usage("%q is the beginning of several keys; name one:\n%s", text, candidates(keys))
	}
	return keys[0], nil
}

func candidates(keys []*KeyObject) string {
	var lines []string
	for _, k := range keys {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("  %s  %-9s  %s", k.ID, k.Status, cut(k.Name, 34))))
	}
	return "  " + strings.Join(lines, "\n  ")
}

// each does something for every argument, also when it fails for some.
func each(args []string, do func(i int, arg string) error) error {
	var failed error
	for i, arg := range args {
		failed = errors.Join(failed, do(i, arg))
	}
	return failed
}
