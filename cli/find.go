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
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// naming is the way in which a command takes the names of keys.
type naming struct {
	// full requires a full id or name, for commands that cannot be undone.
	full bool
	// of lists the statuses of the keys that the command is for. If several keys have a
	// name, the name stands for the only one in these statuses; if none is, keys in
	// other statuses are considered.
	of []record.Status
}

var (
	living = slices.DeleteFunc(slices.Clone(record.Statuses[:]), record.Status.Ended)
	ended  = slices.DeleteFunc(slices.Clone(record.Statuses[:]), func(s record.Status) bool { return !s.Ended() })
	// grantable includes the keys that a grant revives.
	grantable = append([]record.Status{record.Exhausted, record.Expired}, living...)

	byPrefix = naming{of: living}
	exactly  = naming{of: living, full: true}
)

// candidatesShown bounds how many keys an error lists.
const candidatesShown = 20

// errKeyString is the error for a key's string in the place of an id. It does not
// repeat the string.
var errKeyString = usage("that is the string of a key or token, which belongs in no argument here: name the key by its id or name, see caddy till list")

// isSecret reports whether an argument looks like the string of a key or an admin
// token.
func isSecret(text string) bool {
	return token.LooksLikeKey(text) || strings.HasPrefix(text, token.AdminPrefix)
}

// fullID matches a complete id, in upper or lower case. Such a text is never taken
// for a name: if it were, a key that is named like the id of another key would be
// found once the other is forgotten.
var fullID = regexp.MustCompile(`^(?i)key_[0-9A-HJKMNP-TV-Z]{26}$`)

// find returns the key with that id or name. Unless how.full is set, it also finds
// the only key whose id or name begins with the text.
//
// Many people choose names, even the holders of keys. So the server is asked for
// exactly that name, and it is an error if two keys have it.
func (c *client) find(ctx context.Context, text string, how naming) (*wire.KeyObject, error) {
	if isSecret(text) {
		return nil, errKeyString
	}
	if strings.HasPrefix(text, "key_") {
		var k wire.KeyObject
		err := c.call(ctx, "GET", "/keys/"+url.PathEscape(text), nil, &k)
		switch no, ok := errors.AsType[*apiError](err); {
		case err == nil:
			return &k, nil
		case !ok || no.code != "not_found":
			return nil, err
		case fullID.MatchString(text):
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
		return nil, &listError{fmt.Errorf("%q is the name of one key and the beginning of other ids; name one by its full id", text), candidates(keys, more, "q")}
	}
	switch {
	case err != nil:
		return nil, err
	case len(keys) == 0:
		return nil, fmt.Errorf("no key has the id or name %q; see: caddy till list", text)
	case how.full:
		return nil, &listError{usage("no key has the id or name %q, and this cannot be undone, so name it in full", text), candidates(keys, more, "q")}
	case len(keys) > 1:
		return nil, &listError{usage("%q is the beginning of several keys; name one", text), candidates(keys, more, "q")}
	}
	return keys[0], nil
}

// named returns the key with exactly that name, or nil.
func (c *client) named(ctx context.Context, name string, how naming) (*wire.KeyObject, error) {
	keys, more, err := c.all(ctx, url.Values{"name": {name}}, candidatesShown)
	switch {
	case err != nil || len(keys) == 0:
		return nil, err
	case len(keys) == 1:
		return keys[0], nil
	}
	var fit []*wire.KeyObject
	others, alive := "", record.Either(how.of)
	for _, status := range how.of { // the list of ended keys may be long
		some, rest, err := c.all(ctx, url.Values{"name": {name}, "status": {string(status)}}, candidatesShown)
		if err != nil {
			return nil, err
		}
		fit, others = append(fit, some...), cmp.Or(others, rest)
	}
	if !slices.Contains(how.of, record.Exhausted) {
		// Some exhausted keys come back by themselves: when their budget renews, or
		// when a child of theirs ends.
		spent, _, err := c.all(ctx, url.Values{"name": {name}, "status": {string(record.Exhausted)}}, 0)
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

// resolve puts the id of the key that --parent names into a filter. A complete id is not
// looked up, because children outlive the record of a parent.
func (c *client) resolve(ctx context.Context, filter map[string]string) error {
	parent := filter["parent"]
	if parent == "" || fullID.MatchString(parent) {
		return nil
	}
	k, err := c.find(ctx, parent, exactly)
	if err != nil {
		return fmt.Errorf("--parent: %w", err)
	}
	filter["parent"] = k.ID
	return nil
}

// candidates lists keys with what distinguishes them: first the ids, which nobody
// can choose, and last the names, which anybody can. flag is the flag with which
// list shows all of them.
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

// each calls do for every argument, even after an error, and joins the errors.
func each(args []string, do func(i int, arg string) error) error {
	var failed error
	for i, arg := range args {
		failed = errors.Join(failed, do(i, arg))
	}
	return failed
}
