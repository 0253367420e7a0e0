package upstream

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/till-proxy/till/token"
)

// The places where a credential can go.
const (
	InHeader        = "header"
	InQuery         = "query"
	InBasicUser     = "basic user"
	InBasicPassword = "basic password"
)

// Auth says where an upstream expects its credential.
type Auth struct {
	// In is "header", "query", "basic user" or "basic password". With "basic
	// user" the credential is the user name and the password is empty; with
	// "basic password" it is the reverse.
	In string `json:"in,omitempty"`
	// Name is the header's or the query parameter's name.
	Name string `json:"name,omitempty"`
	// Scheme stands before the credential in a header, such as "Bearer".
	// Default: none.
	Scheme string `json:"scheme,omitempty"`
}

// slots are the headers that may hold a key when a request arrives, HTTP's own first.
// None of them is ever sent on.
var slots = []string{"Authorization", "Proxy-Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key"}

// Slots lists the headers that may hold a key. Callers must not change the list.
func Slots() []string { return slots }

// VendorSlots lists the slots that are not HTTP's own: they hold only a key, and no
// server or logger knows that. Callers must not change the list.
func VendorSlots() []string { return slots[2:] }

// Validate returns what is wrong with the place of a credential.
func (a Auth) Validate() error {
	switch a.In {
	case InHeader:
		if !isToken(a.Name) {
			return fmt.Errorf("auth header needs a header's name, got %q", a.Name)
		}
		if hopHeader(a.Name) {
			return fmt.Errorf("auth header must not be %s, which concerns the connection", a.Name)
		}
		if a.Scheme != "" && !isToken(a.Scheme) {
			return fmt.Errorf("auth scheme must be one word such as Bearer, got %q", a.Scheme)
		}
	case InQuery:
		if a.Name == "" || a.Scheme != "" {
			return fmt.Errorf("auth query needs the parameter's name and nothing else")
		}
	case InBasicUser, InBasicPassword:
		if a.Name != "" || a.Scheme != "" {
			return fmt.Errorf("auth %s takes nothing else", a.In)
		}
	default:
		return fmt.Errorf(`auth must be header NAME [SCHEME], query NAME, "basic user" or "basic password", got %q`, a.In)
	}
	return nil
}

func hopHeader(name string) bool {
	return slices.Contains([]string{"Connection", "Host", "Content-Length", "Transfer-Encoding", "Te", "Trailer", "Upgrade", "Keep-Alive", "Content-Type"},
		http.CanonicalHeaderKey(name))
}

// isToken reports whether s is a token of RFC 9110, section 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`()<>@,;:\"/[]?={}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// RefusesCredential reports whether an error whose status is not 401 says that the
// vendor refuses the credential of the request. body is the beginning of its body.
func (p *Preset) RefusesCredential(status int, body []byte) bool {
	return p.CredentialErrors != nil && status >= 400 && status < 500 && p.CredentialErrors.Match(body)
}

// Apply writes the credential where the upstream expects it. header and u
// belong to the outgoing request alone.
func (a Auth) Apply(header http.Header, u *url.URL, credential token.Secret) {
	switch a.In {
	case InQuery:
		u.RawQuery = setQuery(u.RawQuery, a.Name, credential.Reveal())
	case InBasicUser:
		header["Authorization"] = []string{"Basic " + base64.StdEncoding.EncodeToString([]byte(credential.Reveal()+":"))}
	case InBasicPassword:
		header["Authorization"] = []string{"Basic " + base64.StdEncoding.EncodeToString([]byte(":"+credential.Reveal()))}
	default:
		value := credential.Reveal()
		if a.Scheme != "" {
			value = a.Scheme + " " + value
		}
		header[http.CanonicalHeaderKey(a.Name)] = []string{value}
	}
}

// setQuery replaces a parameter and leaves the rest of the query as it came.
func setQuery(raw, name, value string) string {
	kept := DropQuery(raw, func(n, _ string) bool { return n == name })
	pair := url.QueryEscape(name) + "=" + url.QueryEscape(value)
	if kept == "" {
		return pair
	}
	return kept + "&" + pair
}

// DropQuery removes from a raw query the parameters that drop picks, and leaves the
// others byte for byte. A pair that cannot be decoded is passed to drop undecoded.
func DropQuery(raw string, drop func(name, value string) bool) string {
	if raw == "" {
		return raw
	}
	var kept []string
	for pair := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(pair, "=")
		if n, err := url.QueryUnescape(name); err == nil {
			name = n
		}
		if v, err := url.QueryUnescape(value); err == nil {
			value = v
		}
		if !drop(name, value) {
			kept = append(kept, pair)
		}
	}
	return strings.Join(kept, "&")
}
