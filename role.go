package till

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/scope"
)

// Role defines what the holders of its admin tokens may do, and how far keys that are
// minted under it may go, whoever mints them. A ceiling bounds the total of a key, even
// after a change or a grant; a limit that a mint leaves out is set to the ceiling.
type Role struct {
	// What holders of the role's tokens may do: any of `keys:create`, `keys:read`,
	// `keys:update`, `keys:revoke`, `keys:rotate`, `audit:read` and `tokens:manage`.
	// Default: nothing.
	Permissions []string `json:"permissions,omitempty"`

	// Which keys they see; others do not exist for them: "own" means those minted with
	// the same token and their descendants, "role" also all others of the role, "all"
	// every key. Default: own.
	Sees string `json:"sees,omitempty"`

	// The upstreams that keys may be for, by name. Default: all.
	Upstreams []string `json:"upstreams,omitempty"`

	// The models that keys may use: names, or prefixes that end with `*`. A key that
	// names none gets these. Default: all.
	Models []string `json:"models,omitempty"`

	// The HTTP methods that keys may use, in capitals. A key that names none gets
	// these. Default: all.
	Methods []string `json:"methods,omitempty"`

	// The paths that keys may use, as patterns. A key that names none gets these.
	// Default: all.
	Paths []string `json:"paths,omitempty"`

	// The addresses and networks that keys may be used from. A key that names
	// none gets these. Default: all.
	IPs []string `json:"ips,omitempty"`

	// How many activations a key may have in all, grants included. Default: any number.
	MaxActivations int64 `json:"max_activations,omitempty"`

	// How many tokens of input and output a key may use in all. Keys for upstreams
	// without a preset cannot be minted under it, because till does not know how those
	// report their use. Default: any number.
	MaxTokens int64 `json:"max_tokens,omitempty"`

	// How many US dollars a key may spend in all, as text: "5.00". Keys for
	// upstreams without a preset cannot be minted under it. Default: any amount.
	MaxSpendUSD string `json:"max_spend_usd,omitempty"`

	// How long a key may live after it was minted, grants included. A key that is
	// minted without an end gets this one. Default: for ever.
	MaxLifetime caddy.Duration `json:"max_lifetime,omitempty"`

	// The budget that all keys of the role share. It is spent by use, not by minting.
	// What was used is kept while the role is not configured. Default: none.
	Budget *RoleBudget `json:"budget,omitempty"`
}

// RoleBudget is a budget shared by the keys of a role.
type RoleBudget struct {
	// How many requests may be admitted in all. Default: any number.
	Activations int64 `json:"activations,omitempty"`

	// How many tokens of input and output may be used in all. Default: any number.
	Tokens int64 `json:"tokens,omitempty"`

	// How many US dollars may be spent in all, as text: "200.00". Default: any amount.
	SpendUSD string `json:"spend_usd,omitempty"`

	// When the budget starts again, in UTC: "day", "week" (on Mondays) or "month".
	// Default: never.
	Renews string `json:"renews,omitempty"`
}

func (a *App) provisionRoles() error {
	a.roles = make(map[string]record.Role, len(a.Roles))
	for _, name := range slices.Sorted(maps.Keys(a.Roles)) {
		if !validName.MatchString(name) {
			return fmt.Errorf("role %q: a role's name must be 1 to 63 of a-z, 0-9, - and _, and begin with a letter or digit", name)
		}
		role := record.NewRole()
		if r := a.Roles[name]; r != nil {
			var err error
			if role, err = r.resolve(); err != nil {
				return fmt.Errorf("role %s: %w", name, err)
			}
			if err := r.checkUpstreams(slices.Sorted(maps.Keys(a.Upstreams))); err != nil {
				return fmt.Errorf("role %s: %w", name, err)
			}
		}
		a.roles[name] = role
	}
	return nil
}

func (r *Role) checkUpstreams(upstreams []string) error {
	for _, name := range r.Upstreams {
		if !slices.Contains(upstreams, name) {
			declared := strings.Join(upstreams, ", ")
			declared = cmp.Or(declared, "none")
			return fmt.Errorf("upstream %q is not declared; there are: %s", name, declared)
		}
	}
	return nil
}

