package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// The oracle says what must become of a request, and what a key has used after it. It
// is written from docs/, and uses nothing of till.

// verdict is a refusal: its status, and the code in Till-Refusal.
type verdict struct {
	status int
	code   string
}

var (
	invalidKey   = verdict{401, "till_key_invalid"}
	revoked      = verdict{403, "till_key_revoked"}
	suspended    = verdict{403, "till_key_suspended"}
	lockedDown   = verdict{403, "till_locked_down"}
	expired      = verdict{402, "till_key_expired"}
	idle         = verdict{402, "till_key_idle"}
	tooSmall     = verdict{402, "till_budget_too_small"}
	usedUp       = verdict{402, "till_activations_exhausted"}
	tokensUsedUp = verdict{402, "till_tokens_exhausted"}
	spendUsedUp  = verdict{402, "till_spend_exhausted"}
	wrongAddress = verdict{403, "till_ip_not_allowed"}
	wrongMethod  = verdict{403, "till_method_not_allowed"}
	wrongPath    = verdict{403, "till_path_not_allowed"}
	wrongPlace   = verdict{403, "till_wrong_upstream"}
	tooMany      = verdict{429, "till_concurrency"}
	tooOften     = verdict{429, "till_rate_limited"}
)

// Amounts of the limits that keys have.
const (
	fewActivations  = 20
	manyActivations = 500
	ceilingOfRole   = 1000
	someTokens      = 10_000_000
	someDollars     = 50
	tooLong         = 60_000_000 // tokens of output, more than any key may use
	shortAnswer     = 300
	noLimit         = -1
)

// What the stand-in says that an answer used, and what that costs.
const (
	inputTokens, outputTokens = 5, 2
	inputPrice, outputPrice   = 1000, 2000 // nano-dollars a token
)

// state is what is known of a life's key.
type state struct {
	life
	over   map[string]string // factors that an event changed
	dead   *verdict          // every request is refused so
	gone   *verdict          // as is every question about the key itself
	pinned bool              // to the first address

	limit     int64 // in activations
	used      int64
	delegated int64 // to children that live, and used by those that ended
	tokens    int64
	nano      int64
	inexact   bool // tokens and dollars were charged at a bound
	forwarded int64
}

func newState(l life) *state {
	s := &state{life: l, over: make(map[string]string), limit: noLimit}
	switch {
	case l.is("max_activations", "few"):
		s.limit = fewActivations
	case l.is("max_activations", "many"):
		s.limit = manyActivations
	case l.is("role", "ceilings") && l.minted():
		s.limit = manyActivations // a child must say how many
	case l.is("role", "ceilings"):
		s.limit = ceilingOfRole
	}
	if l.is("unknown_price", "count_only") && l.is("minter", "token") && l.is("role", "amounts", "money") {
		s.over["unknown_price"] = "refuse" // count_only is refused to all but the operator
	}
	return s
}

func (s *state) of(name string) string {
	if level, ok := s.over[name]; ok {
		return level
	}
	return s.life.of(name)
}

func (s *state) is(name string, levels ...string) bool { return slices.Contains(levels, s.of(name)) }
func (s *state) has(name string) bool                  { return !s.is(name, "none") }

// minted reports whether the key is a child.
func (l life) minted() bool { return l.is("minter", "holder", "grandholder") }

// generations is how many keys stand above the life's own.
func (l life) generations() int {
	return map[string]int{"holder": 1, "grandholder": 2}[l.of("minter")]
}

func (l life) guarded() bool { return !l.is("through", "till") }

// free reports whether the life's own requests take nothing.
func (l life) free() bool { return l.is("kind", "self") || l.is("kind", "models") && !l.guarded() }

// Which limits the key itself has, its role's ceilings included.
func (l life) limitsTokens() bool { return l.has("max_tokens") || l.is("role", "amounts") }
func (l life) limitsSpend() bool  { return l.has("max_spend") || l.is("role", "amounts") }

// metered reports whether tokens and dollars are counted.
func (l life) metered() bool {
	return (l.limitsTokens() || l.limitsSpend() || l.is("role", "money")) && !l.free()
}

// priced reports whether a request must have a price.
func (l life) priced() bool { return (l.limitsSpend() || l.is("role", "money")) && !l.free() }

// namesModel and statesBound report what a request of the kind can say.
func (l life) namesModel() bool {
	return l.is("kind", "chat", "responses", "messages", "gemini", "embeddings", "multipart", "post")
}
func (l life) statesBound() bool { return l.is("kind", "chat", "responses", "messages", "gemini") }

// aboutRequest is a refusal that is about the request and not about its key: 400 where
// clients take 403 for a fault of the key.
func (l life) aboutRequest(code string) verdict {
	if l.is("kind", "messages", "responses") {
		return verdict{400, code}
	}
	return verdict{403, code}
}

// allowsModel judges a model by the rules of the key and of its role.
func (s *state) allowsModel(model string) bool {
	rules := map[string][]string{"names": {ownModel, unpricedModel}, "beginning": {"pairs-*"}}[s.of("models")]
	if rules == nil && s.is("role", "scope") {
		rules = []string{"pairs-*"}
	}
	return rules == nil || slices.ContainsFunc(rules, func(rule string) bool {
		beginning, open := strings.CutSuffix(rule, "*")
		return model == rule || open && strings.HasPrefix(model, beginning)
	})
}

