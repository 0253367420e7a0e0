package till

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/scope"
	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream"
)

// proxyOptions are the subdirectives of reverse_proxy that an upstream may use. The
// others could send a request to another place or twice, or change what was checked.
var proxyOptions = []string{
	"lb_policy", "lb_retries", "lb_try_duration", "lb_try_interval",
	"health_uri", "health_port", "health_interval", "health_timeout", "health_status", "health_body",
	"health_method", "health_headers", "health_passes", "health_fails", "health_follow_redirects",
	"fail_duration", "max_fails", "unhealthy_status", "unhealthy_latency", "unhealthy_request_count",
	"flush_interval", "stream_buffer_size", "stream_timeout", "stream_close_delay",
	"transport", "header_up", "header_down",
}

var upstreamOptions = []string{"to", "credential", "auth", "allow", "free", "upgrades", "cors", "cookies", "redirects",
	"output_field", "input_extra", "multiply", "ask_usage", "service_tier", "allow_field", "strip_tools", "drain", "count_exact"}

// parseUpstream reads
//
//	upstream <name> [<preset>|<url>] {
//		to         <url…>
//		credential <placeholder>
//		auth       header <name> [<scheme>] | query <name> | basic user | basic password
//		allow      <method>|* <path…>      # repeatable
//		free       <method>|* <path…>      # repeatable
//		upgrades   <path…>
//		cors       <origin…> | *
//		cookies    pass
//		redirects  pass <host…>        # repeatable
//		output_field max_tokens | max_completion_tokens | both
//		input_extra  <tokens>
//		multiply     <factor>
//		ask_usage    on | off
//		service_tier default | auto
//		allow_field  <name…>           # repeatable
//		strip_tools  <name…>           # repeatable
//		drain        <duration>
//		count_exact  on | off
//		<options of reverse_proxy>
//	}
func parseUpstream(d *caddyfile.Dispenser) (string, *Upstream, error) {
	if !d.NextArg() {
		return "", nil, d.Err("upstream takes a name, and a preset or an address unless the name is a preset")
	}
	name, u := d.Val(), new(Upstream)
	switch args := d.RemainingArgs(); len(args) {
	case 0:
	case 1:
		if strings.Contains(args[0], "://") || strings.HasPrefix(args[0], "unix/") {
			u.To = []string{args[0]}
		} else {
			u.Preset = args[0]
		}
	default:
		return "", nil, d.Errf("upstream takes a name and one preset or address, also got %q", token.ScrubAddress(args[1]))
	}
	var segments []caddyfile.Segment // the options of reverse_proxy
	seen := make(map[string]bool)
	placed := len(u.To) > 0
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option := d.Val()
		switch {
		case option == "to" && placed:
			return "", nil, d.Errf("upstream %s has an address after its name; to give several, write all of them after to", name)
		case slices.Contains(proxyOptions, option) && seen[option] && !strings.HasPrefix(option, "header_") && option != "unhealthy_status":
			return "", nil, d.Errf("%s is given twice, and only the last would count; leave one out", option)
		case slices.Contains(upstreamOptions, option):
			if err := u.parseOption(option, d.RemainingArgs(), seen[option]); err != nil {
				return "", nil, d.WrapErr(err)
			}
			seen[option] = true
		case option == "lb_retry_match":
			return "", nil, d.Err("lb_retry_match would send a request twice on one activation; retries happen before the first byte only, see lb_try_duration")
		case option == "dynamic":
			return "", nil, d.Err("dynamic addresses cannot be checked before the credential is sent; name them with to")
		case slices.Contains(proxyOptions, option):
			segments = append(segments, d.NextSegment())
			seen[option] = true
		default:
			return "", nil, d.Errf("unknown upstream option %q; there are %s, and of reverse_proxy: %s",
				option, strings.Join(upstreamOptions, ", "), strings.Join(proxyOptions, ", "))
		}
	}
	var proxy []caddyfile.Token
	for _, segment := range segments { // auth may come after them
		if err := checkProxyOption(caddyfile.NewDispenser(segment), u); err != nil {
			return "", nil, err
		}
		proxy = append(proxy, segment...)
	}
	if _, err := u.resolve(name); err != nil {
		return "", nil, d.Errf("upstream %s: %v", name, err)
	}
	if err := u.parseProxy(d, proxy); err != nil {
		return "", nil, err
	}
	return name, u, nil
}

