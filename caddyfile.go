package till

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("till", parseGlobal)
	httpcaddyfile.RegisterDirective("till", parseDirective)
	httpcaddyfile.RegisterDirectiveOrder("till", httpcaddyfile.Before, "reverse_proxy")
}

// parseGlobal reads the global option:
//
//	till {
//		store      <module> [<args…>]
//		seal_key   <key>                 # repeatable
//		public_url <url>
//		console_url <url>
//		max_body   <size>
//		anchor     <file>
//		prices     <file>
//		retain <duration>
//		audit_retain <duration>
//		stale_after <duration> [revoke]
//		price      <preset>/<model> <input> <output> [<cached input> [<cache write>]]  # repeatable
//		unknown_price refuse | count_only
//		webhook    <url> { … }           # repeatable
//		upstream   <name> [<preset>|<url>] { … }
//		role       <name> { … }
//	}
//
// See parseWebhook for the options of a webhook, parseUpstream for those of an upstream,
// and parseRole for those of a role.
func parseGlobal(d *caddyfile.Dispenser, existing any) (any, error) {
	d.Next() // till
	if existing != nil {
		return nil, d.Err("there is a till block already: put everything into one")
	}
	if d.NextArg() {
		return nil, d.Errf("the global till block takes no arguments, got %q", d.Val())
	}
	for look := *d; look.Next(); {
		if look.Val() == "" { // otherwise a rule could be left out by mistake
			return nil, look.Err("a value is empty, as when a variable is not set; leave the line out for none")
		}
	}
	app := &App{Upstreams: make(map[string]*Upstream), Roles: make(map[string]*Role)}
	var later []func() error
	var store string // its kind
	for d.NextBlock(0) {
		switch option := d.Val(); option {
		case "store":
			if app.StoreRaw != nil {
				return nil, d.Err("there is a store already: till keeps everything in one")
			}
			name, raw, err := parseStore(d)
			if err != nil {
				return nil, err
			}
			store, app.StoreRaw = name, raw
		case "seal_key":
			var key string
			if !d.AllArgs(&key) {
				return nil, d.Err("seal_key takes one key, such as {file./etc/till/seal.key}")
			}
			if slices.Contains(app.SealKeys, key) {
				return nil, d.Err("this seal_key is listed already: the first one seals, and further ones still open")
			}
			app.SealKeys = append(app.SealKeys, key)
		case "seal_key_file":
			if app.SealKeyFile != "" || !d.AllArgs(&app.SealKeyFile) {
				return nil, d.Err("seal_key_file takes one path and may be given once: the server makes seal keys there")
			}
		case "public_url":
			if app.PublicURL != "" || !d.AllArgs(&app.PublicURL) {
				return nil, d.Err("public_url takes one address and may be given once, such as https://agents.example.com")
			}
		case "console_url":
			if app.ConsoleURL != "" || !d.AllArgs(&app.ConsoleURL) {
				return nil, d.Err("console_url takes one address and may be given once, such as https://till.example.com")
			}
		case "max_body":
			var text string
			if app.MaxBody != 0 || !d.AllArgs(&text) {
				return nil, d.Err("max_body takes one size and may be given once, such as 32MB")
			}
			size, err := humanize.ParseBytes(text)
			if err != nil || size < 1 || size > maxBuffered/2 {
				return nil, d.Errf("max_body must be a size from 1B to %s, such as 32MB, got %q", humanize.IBytes(maxBuffered/2), text)
			}
			app.MaxBody = int64(size)
		case "anchor":
			if app.Anchor != "" || !d.AllArgs(&app.Anchor) {
				return nil, d.Err("anchor takes one file and may be given once")
			}
			at := *d
			later = append(later, func() error { // the store may be declared below
				if store == "postgres" {
					return at.WrapErr(errAnchorOfShared)
				}
				return nil
			})
		case "retain", "audit_retain":
			to, least, shortest, example := &app.Retain, minRetain, "1m", "90d"
			if option == "audit_retain" {
				to, least, shortest, example = &app.AuditRetain, minAuditRetain, "1d", "400d"
			}
			var text string
			if *to != 0 || !d.AllArgs(&text) {
				return nil, d.Errf("%s takes one duration and may be given once, such as %s", option, example)
			}
			keep, err := caddy.ParseDuration(text)
			if err != nil || keep < least {
				return nil, d.Errf("%s must be a duration of at least %s, such as %s, got %q", option, shortest, example, text)
			}
			*to = caddy.Duration(keep)
		case "stale_after":
			args := d.RemainingArgs()
			if app.StaleAfter != 0 || len(args) == 0 || len(args) > 2 || len(args) == 2 && args[1] != "revoke" {
				return nil, d.Err("stale_after takes a duration, and perhaps the word revoke, and may be given once: stale_after 30d revoke")
			}
			after, err := caddy.ParseDuration(args[0])
			if err != nil || after < time.Second {
				return nil, d.Errf("stale_after must be a duration of at least 1s, such as 30d, got %q", args[0])
			}
			app.StaleAfter, app.StaleRevoke = caddy.Duration(after), len(args) == 2
		case "prices":
			if app.PricesFile != "" || !d.AllArgs(&app.PricesFile) {
				return nil, d.Err("prices takes one file and may be given once")
			}
		case "price":
			price, err := parsePrice(d)
			if err != nil {
				return nil, err
			}
			if slices.ContainsFunc(app.Prices, func(p ModelPrice) bool { return p.Model == price.Model }) {
				return nil, d.Errf("%s has a price already: write one line for each model", price.Model)
			}
			app.Prices = append(app.Prices, price)
		case "unknown_price":
			if app.UnknownPrice != "" || !d.AllArgs(&app.UnknownPrice) || app.UnknownPrice != "refuse" && app.UnknownPrice != "count_only" {
				return nil, d.Err("unknown_price may be given once and is refuse or count_only")
			}
		case "upstream":
			name, u, err := parseUpstream(d)
			if err != nil {
				return nil, err
			}
			if app.Upstreams[name] != nil {
				return nil, d.Errf("upstream %s is declared twice", name)
			}
			app.Upstreams[name] = u
		case "webhook":
			hook, err := parseWebhook(d)
			if err != nil {
				return nil, err
			}
			app.Webhooks = append(app.Webhooks, hook)
		case "role":
			name, role, upstreams, err := parseRole(d)
			if err != nil {
				return nil, err
			}
			if app.Roles[name] != nil {
				return nil, d.Errf("role %s is declared twice", name)
			}
			app.Roles[name] = role
			if upstreams != nil { // they may be declared below
				later = append(later, func() error {
					if err := role.checkUpstreams(slices.Sorted(maps.Keys(app.Upstreams))); err != nil {
						return upstreams.Errf("role %s: %v", name, err)
					}
					return nil
				})
			}
		default:
			return nil, d.Errf("unknown till option %q; there are store, anchor, retain, audit_retain, stale_after, seal_key, seal_key_file, public_url, console_url, max_body, prices, price, unknown_price, webhook, upstream, role", option)
		}
	}
	for _, check := range later {
		if err := check(); err != nil {
			return nil, err
		}
	}
	return httpcaddyfile.App{Name: "till", Value: caddyconfig.JSON(app, nil)}, nil
}

