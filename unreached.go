package till

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// siteLine is one till or till_console in a block of a Caddyfile.
type siteLine struct {
	role      siteRole
	matcher   string // as JSON; "" if there is none
	guard     bool
	upstreams []string
	at        string         // its file and line
	block     map[string]any // the block's own state, kept so that its address stays unique
}

// block is one pair of braces of one site.
type block struct{ site, state uintptr }

// recordLine refuses a line of a block that no request with a key reaches, because an
// earlier one answers all of them or has taken the key out.
func recordLine(h httpcaddyfile.Helper, matcher caddy.ModuleMap, line siteLine) error {
	if len(matcher) > 0 {
		text, err := json.Marshal(matcher)
		if err != nil {
			return h.WrapErr(err)
		}
		line.matcher = string(text)
	}
	line.at, line.block = fmt.Sprintf("%s:%d", h.File(), h.Line()), h.BlockState
	here := block{state: reflect.ValueOf(h.BlockState).Pointer()}
	if site := reflect.ValueOf(h).FieldByName("parentBlock").FieldByName("Segments"); site.IsValid() {
		here.site = site.Pointer() // sites share the state of what is outside of their blocks
	}
	const name = "till.written"
	all, _ := h.State[name].(map[block][]siteLine)
	if all == nil {
		all = make(map[block][]siteLine)
		h.State[name] = all
	}
	for _, other := range all[here] {
		if err := line.beside(other); err != nil {
			return h.WrapErr(err)
		}
	}
	all[here] = append(all[here], line)
	return nil
}

// beside returns why one of two lines of a block would be useless.
func (l siteLine) beside(other siteLine) error {
	same := l.matcher == other.matcher
	switch {
	case l.role != other.role:
		return nil
	case same && l.role == consoleRole:
		return fmt.Errorf("a second till_console for the same requests is never reached: the one at %s answers them; leave one out", other.at)
	case same && l.guard != other.guard, l.guard && other.matcher == "" && !other.guard, other.guard && l.matcher == "" && !l.guard:
		return fmt.Errorf("till guard and till are in one block for the same requests (%s): whichever comes second sees no key; give each a handle block of its own", other.at)
	case !same:
		return nil
	case l.guard:
		return fmt.Errorf("a second till guard for the same requests sees no key: the one at %s has taken it out; leave one out", other.at)
	case len(l.upstreams) == 0 || len(other.upstreams) == 0:
		return fmt.Errorf("a second till for the same requests is never reached: the one at %s answers them; write one line, till, which serves every upstream", other.at)
	}
	return fmt.Errorf("a second till for the same requests is never reached: the one at %s answers them; write both in one line: till %s",
		other.at, strings.Join(append(other.upstreams, l.upstreams...), " "))
}

var errUnreached = errors.New("of two handlers in one list of routes the second sees no request with a key, because the first takes every request: name all upstreams in one handler, or give both matchers that exclude each other")

// checkReached refuses such handlers if the configuration is not a Caddyfile, or is
// ordered differently. It is called when the first handler of a list of routes is
// provisioned; the others are still in their original form then.
func checkReached(ctx caddy.Context, role siteRole) error {
	lineage := ctx.Modules()
	if len(lineage) < 2 {
		return nil
	}
	var lists []caddyhttp.RouteList
	switch parent := lineage[len(lineage)-2].(type) {
	case *caddyhttp.Subroute:
		lists = append(lists, parent.Routes)
	case *caddyhttp.App:
		for _, server := range parent.Servers {
			lists = append(lists, server.Routes)
		}
	}
	for _, routes := range lists {
		all := false // an earlier handler takes every request
		for i := range routes {
			matched := len(routes[i].MatcherSets)+len(routes[i].MatcherSetsRaw) > 0
			for _, raw := range routes[i].HandlersRaw {
				var handler struct {
					Handler siteRole `json:"handler"`
				}
				if json.Unmarshal(raw, &handler) != nil || handler.Handler != role {
					continue
				}
				if all {
					return fmt.Errorf("%s: %w", role, errUnreached)
				}
				all = !matched
			}
		}
	}
	return nil
}