func (r *Role) resolve() (record.Role, error) {
	role := record.NewRole()
	if err := r.checkLists(); err != nil {
		return role, err
	}
	for _, text := range r.Permissions {
		p, err := permission(text)
		if err != nil {
			return role, err
		}
		role.Permissions = append(role.Permissions, p)
	}
	sees, err := record.ParseSight(cmp.Or(r.Sees, string(record.SeesOwn)))
	if err != nil {
		return role, err
	}
	role.Sees = sees
	role.Upstreams = r.Upstreams
	role.Scope = scope.Scope{Models: r.Models, Methods: r.Methods, Paths: r.Paths}
	for _, text := range r.IPs {
		p, err := scope.ParseIP(text)
		if err != nil {
			return role, err
		}
		role.Scope.IPs = append(role.Scope.IPs, p)
	}
	if err := role.Scope.Validate(); err != nil {
		return role, err
	}
	if r.MaxActivations < 0 || r.MaxTokens < 0 || r.MaxLifetime < 0 {
		return role, errors.New("max_activations, max_tokens and max_lifetime must not be negative")
	}
	if max(r.MaxActivations, r.MaxTokens) > record.MaxAmount {
		return role, fmt.Errorf("max_activations and max_tokens may be at most %d", int64(record.MaxAmount))
	}
	role.Max[record.Activations], role.Max[record.Tokens] = r.MaxActivations, r.MaxTokens
	role.MaxLifetime = time.Duration(r.MaxLifetime)
	if r.MaxSpendUSD != "" {
		nano, err := record.ParseUSD(r.MaxSpendUSD)
		if err != nil || nano < 1 {
			return role, fmt.Errorf("max_spend_usd must be an amount of dollars such as 5.00, got %q", r.MaxSpendUSD)
		}
		role.Max[record.Nanodollars] = nano
	}
	if r.Budget != nil {
		var err error
		if role.Budget.Limit, err = r.Budget.limit(); err != nil {
			return role, fmt.Errorf("budget: %w", err)
		}
		if r.Budget.Renews != "" {
			if role.Budget.Renews, err = record.ParseRenewal(r.Budget.Renews); err != nil {
				return role, fmt.Errorf("budget: %w", err)
			}
		}
	}
	return role, nil
}

// checkLists checks that the role's lists are not empty, because an empty list would be
// no ceiling, and that they hold no placeholders, because none are replaced in them.
func (r *Role) checkLists() error {
	for name, list := range map[string][]string{
		"permissions": r.Permissions, "upstreams": r.Upstreams, "models": r.Models, "methods": r.Methods, "paths": r.Paths, "ips": r.IPs,
	} {
		if err := checkList(name, list); err != nil {
			return err
		}
	}
	return nil
}

// checkList checks a list of rules; nil means that it was left out.
func checkList(name string, list []string) error {
	if list != nil && len(list) == 0 {
		return fmt.Errorf("%s must not be empty; leave it out to have no such rule", name)
	}
	for _, value := range list {
		if strings.TrimSpace(value) == "" {
			return fmt.Errorf("%s must not hold an empty value", name)
		}
		if strings.ContainsAny(value, "{}") {
			return fmt.Errorf("%s takes values as they are, and no placeholder, got %q; {$NAME} is replaced when a Caddyfile is read", name, value)
		}
	}
	return nil
}

func permission(text string) (record.Permission, error) {
	var names []string
	for _, p := range record.Permissions {
		if string(p) == text {
			return p, nil
		}
		names = append(names, string(p))
	}
	if text == string(record.Everything) {
		return "", fmt.Errorf("the permission * is the built-in operator's: give a token the role * instead; there are: %s", strings.Join(names, " "))
	}
	return "", fmt.Errorf("unknown permission %q; there are: %s", text, strings.Join(names, " "))
}

func (b *RoleBudget) limit() (record.Amounts, error) {
	limit := record.NoLimits()
	if b.Activations < 0 || b.Tokens < 0 {
		return limit, fmt.Errorf("activations and tokens must be positive, got %d and %d", b.Activations, b.Tokens)
	}
	if max(b.Activations, b.Tokens) > record.MaxAmount {
		return limit, fmt.Errorf("activations and tokens may be at most %d", int64(record.MaxAmount))
	}
	if b.Activations > 0 {
		limit[record.Activations] = b.Activations
	}
	if b.Tokens > 0 {
		limit[record.Tokens] = b.Tokens
	}
	if b.SpendUSD != "" {
		nano, err := record.ParseUSD(b.SpendUSD)
		if err != nil {
			return limit, fmt.Errorf("spend_usd: %w", err)
		}
		limit[record.Nanodollars] = nano
	}
	if limit == record.NoLimits() {
		return limit, errors.New("set at least one of activations, tokens, spend_usd")
	}
	return limit, nil
}