// judgement is what must become of a request: refused for one of the reasons, or passed
// on, with what it uses.
type judgement struct {
	reasons     []verdict
	status      int
	forwarded   int64
	activations int64
	tokens      int64
	nano        int64
	inexact     bool
	lowered     bool // its output bound
}

// judge says what must become of a request.
func (s *state) judge(a *asking) judgement {
	var why []verdict
	own := s.is("kind", "self") || a.self
	if a.key != "" {
		return judgement{reasons: []verdict{invalidKey}}
	}
	if s.gone != nil {
		return judgement{reasons: []verdict{*s.gone}}
	}
	if s.dead != nil && !own {
		return judgement{reasons: []verdict{*s.dead}}
	}
	if a.from == stranger && (s.has("ips") || s.is("role", "ceilings") || s.is("pin_ip", "true") && s.pinned) {
		why = append(why, wrongAddress)
	}
	if own {
		return judgement{reasons: why, status: http.StatusOK}
	}
	if a.method != "" && (s.has("methods") || s.is("role", "scope")) {
		why = append(why, wrongMethod)
		if s.is("kind", "gemini") {
			why = append(why, wrongPath) // what changes a model is refused to everybody
		}
	}
	model := a.model
	if model == "" {
		model = ownModel
	}
	moved := s.is("kind", "gemini") && model != ownModel // the path names the model
	if s.has("paths") && (a.path != "" || moved && s.is("paths", "exact")) {
		why = append(why, wrongPath)
	}
	if a.upstream != "" {
		why = append(why, wrongPlace)
	}
	switch {
	case !s.namesModel():
	case !s.allowsModel(model):
		why = append(why, s.aboutRequest("till_model_not_allowed"))
	case s.priced() && model != ownModel && !s.is("unknown_price", "count_only"):
		why = append(why, s.aboutRequest("till_price_unknown"))
	}
	long := a.bound > 0 && (s.limitsTokens() || s.limitsSpend())
	if long && model == ownModel && s.is("fit", "false") {
		why = append(why, tooSmall)
	}
	if len(why) > 0 {
		return judgement{reasons: why}
	}
	return s.passed(a, model, long)
}

// passed is the judgement of a request that is admitted.
func (s *state) passed(a *asking, model string, long bool) judgement {
	o := judgement{status: http.StatusOK, forwarded: 1, lowered: long}
	if s.is("kind", "websocket") {
		o.status = http.StatusSwitchingProtocols
	}
	if s.is("through", "guard answer") {
		o.forwarded = 0
	}
	if a.status != 0 {
		o.status = a.status
	}
	if !s.free() && (a.status == 0 || !s.is("charge", "success")) {
		o.activations = 1
	}
	if s.metered() && a.status == 0 {
		o.tokens, o.nano = inputTokens, inputTokens*inputPrice
		if !s.is("kind", "embeddings") {
			o.tokens, o.nano = o.tokens+outputTokens, o.nano+outputTokens*outputPrice
		}
		if model != ownModel {
			o.nano = 0
		}
	}
	return o
}

// book notes what a request did.
func (s *state) book(o judgement) {
	if len(o.reasons) > 0 {
		return
	}
	s.pinned = s.pinned || !s.is("kind", "self")
	s.forwarded += o.forwarded
	s.used += o.activations
	s.tokens += o.tokens
	s.nano += o.nano
	s.inexact = s.inexact || o.inexact
}

// left is what the key has left in activations.
func (s *state) left() int64 { return max(s.limit-s.used-s.delegated, 0) }

// disagrees says in what a reply is not the judgement that must be.
func (o *judgement) disagrees(r reply) string {
	if len(o.reasons) > 0 {
		if r.err == nil && slices.Contains(o.reasons, verdict{r.status, r.code}) {
			return ""
		}
		return fmt.Sprintf("want it refused with %v", o.reasons)
	}
	switch {
	case r.err != nil || r.status != o.status || r.code != "":
		return fmt.Sprintf("want it to pass with %d", o.status)
	case o.lowered && r.header.Get("Till-Output-Limit") == "":
		return "want its output bound to be lowered"
	}
	return ""
}

// probes are the requests that a life makes of itself: its own, and each that differs
// in one thing.
func (s *state) probes() []asking {
	all := []asking{
		{what: "its own"},
		{what: "from another address", from: stranger},
		{what: "with another method", method: http.MethodPut},
		{what: "of another path", path: s.elsewhere()},
		{what: "of another upstream", upstream: map[bool]string{true: "ant", false: "gem"}[s.upstream() == "gem"]},
	}
	if s.is("kind", "self") {
		all = all[:2]
	}
	if s.guarded() {
		all = slices.DeleteFunc(all, func(a asking) bool { return a.upstream != "" })
	}
	if s.namesModel() {
		all = append(all, asking{what: "of another model", model: foreignModel})
		if s.priced() {
			all = append(all, asking{what: "of a model without a price", model: unpricedModel})
		}
	}
	// What only a rule refuses is asked where there is the rule.
	all = slices.DeleteFunc(all, func(a asking) bool {
		return a.what != "its own" && a.model != unpricedModel && len(s.judge(&a).reasons) == 0
	})
	if s.statesBound() && (s.limitsTokens() || s.limitsSpend()) {
		all = append(all, asking{what: "of a very long answer", bound: tooLong})
	}
	if !s.is("kind", "self", "websocket") && !s.is("through", "guard answer") {
		all = append(all, asking{what: "that the upstream answers with 404", status: http.StatusNotFound})
	}
	return all
}
