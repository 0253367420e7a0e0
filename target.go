package till

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/till-proxy/till/scope"
	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream"
)

// Upstream is one API that keys can be minted for.
type Upstream struct {
	// The preset whose address, credential slot, dialect and paths apply: openai,
	// anthropic, gemini, openrouter, mistral, groq, together, fireworks, perplexity,
	// deepseek, xai, cohere or ollama; and for servers that people run themselves vllm,
	// llamacpp, lmstudio, tgi or sglang. Default: the preset with the upstream's name,
	// or none.
	Preset string `json:"preset,omitempty"`

	// The addresses of the API: scheme and host, optionally a path that goes before the
	// path of every request, or "unix//path". A request for "/" goes to that path as it
	// is written, with or without a slash at its end. Several addresses share the load
	// and must be the same API. Placeholders of requests are not allowed. Default: the
	// preset's address.
	To []string `json:"to,omitempty"`

	// The real key: held custody. Use `{file.*}`, which is watched: a changed file
	// takes effect within seconds, or `{env.*}`; a literal would be visible in the
	// configuration that the admin endpoint shows. Default: none, and then only sealed
	// keys can be minted, which bring their own; but the presets vllm, llamacpp,
	// lmstudio, tgi and sglang send the word "none", which a server that was started
	// without a key does not read.
	Credential string `json:"credential,omitempty"`

	// Where the API expects its credential, on all paths, and where clients may put their
	// key, too. Default: as the preset says, which may be one place on some paths and
	// another on the rest, or `Authorization: Bearer`.
	Auth *upstream.Auth `json:"auth,omitempty"`

	// What may be called, each "METHOD /pattern", where METHOD may be "*". In a pattern
	// "*" stands for one segment, and at the end for one or more. Paths are written in
	// the API's own form. Default: everything that the preset does not know to be
	// asynchronous or administrative.
	Allow []string `json:"allow,omitempty"`

	// Requests that cost nothing, written as in allow: no activation, no tokens, no
	// dollars. They need an active key, and are limited by its rate, or to 60 a minute
	// if it has none. Whatever else they make the upstream do is unlimited, so name
	// only requests that do nothing, such as the event stream of an MCP server. Paths
	// whose use is metered at the preset are refused here, and upgrades are never free.
	// This option allows nothing that allow does not. Default: what the preset knows to
	// be free, model lists and token counting, which stay free.
	Free []string `json:"free,omitempty"`

	// The path patterns on which protocol upgrades (WebSocket) are allowed. A server may
	// ignore the upgrade and answer the GET, so each GET on them is let through. An
	// upgrade with another method, or to another protocol than a WebSocket's, must be one
	// of those in allow, too, if there are any. Default: none.
	Upgrades []string `json:"upgrades,omitempty"`

	// Set to "pass" to let cookies through in both directions. Default: they
	// are dropped.
	Cookies string `json:"cookies,omitempty"`

	// The servers that redirects of the upstream may lead the client to, such as
	// "codeload.github.com", or "*.githubusercontent.com" for one name before the dot;
	// over https, and over http only if the upstream itself is http. Such redirects are
	// passed on unchanged. Name only servers that may see what clients send along: some
	// send their key to wherever a redirect leads. Default: none, and such redirects
	// are refused.
	RedirectsPass []string `json:"redirects_pass,omitempty"`

	// The origins of web pages that may use keys of this upstream from a browser, such
	// as "https://app.example.com", or "*" for any. Their preflights are answered
	// without a key, and their scripts may read Till-*. Default: none.
	CORS []string `json:"cors,omitempty"`

	// The field from which the server reads how long an answer of chat completions may
	// be: "max_tokens", "max_completion_tokens", or "both", which writes both. A limit
	// in tokens or dollars holds only if the server reads the field. Setting this ends
	// the refusal of limited keys after an answer that exceeded its bound. Default: the
	// preset's: max_completion_tokens for openai, max_tokens for all others.
	OutputField string `json:"output_field,omitempty"`

	// Tokens that the server adds to each prompt: its template, and the system prompt
	// in it. They are held for each request. Setting this ends the refusal of limited
	// keys after an answer that reported more input than was held; with too low a value
	// limits do not hold until such an answer. At most 1,000,000. Default: 128 for
	// openai, anthropic, gemini and deepseek, 1,024 for all others.
	InputExtra *int64 `json:"input_extra,omitempty"`

	// The factor for every price of this upstream, above 0 and at most 10, to three
	// digits, rounded up: for a region, a reseller, taxes. It applies to what is held
	// and what is charged. Default: 1.
	Multiply json.Number `json:"multiply,omitempty"`

	// Whether streams of chat completions of limited keys are asked to report what they
	// used (stream_options.include_usage), "on" or "off". Without a report the whole
	// bound is charged. Default: as the preset's vendor needs it, until the upstream
	// refuses the field with a 400 or 422.
	AskUsage string `json:"ask_usage,omitempty"`

	// Which tier serves requests of keys with a limit in dollars that name none, or
	// "auto", at the preset openai: "default" has them ask for the standard price,
	// whatever the project has set; "auto" leaves them to the project, and holds the
	// price of priority. Default: "default" at api.openai.com and the addresses below
	// it; elsewhere requests stay as they are, and the standard price is held.
	ServiceTier string `json:"service_tier,omitempty"`

	// Fields of requests, at their top level, that limited keys may send although till
	// does not know their cost: they are counted as free. A field that makes the
	// upstream do more than answer breaks limits. Default: none.
	AllowFields []string `json:"allow_field,omitempty"`

	// Tools that the provider would run, such as "web_search" or "code_interpreter",
	// which are taken out of every request to a model, of all keys; the request goes on
	// without them. A name is the tool's type, without the date that may follow it, or
	// at Gemini its field; at OpenRouter also a plugin's id. A request that insists on
	// such a tool is refused. Bodies are read for that, as for limited keys, up to
	// max_body. Needs a preset. Default: none, and limited keys are refused such tools.
	StripTools []string `json:"strip_tools,omitempty"`

	// How long the answer to a limited key is read on after its client went away, to
	// learn what it used, as a duration; at most 1m, and 0 for not at all. Without it a
	// client that leaves early pays the whole bound. Default: 5s.
	Drain *caddy.Duration `json:"drain,omitempty"`

	// Whether the vendor's free counting endpoint may be asked how many tokens an input
	// has, if the bound of the request does not fit into what is left, "on" or "off".
	// The vendor is then sent the input of requests that may be refused afterwards.
	// Default: on, at the presets openai, anthropic and gemini; others have no such
	// endpoint.
	CountExact string `json:"count_exact,omitempty"`

	// Options for the reverse_proxy handlers that the Caddyfile's `till` directive
	// makes for this upstream: it copies them. In JSON, write them on the reverse_proxy
	// handler itself. Default: none.
	Proxy json.RawMessage `json:"proxy,omitempty"`
}