// parseOption parses one option; again says that it was given before. parseUpstream adds
// the position to its errors.
func (u *Upstream) parseOption(option string, args []string, again bool) error {
	switch option {
	case "to":
		if len(args) == 0 {
			return errors.New("to takes one or more addresses, such as https://api.example.com")
		}
		for _, address := range args {
			if _, _, err := parseOrigin(address); err != nil {
				return err
			}
			if slices.Contains(u.To, address) {
				return fmt.Errorf("address %s is named twice", address)
			}
			u.To = append(u.To, address)
		}
	case "credential":
		if len(args) != 1 || again {
			return errors.New("credential takes one value and may be given once, such as {env.OPENAI_API_KEY} or {file./etc/till/openai.key}")
		}
		if strings.Contains(args[0], "{http.") {
			return errors.New("credential cannot come from a request")
		}
		u.Credential = args[0]
	case "auth":
		auth, ok := parseAuth(args)
		if !ok || again {
			return errors.New("auth may be given once and is one of: header NAME [SCHEME], query NAME, basic user, basic password")
		}
		u.Auth = &auth
		return auth.Validate()
	case "allow", "free":
		list, example := &u.Allow, "allow GET /repos/*"
		if option == "free" {
			list, example = &u.Free, "free GET /mcp"
		}
		if len(args) < 2 {
			return fmt.Errorf("%s takes a method, or * for any, and one or more paths, such as: %s", option, example)
		}
		for _, pattern := range args[1:] {
			if _, err := scope.ParsePathRule(args[0], pattern); err != nil {
				return fmt.Errorf("%s: %v", option, err)
			}
			*list = append(*list, args[0]+" "+pattern)
		}
	case "upgrades":
		if len(args) == 0 {
			return errors.New("upgrades takes one or more paths, such as: upgrades /ws/*")
		}
		for _, pattern := range args {
			if _, err := scope.ParsePathRule("*", pattern); err != nil {
				return fmt.Errorf("upgrades: %v", err)
			}
		}
		u.Upgrades = append(u.Upgrades, args...)
	case "cors":
		if len(args) == 0 || again {
			return errors.New("cors may be given once and takes origins, such as https://app.example.com, or *")
		}
		u.CORS = args
		_, err := parseCORS(args)
		return err
	case "cookies":
		if again || len(args) != 1 || args[0] != "pass" && args[0] != "drop" {
			return fmt.Errorf("cookies takes pass or drop, and may be given once, got %q", strings.Join(args, " "))
		}
		u.Cookies = args[0]
	case "redirects":
		if len(args) < 2 || args[0] != "pass" {
			return fmt.Errorf("redirects takes pass and the hosts that redirects may lead to, such as: redirects pass codeload.github.com *.githubusercontent.com; got %q", token.ScrubAddress(strings.Join(args, " ")))
		}
		u.RedirectsPass = append(u.RedirectsPass, args[1:]...)
		_, err := parseRedirectHosts(args[1:])
		return err
	case "allow_field", "strip_tools":
		list, takes := &u.AllowFields, "fields of requests, such as: allow_field my_extension"
		if option == "strip_tools" {
			list, takes = &u.StripTools, "tools that the provider runs, such as: strip_tools web_search"
		}
		if len(args) == 0 {
			return fmt.Errorf("%s takes names of %s", option, takes)
		}
		*list = append(*list, args...)
		return u.checkOptions()
	default:
		return u.parseSingle(option, args, again)
	}
	return nil
}

// checkOptions reports what is wrong with the options so far.
func (u *Upstream) checkOptions() error {
	options, err := u.options()
	if err == nil {
		_, err = new(upstream.Preset).With(options)
	}
	return err
}

// singleOptions are the options that take one value and may be given once, each with a
// description of its value.
var singleOptions = map[string]string{
	"output_field": "one of " + strings.Join(upstream.OutputFields, ", "),
	"input_extra":  "a number of tokens, such as 300",
	"multiply":     "a factor for prices, such as 1.1",
	"ask_usage":    "on or off",
	"service_tier": strings.Join(upstream.ServiceTiers, " or "),
	"count_exact":  "on or off",
	"drain":        "a duration, such as 5s, or 0s for none",
}

