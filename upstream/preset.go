// Package upstream knows the vendors: where each API lives and where its credential
// goes; which of its paths are free, asynchronous or administrative; what a request
// can use at most, what an answer says that it used, and what that costs; and what
// errors look like.
//
// It knows no limit, no budget and no Caddy, and of a key only the id under which a
// Memory keeps the counts of conversations. What it says about a vendor comes from
// the vendor's documentation and from the source of its SDKs.
package upstream

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/till-proxy/till/scope"
)

// Preset describes one API. With everything but Name zero, it describes an API that
// nothing is known about: every path but upgrades is allowed.
type Preset struct {
	Name    string
	Origin  string // scheme://host[:port] of the vendor
	Dialect Dialect
	Auth    Auth
	// BearerPaths are the paths on which the vendor takes the credential as
	// Authorization: Bearer alone, and refuses it where Auth says.
	BearerPaths scope.PathRules

	// CredentialErrors matches errors about the credential whose status is not 401. Text
	// of the request that an error quotes must not match: in JSON, quotes within a text
	// are escaped.
	CredentialErrors *regexp.Regexp

	// Prefix is the version prefix that the vendor's paths begin with. A path that
	// begins with none of Versions and Roots gets it, because half of the clients
	// leave it out. Empty: paths are sent as they come.
	Prefix string
	// Versions are the other prefixes below which the vendor serves its paths, and
	// Roots are those of paths without a version.
	Versions, Roots []string

	// Rules about paths are written without a version, and apply below each version.

	// Free paths cost no activation: model lists and token counting.
	Free scope.PathRules
	// Unbilled paths cost an activation like any other, but the vendor bills nothing
	// for them, and no model that a key could choose answers there.
	Unbilled scope.PathRules
	// Asynchronous paths do their work after the answer, where no limit applies:
	// refused unless the upstream allows the path.
	Asynchronous scope.PathRules
	// Administrative paths mint credentials or administer the account: always
	// refused.
	Administrative scope.PathRules

	// AccountHeaders identify the account, or choose it: dropped from clients' requests
	// and from answers.
	AccountHeaders []string

	// AsksForUsage says that streams of paths that end in "completions" report their
	// usage only if the request asks for it (stream_options.include_usage).
	AsksForUsage bool
	// OutputField is the one field by which the server bounds answers of chat
	// completions, or BothFields if it is not known which of the two it is. Empty: as
	// the vendor documents it.
	OutputField string
	// Keyless says that the server accepts requests without a credential, and ignores
	// one unless it was started with one.
	Keyless bool
	// Regions are the vendor's addresses at which models cost more.
	Regions []Region
	// TierHosts are the vendor's addresses at which its account chooses the price of
	// requests that name no tier; see Region.Hosts.
	TierHosts []string
	// InputFirst says that a stream reports the billed input at its beginning:
	// Anthropic in message_start
	// (platform.claude.com/docs/en/build-with-claude/streaming), Gemini in every
	// chunk (ai.google.dev/api/generate-content, UsageMetadata).
	InputFirst bool

	// OwnModels says that the vendor serves models of its own, as it documents them.
	// Elsewhere an unknown chat template makes the prompt: it may print tools with
	// indentation, and tool results as JSON.
	OwnModels bool
	// InputExtra is how many tokens of a prompt the request does not show: default
	// system prompts, dates, markers. Negative: none. Default: 128 if OwnModels is set,
	// and 1,024 otherwise.
	InputExtra int64
	// Unshared says that prompt and answer do not share a model's window, or that the
	// server accepts a bound longer than the room that the prompt leaves in it.
	Unshared bool

	// Routes says that the vendor passes requests on to changing providers, which may
	// count the same text differently.
	Routes bool

	// KeyEnv are the environment variables that hold the vendor's key for its own
	// SDKs; the first that is set counts.
	KeyEnv []string
	// ClientEnv are the variables that point clients at another address.
	ClientEnv []ClientVar
	// ToolEnv are further variables that agent tools and frameworks read for this
	// vendor.
	ToolEnv []ClientVar
	// OtherEnv are further variables that must be unset for a client that is to use
	// only this server: other credentials, and switches that send it elsewhere.
	OtherEnv []string
	// InCode is the name of the parameter by which the vendor's SDKs take the address
	// when no variable sets it.
	InCode string

	administrative, asynchronous *scope.DenyList // arranged by init

	// These belong to one upstream and are set by With.
	multiply int64           // permille; 0: 1000
	allowed  map[string]bool // members of requests that cost nothing
	strips   []stripped      // tools that are taken out of requests
	regional *Region         // whose prices apply; nil: none
	tier     string          // see Options.ServiceTier
}

// ClientVar is one environment variable of a vendor's clients.
type ClientVar struct {
	Name string
	// Path follows the base URL. Ignored when Key is set.
	Path string
	// Key says that the variable holds the key.
	Key bool
}

// Lookup returns the preset with that name.
func Lookup(name string) (*Preset, bool) {
	i := slices.IndexFunc(presets, func(p *Preset) bool { return p.Name == name })
	if i < 0 {
		return nil, false
	}
	return presets[i], true
}

// Names lists the presets in the order of the table.
func Names() []string {
	names := make([]string, len(presets))
	for i, p := range presets {
		names[i] = p.Name
	}
	return names
}