func parsePrice(d *caddyfile.Dispenser) (p ModelPrice, err error) {
	args := d.RemainingArgs()
	if len(args) < 3 || len(args) > 5 {
		return p, d.Err("price takes a model and USD per million tokens of input and output, and perhaps of cached input and of cache writes: price openai/my-finetune 3.00 12.00 0.30 3.75")
	}
	if _, _, err := splitModel(args[0]); err != nil {
		return p, d.WrapErr(err)
	}
	p.Model = args[0]
	for i, to := range []*float64{&p.Input, &p.Output, &p.CachedInput, &p.CacheWrite} {
		if i+1 == len(args) {
			break
		}
		if *to, err = strconv.ParseFloat(strings.TrimPrefix(args[i+1], "$"), 64); err != nil || !(*to >= 0) {
			return p, d.Errf("a price is a number of USD per million tokens, got %q", args[i+1])
		}
	}
	return p, nil
}

func parseStore(d *caddyfile.Dispenser) (name string, raw json.RawMessage, err error) {
	if !d.NextArg() {
		return "", nil, d.Err("store takes the kind of store, such as: store badger /var/lib/till")
	}
	name = d.Val()
	if _, err := caddy.GetModule("till.stores." + name); err != nil {
		return "", nil, d.Errf("unknown store %q; there are badger and postgres", name)
	}
	module, err := caddyfile.UnmarshalModule(d, "till.stores."+name)
	if err != nil {
		return "", nil, err
	}
	return name, caddyconfig.JSONModuleObject(module, "module", name, nil), nil
}

