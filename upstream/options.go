package upstream

import (
	"cmp"
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// Options are what an operator sets for one upstream in addition to its preset. The
// zero value sets nothing.
type Options struct {
	// OutputField is the field in which the server reads the output bound of chat
	// completions: MaxTokens, MaxCompletionTokens or BothFields. Empty: as the preset
	// says.
	OutputField string
	// InputExtra is what the server adds to each prompt, in tokens; nil: as the
	// preset says.
	InputExtra *int64
	// Multiply is the factor for every price, in permille; 0: 1000.
	Multiply int64
	// AskUsage says whether streams are asked to report what they used; nil: as
	// the preset says.
	AskUsage *bool
	// AllowFields are members of requests that the operator declares to cost nothing.
	AllowFields []string
	// StripTools are tools that the provider would run, and that are removed from
	// requests.
	StripTools []string
	// ServiceTier says which tier serves requests that name none: DefaultTier or
	// AutoTier. Empty: the standard one at the vendor's own addresses.
	ServiceTier string
	// Hosts are the addresses of the upstream, from which its region, and so its
	// prices, follow.
	Hosts []string
}

// The fields of chat completions that bound an answer.
const (
	MaxTokens           = "max_tokens"
	MaxCompletionTokens = "max_completion_tokens"
	BothFields          = "both"
)

// OutputFields lists the values that an output field can be set to.
var OutputFields = []string{MaxTokens, MaxCompletionTokens, BothFields}

// maxInputExtra bounds what an operator may add to each prompt, in tokens.
const maxInputExtra = 1_000_000

// maxAllowFields bounds how many fields an operator may allow.
const maxAllowFields = 64

// With returns a copy of the preset with the options applied, or what is wrong with
// them. Callers must not change the copy.
func (p *Preset) With(o Options) (_ *Preset, err error) {
	q := *p
	if o.OutputField != "" {
		if !slices.Contains(OutputFields, o.OutputField) {
			return nil, fmt.Errorf("output_field must be one of %s, got %.64q", strings.Join(OutputFields, ", "), o.OutputField)
		}
		q.OutputField = o.OutputField
	}
	if o.InputExtra != nil {
		if *o.InputExtra < 0 || *o.InputExtra > maxInputExtra {
			return nil, fmt.Errorf("input_extra must be from 0 to %d tokens, got %d", maxInputExtra, *o.InputExtra)
		}
		if q.InputExtra = *o.InputExtra; q.InputExtra == 0 {
			q.InputExtra = -1 // none, rather than the default
		}
	}
	if q.multiply = cmp.Or(o.Multiply, 1000); q.multiply < 1 || q.multiply > maxMultiply {
		return nil, errMultiply(fmt.Sprintf("%d permille", o.Multiply))
	}
	if o.AskUsage != nil {
		q.AsksForUsage = *o.AskUsage
	}
	if len(o.AllowFields) > maxAllowFields {
		return nil, fmt.Errorf("allow_field takes at most %d names, got %d", maxAllowFields, len(o.AllowFields))
	}
	if len(o.AllowFields) > 0 {
		q.allowed = make(map[string]bool, len(o.AllowFields))
	}
	for _, name := range o.AllowFields {
		if err := p.allowable(name); err != nil {
			return nil, err
		}
		q.allowed[name] = true
	}
	if q.strips, err = strips(o.StripTools); err != nil {
		return nil, err
	}
	if err := q.setTier(&o); err != nil {
		return nil, err
	}
	q.regional = nil
	for i := range p.Regions {
		if slices.ContainsFunc(o.Hosts, p.Regions[i].holds) {
			q.regional = &p.Regions[i]
		}
	}
	return &q, nil
}

// Allowable reports whether a field can be allowed, at any preset.
func Allowable(name string) bool { return new(Preset).allowable(name) == nil }

// allowable returns an error that says why a field cannot be allowed: till continues
// to read the fields that it reads itself.
func (p *Preset) allowable(name string) error {
	if name == "" || len(name) > maxAllowName || !isToken(name) {
		return fmt.Errorf("allow_field takes names of 1 to %d letters, digits, - and _, got %.80q", maxAllowName, name)
	}
	lists := []map[string]bool{knownFields, otherBounds}
	if p.Name == "ollama" {
		lists = append(lists, ollamaKnown)
	}
	if !otherBounds[name] && slices.ContainsFunc(lists, func(fields map[string]bool) bool { return fields[name] }) {
		return nil // a field that till knows keeps its rule, allowed or not: a later version may know a field that an older one did not
	}
	for _, fields := range lists {
		for field := range fields {
			if sameField(name, field) {
				return fmt.Errorf("allow_field %s: %s is judged by till itself; leave it out", name, field)
			}
		}
	}
	return nil
}

// otherBounds are fields in which servers read the length or the number of answers in
// place of the fields that till writes: llama.cpp, text-generation-inference.
var otherBounds = set("n_predict", "num_predict", "max_new_tokens", "n_cmpl")

// maxAllowName bounds the names of fields that are allowed or reported, in bytes.
const maxAllowName = 64

// maxMultiply keeps products of prices within the range of exact arithmetic.
const maxMultiply = 10_000

// ParseMultiply reads the factor for prices, such as 1.1, in permille, rounded up.
func ParseMultiply(s string) (permille int64, err error) {
	// A rational number takes memory in proportion to its exponent.
	r, ok := new(big.Rat), len(s) <= 16 && !strings.ContainsAny(s, "eEpP/_xX")
	if ok {
		_, ok = r.SetString(s)
	}
	if !ok || r.Sign() <= 0 || r.Cmp(big.NewRat(maxMultiply, 1000)) > 0 {
		return 0, errMultiply(fmt.Sprintf("%.32q", s))
	}
	r.Mul(r, big.NewRat(1000, 1))
	n, rest := new(big.Int).QuoRem(r.Num(), r.Denom(), new(big.Int))
	if rest.Sign() > 0 {
		n.Add(n, big.NewInt(1))
	}
	return n.Int64(), nil
}

func errMultiply(got string) error {
	return fmt.Errorf("multiply must be a number above 0 and at most %d, such as 1.1, got %s", maxMultiply/1000, got)
}

// Region is a set of a vendor's addresses at which some models cost more.
type Region struct {
	Hosts    []string // one that begins with a dot stands for all below it
	Permille int64
	// Spared reports whether a model costs the same there; nil: none does.
	Spared func(model string) bool
}

func (r *Region) holds(host string) bool { return holdsHost(r.Hosts, host) }

// holdsHost reports whether a host is in a list.
func holdsHost(list []string, host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return slices.ContainsFunc(list, func(h string) bool { return h == host || h[0] == '.' && strings.HasSuffix(host, h) })
}

// applyFactors sets the factors for the prices of the request's model: those of its tier,
// its region and its operator.
func (e *Estimate) applyFactors() {
	e.Asked = 1000
	if e.Priority {
		e.Asked = e.priorityPermille()
	}
	if e.confined {
		e.Asked = e.Asked * 11 / 10
	}
	if e.Permille = e.Asked; e.preset.Name == "anthropic" && !e.placed {
		// The workspace's default may be a region; the answer names it.
		e.Permille = e.Permille * 11 / 10
	}
	if e.projectDecides() {
		e.Permille = e.Permille * e.priorityPermille() / 1000
	}
	e.Multiply = cmp.Or(e.preset.multiply, 1000)
	permille := e.Multiply
	if r := e.preset.regional; r != nil && (r.Spared == nil || !r.Spared(e.Model)) {
		permille = (permille*r.Permille + 999) / 1000
	}
	e.Permille = (e.Permille*permille + 999) / 1000
	e.Asked = (e.Asked*permille + 999) / 1000
}

// As returns the estimate of the same request to another model, for which other factors
// may apply.
func (e *Estimate) As(model string) *Estimate {
	other := *e
	if other.Model = model; e.preset != nil {
		other.applyFactors()
	}
	return &other
}