func (u *Upstream) parseSingle(option string, args []string, again bool) error {
	example := singleOptions[option]
	if again || len(args) != 1 {
		return fmt.Errorf("%s takes %s, and may be given once", option, example)
	}
	switch value := args[0]; option {
	case "output_field":
		u.OutputField = value
	case "input_extra":
		n, err := record.ParseCount(value)
		if err != nil {
			return fmt.Errorf("input_extra takes %s, got %q", example, value)
		}
		u.InputExtra = &n
	case "multiply":
		if _, err := upstream.ParseMultiply(value); err != nil {
			return err
		}
		u.Multiply = json.Number(value)
	case "ask_usage":
		u.AskUsage = value
	case "service_tier":
		u.ServiceTier = value
	case "count_exact":
		u.CountExact = value
	case "drain":
		wait, err := caddy.ParseDuration(value)
		if err != nil {
			return fmt.Errorf("drain takes %s, got %q", example, value)
		}
		u.Drain = new(caddy.Duration(wait))
	}
	return u.checkOptions()
}

func parseAuth(args []string) (upstream.Auth, bool) {
	switch {
	case len(args) < 2:
		return upstream.Auth{}, false
	case args[0] == "header" && len(args) <= 3:
		a := upstream.Auth{In: upstream.InHeader, Name: args[1]}
		if len(args) == 3 {
			a.Scheme = args[2]
		}
		return a, true
	case args[0] == "query" && len(args) == 2:
		return upstream.Auth{In: upstream.InQuery, Name: args[1]}, true
	case args[0] == "basic" && len(args) == 2 && (args[1] == "user" || args[1] == "password"):
		return upstream.Auth{In: "basic " + args[1]}, true
	}
	return upstream.Auth{}, false
}

// checkProxyOption refuses options that reverse_proxy itself would accept.
func checkProxyOption(d *caddyfile.Dispenser, u *Upstream) error {
	d.Next()
	option, args := d.Val(), d.RemainingArgs()
	switch option {
	case "transport":
		if len(args) != 1 || args[0] != "http" {
			return d.Err("transport must be http: its options apply to till's own transport")
		}
	case "header_up", "header_down":
		if len(args) < 1 || len(args) > 2 {
			return d.Errf("%s takes a header and a static value, or -HEADER", option)
		}
		name := http.CanonicalHeaderKey(strings.TrimSuffix(strings.TrimLeft(args[0], "+-?>"), ":"))
		taken := slices.Contains(upstream.Slots(), name) || isNeverSent(name) ||
			strings.HasPrefix(name, "Till-") || name == "Host" || name == "Cookie" || name == "Set-Cookie" ||
			u.Auth != nil && u.Auth.In == upstream.InHeader && name == http.CanonicalHeaderKey(u.Auth.Name)
		if taken || strings.Contains(name, "*") {
			return d.Errf("%s must not touch %s: till itself decides about it", option, name)
		}
		if len(args) == 2 && strings.ContainsAny(args[1], "{}") {
			return d.Errf("%s must be a static value, got %q", option, args[1])
		}
	}
	return nil
}

// parseProxy has reverse_proxy parse its own options.
func (u *Upstream) parseProxy(d *caddyfile.Dispenser, tokens []caddyfile.Token) error {
	if len(tokens) == 0 {
		return nil
	}
	first, last := tokens[0], tokens[len(tokens)-1]
	before, open := first, first
	before.Text, open.Text = "reverse_proxy", "{"
	before.Line, open.Line = first.Line-1, first.Line-1
	end := last
	end.Text, end.Line = "}", last.Line+1
	all := append([]caddyfile.Token{before, open}, tokens...)
	handler := new(reverseproxy.Handler)
	if err := handler.UnmarshalCaddyfile(caddyfile.NewDispenser(append(all, end))); err != nil {
		return err
	}
	u.Proxy = caddyconfig.JSON(handler, nil)
	if string(u.Proxy) == "{}" {
		u.Proxy = nil
	}
	if !json.Valid(u.Proxy) && u.Proxy != nil {
		return d.Err("the options for reverse_proxy could not be read")
	}
	return nil
}