// parseDirective expands
//
//	till [<matcher>] [<upstream>…]
//
// into one route: the till handler, and behind it a reverse_proxy for the
// upstream of the key. With several upstreams that is
//
//	route {
//		till openai anthropic
//		route {
//			@openai vars {http.till.upstream} openai
//			reverse_proxy @openai https://api.openai.com {
//				transport till { upstream openai }
//			}
//			…
//		}
//	}
//
// and
//
//	till [<matcher>] guard
//
// is the till handler alone, in front of the handlers that follow.
func parseDirective(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	if !h.Next() {
		return nil, h.ArgErr()
	}
	matcher, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	h.Next() // till
	if err := checkOneRole(h, keysRole); err != nil {
		return nil, err
	}
	args := h.RemainingArgs()
	if h.NextBlock(0) {
		return nil, h.Errf("till takes no block here, got %q: upstreams are declared in the global options", h.Val())
	}
	app, err := globalBlock(h)
	if err != nil {
		return nil, err
	}
	handler := &Handler{}
	if slices.Contains(args, "guard") {
		if len(args) > 1 {
			return nil, h.Err("till guard takes nothing else: it guards the handlers that follow, for keys of every upstream")
		}
		handler.Guard = true
		if err := recordLine(h, matcher, siteLine{role: keysRole, guard: true}); err != nil {
			return nil, err
		}
		return route(matcher, handlerJSON(handler, "till")), nil
	}
	for i, name := range args {
		if app.Upstreams[name] == nil {
			return nil, h.Errf("upstream %q is not declared in the global till block; there are: %s", name, upstreamNames(app))
		}
		if slices.Contains(args[:i], name) {
			return nil, h.Errf("upstream %s is named twice", name)
		}
	}
	handler.Upstreams = args
	if err := recordLine(h, matcher, siteLine{role: keysRole, upstreams: args}); err != nil {
		return nil, err
	}
	if len(args) == 0 {
		args = slices.Sorted(maps.Keys(app.Upstreams))
	}
	if len(args) == 0 {
		return nil, h.Err("no upstream is declared: write { till { upstream openai { credential {env.OPENAI_API_KEY} } } } in the global options")
	}
	var routes caddyhttp.RouteList
	for _, name := range args {
		proxy, err := app.Upstreams[name].proxy(name)
		if err != nil {
			return nil, h.Errf("upstream %s: %v", name, err)
		}
		if len(args) == 1 {
			return route(matcher, handlerJSON(handler, "till"), proxy), nil
		}
		routes = append(routes, caddyhttp.Route{
			MatcherSetsRaw: caddyhttp.RawMatcherSets{{
				"vars": caddyconfig.JSON(caddyhttp.VarsMatcher{"{http.till.upstream}": {name}}, nil),
			}},
			HandlersRaw: []json.RawMessage{proxy},
		})
	}
	return route(matcher, handlerJSON(handler, "till"), handlerJSON(caddyhttp.Subroute{Routes: routes}, "subroute")), nil
}

func handlerJSON(handler any, name string) json.RawMessage {
	return caddyconfig.JSONModuleObject(handler, "handler", name, nil)
}

// route puts the handlers into one route, so that sorting cannot separate them.
func route(matcher caddy.ModuleMap, handlers ...json.RawMessage) []httpcaddyfile.ConfigValue {
	r := caddyhttp.Route{HandlersRaw: handlers}
	if matcher != nil {
		r.MatcherSetsRaw = caddyhttp.RawMatcherSets{matcher}
	}
	return []httpcaddyfile.ConfigValue{{Class: "route", Value: r}}
}

// globalBlock is the global till block, as far as it was read.
func globalBlock(h httpcaddyfile.Helper) (*App, error) {
	option, ok := h.Option("till").(httpcaddyfile.App)
	if !ok {
		return nil, h.Err("there is no global till block: begin the Caddyfile with { till { upstream openai { credential {env.OPENAI_API_KEY} } } }")
	}
	app := new(App)
	if err := json.Unmarshal(option.Value, app); err != nil {
		return nil, fmt.Errorf("reading the global till block: %w", err)
	}
	return app, nil
}

func upstreamNames(app *App) string {
	if len(app.Upstreams) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(app.Upstreams)), ", ")
}

// neverMatches keeps reverse_proxy from sending anything a second time: with it, only
// failures to connect are retried. An empty matcher set matches everything, and this is
// its negation.
var neverMatches = json.RawMessage(`[{"not":[{}]}]`)

// proxy is the reverse_proxy handler of an upstream.
func (u *Upstream) proxy(name string) (json.RawMessage, error) {
	t, err := u.resolve(name)
	if err != nil {
		return nil, err
	}
	handler := make(map[string]any)
	if u.Proxy != nil {
		if err := json.Unmarshal(u.Proxy, &handler); err != nil {
			return nil, err
		}
	}
	transport, _ := handler["transport"].(map[string]any)
	if transport == nil {
		transport = make(map[string]any)
	}
	transport["protocol"], transport["upstream"] = "till", name
	if t.origins[0].scheme == "https" && transport["tls"] == nil {
		transport["tls"] = struct{}{}
	}
	if balancing, ok := handler["load_balancing"].(map[string]any); ok && (balancing["retries"] != nil || balancing["try_duration"] != nil) {
		balancing["retry_match"] = neverMatches
	}
	var dials []map[string]string
	for _, o := range t.origins {
		dials = append(dials, map[string]string{"dial": o.dial()})
	}
	handler["handler"], handler["transport"], handler["upstreams"] = "reverse_proxy", transport, dials
	return json.Marshal(handler)
}