type target struct {
	name          string
	presetName    string
	preset        *upstream.Preset
	auth          upstream.Auth
	ownAuth       bool                       // auth is not the preset's; see authAt
	held          atomic.Pointer[credential] // nil if there are sealed keys only
	presetAddress bool                       // the address is the preset's own
	origins       []origin
	base          string   // path that goes before the path of every request
	root          string   // path of requests for "/": base as it was written
	declared      []string // origins with base, sorted: what boxes are bound to
	addresses     string   // the declared ones, joined
	allow         scope.PathRules
	free          scope.PathRules // those of the operator, besides the preset's
	upgrades      scope.PathRules
	cookies       bool
	cors          corsOrigins
	redirectHosts redirectHosts // those that redirects may lead to
	publicOrigin  string        // the origin of public_url
	drain         time.Duration // how long an answer is read on without its client
	countExact    bool          // the vendor may be asked how many tokens an input has
	vendorCount   vendorCount
	withheld      map[string]bool // headers of requests that are never sent on; see withholds
	admitted      prometheus.Counter
	refusals      *prometheus.CounterVec // by code
	spent         *usageMetrics

	settings       map[string]string // of options that an upstream may contradict; "" if not set
	contradictions *contradictions   // of the store
	advice         *advice           // likewise
	answersUsage   atomic.Bool       // the upstream accepted a stream that was asked for its usage
}

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// resolve finds the preset and the addresses, which the Caddyfile needs, too.
func (u *Upstream) resolve(name string) (*target, error) {
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("a name must be 1 to 63 of a-z, 0-9, - and _, and begin with a letter or digit, got %q", name)
	}
	for option, list := range map[string][]string{
		"to": u.To, "allow": u.Allow, "free": u.Free, "upgrades": u.Upgrades, "cors": u.CORS, "redirects_pass": u.RedirectsPass,
		"allow_field": u.AllowFields, "strip_tools": u.StripTools,
	} {
		if option == "to" && len(list) > 0 {
			continue // parseOrigin has its own message for placeholders
		}
		if err := checkList(option, list); err != nil {
			return nil, err
		}
	}
	t := &target{name: name, presetName: u.Preset, preset: &upstream.Preset{}}
	if t.presetName == "" {
		if _, ok := upstream.Lookup(name); ok {
			t.presetName = name
		}
	}
	if t.presetName != "" {
		p, ok := upstream.Lookup(t.presetName)
		if !ok {
			return nil, fmt.Errorf("unknown preset %q; there are %s", token.ScrubAddress(t.presetName), strings.Join(upstream.Names(), ", "))
		}
		t.preset = p
	}
	to := u.To
	if len(to) == 0 {
		if t.preset.Origin == "" {
			return nil, fmt.Errorf("an address is needed: write `upstream %s https://api.example.com { … }`, or name a preset: %s",
				name, strings.Join(upstream.Names(), ", "))
		}
		to, t.presetAddress = []string{t.preset.Origin}, true
	}
	for i, address := range to {
		o, root, err := parseOrigin(address)
		if err != nil {
			return nil, err
		}
		if root, err = t.preset.Base(root); err != nil {
			return nil, fmt.Errorf("address %s: %w", address, err)
		}
		if i > 0 && (o.scheme != t.origins[0].scheme || root != t.root) {
			return nil, fmt.Errorf("all addresses must have the same scheme and path, got %s and %s", to[0], address)
		}
		t.origins, t.root, t.base = append(t.origins, o), root, strings.TrimSuffix(root, "/")
		t.declared = append(t.declared, o.String()+t.base)
	}
	options, err := u.options()
	if err != nil {
		return nil, err
	}
	for _, o := range t.origins {
		options.Hosts = append(options.Hosts, o.hostname())
	}
	if t.preset, err = t.preset.With(options); err != nil {
		return nil, err
	}
	if len(u.StripTools) > 0 && t.presetName == "" {
		return nil, errors.New("strip_tools needs a preset, which says what a tool looks like; name one, such as openai, after the upstream's name")
	}
	if u.ServiceTier != "" && t.presetName == "" {
		return nil, errors.New("service_tier needs the preset openai; name it after the upstream's name")
	}
	if t.allow, err = pathRules("allow", u.Allow); err != nil {
		return nil, err
	}
	if t.free, err = pathRules("free", u.Free); err != nil {
		return nil, err
	}
	for _, rule := range t.free {
		if path := t.preset.MeteredBy(rule); path != "" {
			return nil, fmt.Errorf("free %s %s would make %s free, which is metered at the preset %s; name other paths", rule.Method, rule.Pattern, path, t.presetName)
		}
	}
	slices.Sort(t.declared)
	t.declared = slices.Compact(t.declared)
	t.addresses = strings.Join(t.declared, " ")
	return t, nil
}