// All returns the table. Callers must not change it.
func All() []*Preset { return presets }

// Canonical returns the path as the vendor writes it: with its version prefix exactly
// once. It accepts decoded and escaped paths, and returns the path itself if nothing
// has to change.
func (p *Preset) Canonical(path string) string {
	if p.Prefix == "" || path == "/" { // the root, which clients request to check for a server
		return path
	}
	version := p.version(path)
	if version == "" {
		// The path may begin with a part of the prefix: /v1/models for
		// /openai/v1/models.
		for i := 1; i < len(p.Prefix); i++ {
			if part := p.Prefix[i:]; part[0] == '/' && under(path, part) {
				return p.Canonical(p.Prefix + path[len(part):])
			}
		}
		return p.Prefix + path
	}
	// Some clients add the version to an address that already has it: /v1/v1/models.
	for under(path[len(version):], version) {
		path = path[len(version):]
		version = p.version(path)
	}
	return path
}

func (p *Preset) version(path string) string {
	if p.Prefix != "" && under(path, p.Prefix) {
		return p.Prefix
	}
	for _, list := range [][]string{p.Versions, p.Roots} {
		for _, v := range list {
			if under(path, v) {
				return v
			}
		}
	}
	return ""
}

// Version returns how many bytes at the beginning of a canonical path are its
// version, which rules may leave out; 0 if it has none, or several.
func (p *Preset) Version(path string) int {
	n := len(p.version(path))
	if n == 0 || len(path) == n || slices.Contains(p.Roots, path[:n]) || p.version(path[n:]) != "" {
		return 0
	}
	return n
}

// Base returns an address's escaped path as it precedes canonical paths. Those begin
// with a version, so a version at its end is left out: the base URLs that people know
// end with one. A path that ends in another version is an error, because nothing is
// served below both.
func (p *Preset) Base(root string) (string, error) {
	if p.Prefix == "" {
		return root, nil
	}
	base := strings.TrimSuffix(root, "/")
	for strings.HasSuffix(base, p.Prefix) {
		base = strings.TrimSuffix(base, p.Prefix)
		root = cmp.Or(base, "/")
	}
	if base == "" {
		return root, nil
	}
	if last := p.misplaced(base); last != "" {
		return "", fmt.Errorf("it ends in %s, and paths of the preset %s begin with %s, so %s%s would be asked for: leave %s out, or name no preset",
			last, p.Name, p.Prefix, base, p.Prefix, last)
	}
	return root, nil
}

// misplaced returns the end of an address's path after which no version can come.
func (p *Preset) misplaced(base string) string {
	parent, last := base[:strings.LastIndexByte(base, '/')], base[strings.LastIndexByte(base, '/'):]
	if isVersion(last[1:]) {
		return last
	}
	if strings.EqualFold(last, "/openai") && isVersion(parent[strings.LastIndexByte(parent, '/')+1:]) {
		return parent[strings.LastIndexByte(parent, '/'):] + last
	}
	for i := 1; i < len(p.Prefix); i++ {
		if part := p.Prefix[:i]; p.Prefix[i] == '/' && strings.HasSuffix(base, part) {
			return part
		}
	}
	for _, v := range p.Versions {
		if strings.HasSuffix(base, v) && !slices.Contains(p.Versions, v+p.Prefix) {
			return v
		}
	}
	return ""
}

// AuthAt returns where the vendor expects the credential on a canonical, cleaned path.
func (p *Preset) AuthAt(path string) Auth {
	if p.BearerPaths.Match("", path, p.Version(path)) {
		return bearer
	}
	return p.Auth
}

// IsFree reports whether a canonical, cleaned path is one of Free.
func (p *Preset) IsFree(method, path string) bool {
	return p.Free.Match(method, path, p.Version(path))
}

// IsUnbilled reports whether a canonical, cleaned path is one of Unbilled.
func (p *Preset) IsUnbilled(method, path string) bool {
	return p.Unbilled.Match(method, path, p.Version(path))
}

func under(path, prefix string) bool {
	return strings.HasPrefix(path, prefix) && (len(path) == len(prefix) || path[len(prefix)] == '/')
}

// Denied reports whether a canonical, cleaned path is administrative, and whether it
// is asynchronous. Neither the case of letters nor versions circumvent it: all
// versions are removed, known or not, however many.
func (p *Preset) Denied(method, path string) (administrative, asynchronous bool) {
	for {
		administrative = administrative || p.administrative.Denies(method, path)
		asynchronous = asynchronous || p.asynchronous.Denies(method, path)
		head, rest, _ := strings.Cut(path[min(1, len(path)):], "/")
		if rest == "" || !isStep(head) {
			return administrative, asynchronous
		}
		path = path[1+len(head):]
	}
}

// steps are the names, other than versions, that may precede an API's own paths.
var steps = []string{"api", "openai", "anthropic", "inference", "compatibility", "beta", "upload", "download", "ws"}

// isStep reports whether a segment leads to an API rather than naming something in
// it.
func isStep(segment string) bool {
	segment, _, _ = strings.Cut(segment, ";")
	return isVersion(segment) || slices.ContainsFunc(steps, func(step string) bool { return strings.EqualFold(segment, step) })
}

func isVersion(segment string) bool {
	return len(segment) > 1 && segment[0]|0x20 == 'v' && segment[1] >= '0' && segment[1] <= '9'
}
