package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/token"
)

// naming is how a command's keys may be named.
type naming struct {
	// whole asks for an id or a whole name: for what cannot be undone.
	whole bool
	// of are the statuses of the keys that the command is for. A name is that of
	// the only one of them; others with the name are taken where there is none.
	of []limiter.Status
}

var (
	living = []limiter.Status{limiter.Active, limiter.Suspended}
	ended  = []limiter.Status{limiter.Exhausted, limiter.Expired, limiter.Revoked}
	// grantable keys are also those that a grant revives.
	grantable = append([]limiter.Status{limiter.Exhausted, limiter.Expired}, living...)

	byPrefix = naming{of: living}
	exactly  = naming{of: living, whole: true}
)

// candidatesShown bounds how many keys an error lists.
const candidatesShown = 20

// errKeyString is the answer to a key's string where an id belongs. It does
// not repeat the string.
var errKeyString = usage("that is the string of a key or token, which belongs in no argument here: name the key by its id or name, see caddy till list")

// isSecret reports whether an argument is a secret in the wrong place.
func isSecret(text string) bool {
	return token.LooksLikeKey(text) || strings.HasPrefix(text, token.AdminPrefix)
}

// wholeID is an id that nothing is missing of, in any case of letters. It is never
// taken for a name, or a key that is called like another's id would be found once
// that is forgotten.
var wholeID = regexp.MustCompile(`^(?i)key_[0-9A-HJKMNP-TV-Z]{26}$`)

// find returns the key with that id or name, or, unless a whole one is asked
// for, the only one whose id or name begins like that.
//
// Names are chosen by many, holders of keys too, so the server is asked for
// exactly the name, and two keys that have it are an error.
func (c *client) find(ctx context.Context, text string, how naming) (*wire.KeyObject, error) {
	if isSecret(text) {
		return nil, errKeyString
	}
	if strings.HasPrefix(text, "key_") {
		var k wire.KeyObject
		err := c.call(ctx, "GET", "/keys/"+url.PathEscape(text), nil, &k)
		var no *apiError
		switch {
		case err == nil:
			return &k, nil
		case !errors.As(err, &no) || no.code != "not_found":
			return nil, err
		case wholeID.MatchString(text):
			return nil, fmt.Errorf("no key has the id %s; see: caddy till list", text)
		}
	}
	named, err := c.named(ctx, text, how)
	if err != nil || named != nil && !strings.HasPrefix(text, "key_") {
		return named, err
	}
	keys, more, err := c.all(ctx, url.Values{"q": {text}}, candidatesShown)
	if err == nil && named != nil {
		like := func(k *wire.KeyObject) bool { return k.ID != named.ID && strings.HasPrefix(k.ID, text) }
		if more == "" && !slices.ContainsFunc(keys, like) {
			return named, nil
		}
		return nil, &listError{fmt.Errorf("%q is the name of one key and the beginning of other ids; name one by its whole id", text), candidates(keys, more, "q")}
	}
	switch {
	case err != nil:
		return nil, err
	case len(keys) == 0:
		return nil, fmt.Errorf("no key has the id or name %q; see: caddy till list", text)
	case how.whole:
		return nil, &listError{usage("no key has the id or name %q, and this cannot be undone, so name it in full", text), candidates(keys, more, "q")}
	case len(keys) > 1:
		return nil, &listError{usage("%q is the beginning of several keys; name one", text), candidates(keys, more, "q")}
	}
	return keys[0], nil
}

// named returns the key with exactly that name, nil without one.
func (c *client) named(ctx context.Context, name string, how naming) (*wire.KeyObject, error) {
	keys, more, err := c.all(ctx, url.Values{"name": {name}}, candidatesShown)
	switch {
	case err != nil || len(keys) == 0:
		return nil, err
	case len(keys) == 1:
		return keys[0], nil
	}
	var fit []*wire.KeyObject
	others, alive := "", orList(how.of)
	for _, status := range how.of { // the list may be long, of keys that have ended
		some, rest, err := c.all(ctx, url.Values{"name": {name}, "status": {string(status)}}, candidatesShown)
		if err != nil {
			return nil, err
		}
		fit, others = append(fit, some...), cmp.Or(others, rest)
	}
	if !slices.Contains(how.of, limiter.Exhausted) {
		// Some of those come back by themselves: when their budget begins anew, or a
		// child of theirs ends.
		spent, _, err := c.all(ctx, url.Values{"name": {name}, "status": {string(limiter.Exhausted)}}, 0)
		if err != nil {
			return nil, err
		}
		fit = append(fit, slices.DeleteFunc(spent, func(k *wire.KeyObject) bool { return k.EndedAt != nil })...)
		alive += " or used up for now"
	}
	if len(fit) > 0 {
		keys, more = fit, others
	}
	if len(keys) > 1 {
		return nil, &listError{fmt.Errorf("several keys have the name %q; name one by its id", name), candidates(keys, more, "name")}
	}
	fmt.Fprintf(c.notes, "Of the keys with this name, this is the one that is %s:\n%s\n", alive, candidates(keys, "", ""))
	return keys[0], nil
}

func orList(of []limiter.Status) string {
	var words []string
	for _, status := range of {
		words = append(words, string(status))
	}
	return strings.Join(words, " or ")
}

// parent is the id of the key that --parent names. A whole id is taken as it is:
// children outlive the record of a parent.
func (c *client) parent(ctx context.Context, text string) (string, error) {
	if wholeID.MatchString(text) {
		return text, nil
	}
	k, err := c.find(ctx, text, exactly)
	if err != nil {
		return "", fmt.Errorf("--parent: %w", err)
	}
	return k.ID, nil
}

// candidates lists keys with what tells them apart: ids, which nobody chooses,
// first, and names, which anybody does, last. flag is that of list which shows all.
func candidates(keys []*wire.KeyObject, more, flag string) string {
	var lines []string
	for _, k := range keys[:min(len(keys), candidatesShown)] {
		line := fmt.Sprintf("  %s  %-9s  made %s by %s", k.ID, k.Status, prose.Relative(k.CreatedAt, time.Now()), prose.Cut(k.CreatedBy, 32))
		if k.Name != "" {
			line += ": " + prose.Cut(k.Name, 34)
		}
		lines = append(lines, printable(line))
	}
	if more != "" || len(keys) > candidatesShown {
		lines = append(lines, "  and more; see: caddy till list --"+flag+" NAME")
	}
	return strings.Join(lines, "\n")
}

// each does something for every argument, also when it fails for some.
func each(args []string, do func(i int, arg string) error) error {
	var failed error
	for i, arg := range args {
		failed = errors.Join(failed, do(i, arg))
	}
	return failed
}
