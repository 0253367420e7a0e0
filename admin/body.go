package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/scope"
)

// maxBody bounds the body of a management call, in bytes.
const maxBody = 1 << 20

// readBody reads one JSON object. A field that is not known is an error: a
// limit that was misspelt must not be taken for one that holds.
func readBody(r *http.Request, into any) error {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return &apiError{http.StatusRequestEntityTooLarge, "body_too_large", fmt.Sprintf("the body may be %d bytes long", maxBody)}
	}
	if err != nil {
		return invalid("reading the body: %v", err)
	}
	if err := onceEach(body); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return explain(err)
	}
	return nil
}

// explain says in the API's words what encoding/json did not like.
func explain(err error) error {
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) && kind.Field != "" {
		return invalid("%s must be a %s, got a %s", kind.Field, kindName(kind.Type.String()), kind.Value)
	}
	if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		field = strings.Trim(field, `"`)
		if why, later := notEnforced[field]; later {
			return invalid("%s: %s", field, why)
		}
		return invalid("unknown field %q", field)
	}
	if errors.Is(err, io.EOF) {
		return invalid("the body must be a JSON object")
	}
	return invalid("%s", strings.TrimPrefix(err.Error(), "json: "))
}

func kindName(goType string) string {
	switch {
	case strings.Contains(goType, "int"):
		return "whole number"
	case strings.HasPrefix(goType, "[]"):
		return "list"
	case strings.HasPrefix(goType, "map"):
		return "object"
	case strings.Contains(goType, "bool"):
		return "true or false"
	}
	return "text"
}

// notEnforced are fields that a later version takes. A limit that is not
// enforced must not be promised.
var notEnforced = map[string]string{
	"max_tokens":            "token limits are not enforced by this version; set max_activations",
	"max_spend_usd":         "spend limits are not enforced by this version; set max_activations",
	"max_spend_cents":       "spend limits are not enforced by this version; set max_activations",
	"max_request_spend_usd": "spend limits are not enforced by this version; set max_activations",
	"renews":                "renewing budgets are not enforced by this version",
	"fit":                   "token limits are not enforced by this version",
	"unknown_price":         "spend limits are not enforced by this version",
	"delegate":              "child keys are not offered by this version",
	"upstream_key":          "sealed custody is not offered by this version; give the upstream a credential",
	"models":                "model rules are not enforced by this version; limit paths instead",
	"tokens":                "token limits are not enforced by this version",
	"spend_usd":             "spend limits are not enforced by this version",
}

// onceEach refuses what is not exactly one JSON object with each name once:
// of two values for one name, two readers take different ones.
func onceEach(body []byte) error {
	d := json.NewDecoder(bytes.NewReader(body))
	type level struct {
		names map[string]bool // nil in a list
		name  bool            // a name comes next
	}
	var stack []level
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) && len(stack) == 0 {
			return nil
		}
		if err != nil {
			return explain(err)
		}
		if top := len(stack) - 1; top >= 0 && stack[top].names != nil && stack[top].name {
			if name, ok := t.(string); ok {
				// encoding/json matches names in any case of letters.
				folded := strings.ToLower(name)
				if stack[top].names[folded] {
					return invalid("the field %q stands twice", name)
				}
				stack[top].names[folded] = true
				stack[top].name = false
				continue
			}
		}
		switch t {
		case json.Delim('{'):
			stack = append(stack, level{names: map[string]bool{}, name: true})
			continue
		case json.Delim('['):
			stack = append(stack, level{})
			continue
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:len(stack)-1]
		}
		if top := len(stack) - 1; top >= 0 {
			stack[top].name = stack[top].names != nil
			continue
		}
		if d.More() {
			return invalid("the body must hold one JSON object and nothing after it")
		}
	}
}

// span is a duration as people write it: "24h", "7d".
type span time.Duration

func (s *span) UnmarshalText(text []byte) error {
	d, err := caddy.ParseDuration(string(text))
	if err != nil || d < 0 {
		return fmt.Errorf("a duration is written 90s, 24h or 7d, got %q", text)
	}
	*s = span(d)
	return nil
}

