package till

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/scope"
)

const roleOptions = "permissions, sees, upstreams, models, methods, paths, ips, max_activations, max_tokens, max_spend, max_lifetime, budget"

// parseRole reads a role:
//
//	role <name> {
//		permissions <permission…>       # keys:create keys:read keys:update keys:revoke
//		                                # keys:rotate audit:read tokens:manage
//		sees        own|role|all
//		upstreams   <name…>
//		models      <model…>
//		methods     <method…>
//		paths       <path…>
//		ips         <address or network…>
//		max_activations <count>
//		max_tokens      <count>
//		max_spend       <dollars>
//		max_lifetime    <duration>
//		budget [activations <count>] [tokens <count>] [spend <dollars>] [renews day|week|month]
//	}
//
// Each option may be given once. upstreams is the position of the role's upstreams, for
// errors about them; nil if there are none.
func parseRole(d *caddyfile.Dispenser) (name string, role *Role, upstreams *caddyfile.Dispenser, err error) {
	if !d.AllArgs(&name) {
		return "", nil, nil, d.Err("role takes a name and a block")
	}
	if !validName.MatchString(name) {
		return "", nil, nil, d.Errf("a role's name must be 1 to 63 of a-z, 0-9, - and _, and begin with a letter or digit, got %q", name)
	}
	role = new(Role)
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option, at := d.Val(), *d
		if seen[option] {
			return "", nil, nil, d.Errf("%s may be given once: write all of it on one line", option)
		}
		seen[option] = true
		if err := role.option(option, d.RemainingArgs()); err != nil {
			return "", nil, nil, d.WrapErr(err)
		}
		if option == "upstreams" {
			upstreams = &at
		}
	}
	return name, role, upstreams, nil
}

// option parses one line of a role's block; parseRole adds the position to its errors.
func (r *Role) option(option string, args []string) (err error) {
	lists := map[string]*[]string{
		"permissions": &r.Permissions, "upstreams": &r.Upstreams, "models": &r.Models,
		"methods": &r.Methods, "paths": &r.Paths, "ips": &r.IPs,
	}
	counts := map[string]*int64{"max_activations": &r.MaxActivations, "max_tokens": &r.MaxTokens}
	switch list := lists[option]; {
	case list != nil && len(args) == 0:
		return fmt.Errorf("%s takes at least one value; leave the line out for no ceiling", option)
	case list != nil:
		*list = args
		if err := checkList(option, args); err != nil {
			return err
		}
	case !slices.Contains(strings.Split(roleOptions, ", "), option):
		return fmt.Errorf("unknown role option %q; there are %s", option, roleOptions)
	case len(args) != 1 && option != "budget":
		return fmt.Errorf("%s takes one value", option)
	}
	switch option {
	case "permissions":
		for _, text := range args {
			if _, err := permission(text); err != nil {
				return err
			}
		}
	case "models", "methods", "paths":
		return scope.Scope{Models: r.Models, Methods: r.Methods, Paths: r.Paths}.Validate()
	case "ips":
		for _, text := range args {
			if _, err := scope.ParseIP(text); err != nil {
				return err
			}
		}
	case "sees":
		sees, err := record.ParseSight(args[0])
		if err != nil {
			return err
		}
		r.Sees = string(sees)
	case "max_activations", "max_tokens":
		n, err := record.ParseCount(args[0])
		if err != nil || n < 1 {
			return fmt.Errorf("%s must be a positive count such as 500, 10k or 1M, got %q", option, args[0])
		}
		*counts[option] = n
	case "max_spend":
		if n, err := record.ParseUSD(args[0]); err != nil || n < 1 {
			return fmt.Errorf("max_spend must be an amount of dollars such as $5 or 0.25, got %q", args[0])
		}
		r.MaxSpendUSD = strings.TrimPrefix(args[0], "$")
	case "max_lifetime":
		lifetime, err := caddy.ParseDuration(args[0])
		if err != nil || lifetime <= 0 {
			return fmt.Errorf("max_lifetime must be a duration such as 24h or 7d, got %q", args[0])
		}
		r.MaxLifetime = caddy.Duration(lifetime)
	case "budget":
		r.Budget, err = parseBudget(args)
	}
	return err
}

// parseBudget parses pairs of a kind and an amount:
//
//	budget activations 10000 tokens 5M spend $200 renews month
func parseBudget(args []string) (*RoleBudget, error) {
	b := new(RoleBudget)
	counts := map[string]*int64{"activations": &b.Activations, "tokens": &b.Tokens}
	if len(args) == 0 || len(args)%2 != 0 {
		return nil, errors.New("budget takes all or some of: budget activations 10000 tokens 5M spend $200 renews month")
	}
	for i := 0; i < len(args); i += 2 {
		kind, amount := args[i], args[i+1]
		switch count := counts[kind]; {
		case kind == "renews" && b.Renews == "":
			if _, err := record.ParseRenewal(amount); err != nil {
				return nil, fmt.Errorf("budget renews: %v", err)
			}
			b.Renews = amount
		case kind == "spend" && b.SpendUSD == "":
			if n, err := record.ParseUSD(amount); err != nil || n < 1 {
				return nil, fmt.Errorf("budget spend must be an amount of dollars such as $200 or 0.50, got %q", amount)
			}
			b.SpendUSD = strings.TrimPrefix(amount, "$")
		case count != nil && *count == 0:
			n, err := record.ParseCount(amount)
			if err != nil || n < 1 {
				return nil, fmt.Errorf("budget %s must be a positive count such as 500, 10k or 1M, got %q", kind, amount)
			}
			*count = n
		default:
			return nil, fmt.Errorf("budget takes activations, tokens, spend and renews, each once, got %q", kind)
		}
	}
	return b, nil
}
