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

// readBody reads one JSON object into a struct, field by field, so that every
// mistake is told with the field's name. A field that is not known is an
// error: a limit that was misspelt must not be taken for one that holds.
//
// A field that is null is left out, unless into is an unsetter.
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
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return malformed(err)
	}
	u, unsets := into.(unsetter)
	for _, name := range sorted(fields) {
		value := fields[name]
		null := bytes.Equal(value, []byte("null"))
		if err := readField(name, value, into); err != nil {
			return err
		}
		if null && unsets && !u.unset(name) {
			return invalid("%s cannot be null", name)
		}
	}
	return nil
}

// unsetter is a body in which null takes a field away.
type unsetter interface {
	// unset notes that the field is to go, or reports that it cannot.
	unset(field string) bool
}

// readOptionalBody is readBody for calls that work without one.
func readOptionalBody(r *http.Request, into any) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return invalid("reading the body: %v", err)
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return readBody(r, into)
}

// readField decodes one field of an object into the struct's field of exactly
// that name. encoding/json alone would also take other cases of letters.
func readField(name string, value json.RawMessage, into any) error {
	unknown := invalid("unknown field %q", cut(name, 64))
	if why, later := notEnforced[name]; later && !bytes.Equal(value, []byte("null")) {
		return invalid("%s: %s", name, why)
	} else if later {
		return nil
	}
	if strings.ContainsFunc(name, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') }) {
		return unknown
	}
	d := json.NewDecoder(strings.NewReader(`{"` + name + `":` + string(value) + `}`))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	var kind *json.UnmarshalTypeError
	var when *time.ParseError
	switch {
	case err == nil:
		return nil
	case strings.HasPrefix(err.Error(), "json: unknown field "):
		return unknown
	case errors.As(err, &kind):
		return invalid("%s must %s, got %s", name, kindName(kind.Type.String(), value), kind.Value)
	case errors.As(err, &when):
		return invalid("%s must be a time such as 2026-12-31T18:00:00Z, got %s", name, value)
	}
	return invalid("%s: %s", name, strings.TrimPrefix(strings.TrimPrefix(err.Error(), "json: "), name+" "))
}

// kindName says what a Go type wants to be written as.
func kindName(goType string, value json.RawMessage) string {
	verb := "be "
	if len(value) > 0 && (value[0] == '[' || value[0] == '{') {
		verb = "hold "
	}
	switch {
	case strings.Contains(goType, "int"):
		return verb + "a whole number"
	case strings.HasPrefix(goType, "[]"):
		return "be a list"
	case strings.HasPrefix(goType, "map"):
		return "be an object"
	case strings.Contains(goType, "bool"):
		return verb + "true or false"
	}
	return verb + "text"
}

// malformed says what is wrong with a body that is no JSON object.
func malformed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return invalid("the body must be a whole JSON object")
	}
	return invalid("the body must be a JSON object: %s", strings.TrimPrefix(err.Error(), "json: "))
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
		if err != nil {
			return malformed(err)
		}
		if len(stack) == 0 && t != json.Delim('{') {
			return invalid("the body must be a JSON object")
		}
		if top := len(stack) - 1; top >= 0 && stack[top].names != nil && stack[top].name {
			if name, ok := t.(string); ok {
				if stack[top].names[name] {
					return invalid("the field %q stands twice", cut(name, 64))
				}
				stack[top].names[name] = true
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
		if _, err := d.Token(); !errors.Is(err, io.EOF) {
			return invalid("the body must hold one JSON object and nothing after it")
		}
		return nil
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

// changeBody is a PATCH. A field that is null goes back to its default: no
// such limit, rule or note.
type changeBody struct {
	settable
	Unlimited bool `json:"unlimited"`

	gone []func(*limiter.Key)
}

// defaults take a field of a key away.
var defaults = map[string]func(*limiter.Key){
	"name":             func(k *limiter.Key) { k.Name = "" },
	"max_activations":  func(k *limiter.Key) { k.Limit[limiter.Activations] = limiter.NoLimit },
	"expires_in":       func(k *limiter.Key) { k.ExpiresAt = time.Time{} },
	"expires_at":       func(k *limiter.Key) { k.ExpiresAt = time.Time{} },
	"idle_timeout":     func(k *limiter.Key) { k.IdleTimeout = 0 },
	"first_use_within": func(k *limiter.Key) { k.FirstUseWithin = 0 },
	"rate":             func(k *limiter.Key) { k.Rate = limiter.Rate{} },
	"max_concurrency":  func(k *limiter.Key) { k.MaxConcurrency = 0 },
	"paths":            func(k *limiter.Key) { k.Scope.Paths = nil },
	"methods":          func(k *limiter.Key) { k.Scope.Methods = nil },
	"ips":              func(k *limiter.Key) { k.Scope.IPs = nil },
	"pin_ip":           func(k *limiter.Key) { k.Scope.PinIP = false },
	"owner":            func(k *limiter.Key) { k.Owner = "" },
	"purpose":          func(k *limiter.Key) { k.Purpose = "" },
	"labels":           func(k *limiter.Key) { k.Labels = nil },
	"metadata":         func(k *limiter.Key) { k.Metadata = nil },
	"charge":           func(k *limiter.Key) { k.Charge = limiter.ChargeForwarded },
}

func (b *changeBody) unset(field string) bool {
	take, ok := defaults[field]
	if ok {
		b.gone = append(b.gone, take)
	}
	return ok || notEnforced[field] != ""
}

// change applies the body to a key. It may run more than once.
func (b *changeBody) change(k *limiter.Key) error {
	before := endless(k)
	if err := b.apply(k); err != nil {
		return err
	}
	for _, take := range b.gone {
		take(k)
	}
	if endless(k) && !before && !b.Unlimited {
		return invalid(`this would leave a key that nothing ends by itself: keep max_activations or expires_at, or say "unlimited": true`)
	}
	return nil
}

// endless reports whether nothing ends the key by itself.
func endless(k *limiter.Key) bool {
	return k.Limit[limiter.Activations] == limiter.NoLimit && k.Limit[limiter.Tokens] == limiter.NoLimit &&
		k.Limit[limiter.Nanodollars] == limiter.NoLimit && k.ExpiresAt.IsZero()
}

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
	case len(names) == 0:
		return UpstreamInfo{}, invalid("no upstream is configured: declare one in the global options, { till { upstream openai { credential {env.OPENAI_API_KEY} } } }")
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