// settable are the fields of a key that a mint sets and a change changes.
type settable struct {
	Name           *string            `json:"name"`
	MaxActivations *int64             `json:"max_activations"`
	ExpiresIn      *span              `json:"expires_in"`
	ExpiresAt      *time.Time         `json:"expires_at"`
	IdleTimeout    *span              `json:"idle_timeout"`
	FirstUseWithin *span              `json:"first_use_within"`
	Rate           *limiter.Rate      `json:"rate"`
	MaxConcurrency *int               `json:"max_concurrency"`
	Paths          *[]string          `json:"paths"`
	Methods        *[]string          `json:"methods"`
	IPs            *[]string          `json:"ips"`
	PinIP          *bool              `json:"pin_ip"`
	Owner          *string            `json:"owner"`
	Purpose        *string            `json:"purpose"`
	Labels         *map[string]string `json:"labels"`
	Metadata       *map[string]string `json:"metadata"`
	SelfRevoke     *bool              `json:"self_revoke"`
	Charge         *limiter.Charge    `json:"charge"`
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

func (s *settable) apply(k *limiter.Key) error {
	set(&k.Name, s.Name)
	set(&k.Limit[limiter.Activations], s.MaxActivations)
	if s.MaxActivations != nil && *s.MaxActivations < 0 {
		return invalid("max_activations must not be negative, got %d", *s.MaxActivations)
	}
	switch {
	case s.ExpiresIn != nil && s.ExpiresAt != nil:
		return invalid("set expires_in or expires_at, not both")
	case s.ExpiresIn != nil:
		if *s.ExpiresIn == 0 {
			return invalid("expires_in must be more than 0")
		}
		k.ExpiresAt = time.Now().UTC().Add(time.Duration(*s.ExpiresIn))
	case s.ExpiresAt != nil:
		k.ExpiresAt = s.ExpiresAt.UTC()
	}
	set((*span)(&k.IdleTimeout), s.IdleTimeout)
	set((*span)(&k.FirstUseWithin), s.FirstUseWithin)
	set(&k.Rate, s.Rate)
	set(&k.MaxConcurrency, s.MaxConcurrency)
	set(&k.Scope.Paths, s.Paths)
	set(&k.Scope.Methods, s.Methods)
	set(&k.Scope.PinIP, s.PinIP)
	if s.IPs != nil {
		k.Scope.IPs = nil
		for _, text := range *s.IPs {
			p, err := scope.ParseIP(text)
			if err != nil {
				return invalid("%v", err)
			}
			k.Scope.IPs = append(k.Scope.IPs, p)
		}
	}
	set(&k.Owner, s.Owner)
	set(&k.Purpose, s.Purpose)
	set(&k.Labels, s.Labels)
	set(&k.Metadata, s.Metadata)
	set(&k.SelfRevoke, s.SelfRevoke)
	set(&k.Charge, s.Charge)
	return nil
}

type changeBody struct{ settable }

type mintBody struct {
	settable
	Upstream  string `json:"upstream"`
	Provider  string `json:"provider"` // another name for upstream
	Role      string `json:"role"`
	Unlimited bool   `json:"unlimited"`
}

// key is the key that a mint asks for.
func (b *mintBody) key(upstreams []UpstreamInfo) (*limiter.Key, error) {
	name := b.Upstream
	if name == "" {
		name = b.Provider
	} else if b.Provider != "" && b.Provider != name {
		return nil, invalid("upstream and provider name two different upstreams; set one")
	}
	u, err := pickUpstream(name, upstreams)
	if err != nil {
		return nil, err
	}
	k := &limiter.Key{
		Upstream: u.Name, Custody: "held", Role: b.Role, Limit: limiter.NoLimits(), SelfRevoke: true,
		Charge: limiter.ChargeForwarded,
	}
	return k, b.apply(k)
}

func pickUpstream(name string, upstreams []UpstreamInfo) (UpstreamInfo, error) {
	var names []string
	var held []UpstreamInfo
	for _, u := range upstreams {
		names = append(names, u.Name)
		if u.Held {
			held = append(held, u)
		}
		if u.Name == name {
			if !u.Held {
				return u, invalid("upstream %s has no credential here: give it one in the configuration, { till { upstream %s { credential {file./path} } } }", name, name)
			}
			return u, nil
		}
	}
	switch {
	case name != "":
		return UpstreamInfo{}, invalid("upstream %q is not configured; there are: %s", name, strings.Join(names, ", "))
	case len(held) == 1:
		return held[0], nil
	default:
		return UpstreamInfo{}, invalid("upstream must be one of: %s", strings.Join(names, ", "))
	}
}

type grantBody struct {
	Activations int64 `json:"activations"`
	ExpiresIn   span  `json:"expires_in"`
}

func (b *grantBody) more() (limiter.More, error) {
	return limiter.More{Activations: b.Activations, Lifetime: time.Duration(b.ExpiresIn)}, nil
}