// defaultDrain and maxDrain are how long an answer is read on after its client went
// away.
const (
	defaultDrain = 5 * time.Second
	maxDrain     = time.Minute
)

func (u *Upstream) options() (o upstream.Options, err error) {
	o = upstream.Options{OutputField: u.OutputField, InputExtra: u.InputExtra, ServiceTier: u.ServiceTier, AllowFields: u.AllowFields, StripTools: u.StripTools}
	if u.Multiply != "" {
		if o.Multiply, err = upstream.ParseMultiply(string(u.Multiply)); err != nil {
			return o, err
		}
	}
	for _, s := range []struct{ name, value string }{{"ask_usage", u.AskUsage}, {"count_exact", u.CountExact}} {
		if s.value != "" && s.value != "on" && s.value != "off" {
			return o, fmt.Errorf(`%s must be "on" or "off", got %q`, s.name, s.value)
		}
	}
	if u.AskUsage != "" {
		o.AskUsage = new(u.AskUsage == "on")
	}
	if u.Drain != nil && (*u.Drain < 0 || time.Duration(*u.Drain) > maxDrain) {
		return o, fmt.Errorf("drain must be from 0s to %s, got %s", maxDrain, time.Duration(*u.Drain))
	}
	return o, nil
}

// provision prepares everything that a request needs.
func (u *Upstream) provision(name string) (*target, error) {
	if u == nil {
		return nil, errors.New("must not be null")
	}
	t, err := u.resolve(name)
	if err != nil {
		return nil, err
	}
	t.auth, t.ownAuth = t.preset.Auth, u.Auth != nil || t.presetName == ""
	if u.Auth != nil {
		t.auth = *u.Auth
	} else if t.presetName == "" {
		t.auth = upstream.Auth{In: upstream.InHeader, Name: "Authorization", Scheme: "Bearer"}
	}
	if err := t.auth.Validate(); err != nil {
		return nil, err
	}
	t.settings = map[string]string{outputFieldOption: u.OutputField, askUsageOption: u.AskUsage}
	if u.InputExtra != nil {
		t.settings[inputExtraOption] = strconv.FormatInt(*u.InputExtra, 10)
	}
	t.drain, t.countExact = defaultDrain, u.CountExact != "off"
	if u.Drain != nil {
		t.drain = time.Duration(*u.Drain)
	}
	for _, pattern := range u.Upgrades {
		rule, err := scope.ParsePathRule("*", pattern)
		if err != nil {
			return nil, fmt.Errorf("upgrades: %w", err)
		}
		t.upgrades = append(t.upgrades, rule)
	}
	switch u.Cookies {
	case "", "drop":
	case "pass":
		t.cookies = true
	default:
		return nil, fmt.Errorf(`cookies must be "pass" or "drop", got %q`, u.Cookies)
	}
	if t.cors, err = parseCORS(u.CORS); err != nil {
		return nil, err
	}
	if t.redirectHosts, err = parseRedirectHosts(u.RedirectsPass); err != nil {
		return nil, err
	}
	t.withheld = make(map[string]bool)
	for _, names := range [][]string{upstream.Slots(), neverSent, overrides} {
		for _, name := range names {
			t.withheld[name] = true
		}
	}
	t.withheld["Cookie"] = !t.cookies
	if t.auth.In == upstream.InHeader {
		t.withheld[http.CanonicalHeaderKey(t.auth.Name)] = true
	}
	return t, nil
}

// pathRules parses an option that is a list of "METHOD /pattern".
func pathRules(option string, lines []string) (rules scope.PathRules, err error) {
	for _, line := range lines {
		method, pattern, found := strings.Cut(line, " ")
		if !found {
			return nil, fmt.Errorf(`%s must be "METHOD /pattern", got %q`, option, line)
		}
		rule, err := scope.ParsePathRule(method, pattern)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", option, err)
		}
		rules = append(rules, rule)
	}
	return rules, nil
}
