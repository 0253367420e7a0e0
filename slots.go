package till

import (
	"context"
	"encoding/base64"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream"
)

const protocolHeader = "Sec-Websocket-Protocol"

// maxCredential is how much of one slot is examined, in bytes.
const maxCredential = len("sk-") + len(token.KeyPrefix) + 64 + token.MaxBox

// keySlots are the places where some upstream expects its credential, besides those that
// every request is searched in: the API's clients put a scoped key there.
type keySlots struct {
	headers    []string // canonical
	parameters []string // of the query
}

func slotsOf(targets map[string]*target) (slots keySlots) {
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		switch auth := targets[name].auth; auth.In {
		case upstream.InHeader:
			header := http.CanonicalHeaderKey(auth.Name)
			if !slices.Contains(upstream.Slots(), header) && !slices.Contains(slots.headers, header) {
				slots.headers = append(slots.headers, header)
			}
		case upstream.InQuery:
			if !slots.names(auth.Name) {
				slots.parameters = append(slots.parameters, auth.Name)
			}
		}
	}
	return slots
}

// names reports whether a parameter of the query is a slot.
func (s *keySlots) names(parameter string) bool {
	return strings.EqualFold(parameter, "key") || slices.ContainsFunc(s.parameters, func(slot string) bool { return strings.EqualFold(parameter, slot) })
}

// finder collects the scoped keys in a request. A request may carry its key in any
// slot, and in several, but only one key.
type finder struct {
	key       string // as it came, without "sk-"
	different bool
}

// see looks at a value, and reports whether it is meant to be a scoped key.
func (f *finder) see(value string) bool {
	value = strings.TrimSpace(value)
	if !token.LooksLikeKey(value) {
		return false
	}
	value = strings.TrimPrefix(value, "sk-")
	switch {
	case f.key == "":
		f.key = value
	case f.key != value:
		f.different = true
	}
	return true
}

// takeKey finds the scoped key in any slot and removes every slot from the request, so
// that no later handler sees a key or a foreign credential. Query parameters,
// subprotocols and the slots of single upstreams stay unless they hold a key.
func takeKey(r *http.Request, slots keySlots) (token.Parsed, *record.Refusal) {
	var f finder
	several := len(r.Header["Authorization"]) > 1
	for _, value := range r.Header["Authorization"] {
		scheme, rest, found := strings.Cut(value, " ")
		switch {
		case !found:
			f.see(value)
		case strings.EqualFold(scheme, "Basic"):
			f.seeBasic(strings.TrimSpace(rest))
		default:
			f.see(rest)
		}
	}
	foreign := false
	for _, slot := range upstream.Slots() {
		values, ok := r.Header[slot]
		if !ok {
			continue
		}
		foreign = true
		if slot != "Authorization" && slot != "Proxy-Authorization" {
			for _, value := range values {
				f.see(value)
			}
		}
		delete(r.Header, slot)
	}
	for _, slot := range slots.headers {
		found := false
		for _, value := range r.Header[slot] {
			_, rest, _ := strings.Cut(strings.TrimSpace(value), " ") // after a scheme
			bare, schemed := f.see(value), f.see(rest)
			found = found || bare || schemed
		}
		if found {
			delete(r.Header, slot)
		}
	}
	if strings.Contains(r.URL.RawQuery, "till") || strings.Contains(r.URL.RawQuery, "%") {
		takeQuery(r, slots, &f)
	}
	if _, ok := r.Header[protocolHeader]; ok {
		takeProtocols(r, &f)
	}

	switch {
	case several:
		return token.Parsed{}, &record.Refusal{Code: record.CodeKeyInvalid, Message: "the request carries two Authorization headers; send one"}
	case f.different:
		return token.Parsed{}, &record.Refusal{Code: record.CodeKeyInvalid, Message: "the request carries two different keys; send one"}
	case f.key == "" && foreign:
		return token.Parsed{}, &record.Refusal{Code: record.CodeKeyMissing, Message: "the credential in this request is not a till key: those begin with till_sk_"}
	case f.key == "":
		return token.Parsed{}, &record.Refusal{Code: record.CodeKeyMissing, Message: "the request carries no key: send the scoped key where the API's own key would go"}
	case len(f.key) > maxCredential:
		return token.Parsed{}, &record.Refusal{Code: record.CodeKeyInvalid, Message: "the key is too long: check that it was copied alone"}
	}
	parsed, err := token.ParseKey(f.key)
	if err != nil {
		return parsed, &record.Refusal{Code: record.CodeKeyInvalid, Message: "the key is not well formed: check that all of it was copied"}
	}
	return parsed, nil
}

// seeBasic looks at the user and the password of HTTP Basic (RFC 7617).
func (f *finder) seeBasic(encoded string) {
	if len(encoded) > 2*maxCredential {
		return
	}
	b, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return
	}
	user, password, _ := strings.Cut(string(b), ":")
	f.see(user)
	f.see(password)
}

// takeQuery removes keys from the query, and from the request line that later handlers
// may look at.
func takeQuery(r *http.Request, slots keySlots, f *finder) {
	kept := upstream.DropQuery(r.URL.RawQuery, func(name, value string) bool {
		if !token.LooksLikeKey(value) {
			return false
		}
		if slots.names(name) {
			f.see(value)
		}
		return true
	})
	if kept == r.URL.RawQuery {
		return
	}
	r.URL.RawQuery = kept
	r.RequestURI = r.URL.RequestURI()
	// Caddy keeps the original request for placeholders such as
	// {http.request.orig_uri}, which read it through this very r.
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && original.URL != nil {
		u := *original.URL
		u.RawQuery = kept
		original.URL, original.RequestURI = &u, u.RequestURI()
		*r = *r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, original))
	}
}

func takeProtocols(r *http.Request, f *finder) {
	var kept []string
	for _, value := range r.Header[protocolHeader] {
		for item := range strings.SplitSeq(value, ",") {
			item = strings.TrimSpace(item)
			if key, ok := strings.CutPrefix(item, upstream.ProtocolSlot); ok {
				f.see(key)
				continue
			}
			if item != "" && !upstream.ChoosesAccount(item) {
				kept = append(kept, item)
			}
		}
	}
	if len(kept) == 0 {
		delete(r.Header, protocolHeader)
		return
	}
	r.Header[protocolHeader] = []string{strings.Join(kept, ", ")}
}
