package upstream

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// OpenAI serves a request that names no tier, or "auto", with the tier that its account
// has set for the project: standard, fast (which is priority, and costs twice as much) or
// scale (ProjectServiceTierSettings of its API reference). "default" is the standard price
// whatever the project has set (CreateChatCompletionRequest and CreateResponse there;
// https://developers.openai.com/api/docs/guides/priority-processing).

// The settings for requests that leave their tier to the project.
const (
	DefaultTier = "default" // requests that leave it to the project ask for the standard price
	AutoTier    = "auto"    // the project decides, and the dearer price is held
)

// ServiceTiers lists the values that a service tier can be set to.
var ServiceTiers = []string{DefaultTier, AutoTier}

// setTier sets what happens to requests that leave their tier to the project. At
// OpenAI's own addresses they are given the standard one. Other servers that speak its
// protocol may not know the field.
func (p *Preset) setTier(o *Options) error {
	p.tier = o.ServiceTier
	switch {
	case p.tier != "" && !slices.Contains(ServiceTiers, p.tier):
		return fmt.Errorf("service_tier must be one of %s, got %.64q", strings.Join(ServiceTiers, ", "), p.tier)
	case p.tier != "" && len(p.TierHosts) == 0 && p.Name != "":
		return errors.New("service_tier is for the preset openai: nowhere else does a project choose the price of a request that says nothing")
	case p.tier == "" && len(o.Hosts) > 0 && !slices.ContainsFunc(o.Hosts, func(host string) bool { return !holdsHost(p.TierHosts, host) }):
		p.tier = DefaultTier
	}
	return nil
}

// readTier reads the tier that a request asks for. Mistral serves "auto", and nothing
// else, with priority where the account has it
// (https://docs.mistral.ai/inference/priority-tier).
func (e *Estimate) readTier(p *Preset, name, tier string) error {
	switch tier = strings.TrimPrefix(strings.ToLower(tier), "service_tier_"); tier {
	case "auto", "unspecified":
		e.Priority = e.Priority || tier == "auto" && p.Name == "mistral"
		return nil
	case "default", "standard", "standard_only", "on_demand":
	case "flex":
		e.Flex = true
	case "priority", "fast":
		e.Priority = true
	default:
		return notMeterable("the price of service tier %.32q is not known", tier)
	}
	e.tiered = e.tiered || name == tierField
	return nil
}

// tierField is where OpenAI reads the tier.
const tierField = "service_tier"

// leavesTier reports whether the account chooses the price of the request. Only these
// endpoints have the field.
func (e *Estimate) leavesTier(path string) bool {
	return !e.tiered && (strings.HasSuffix(path, "/chat/completions") || speaksResponses(path))
}

// projectDecides reports whether the request is sent on so that the account chooses its
// price. Then it costs as much as with priority, unless the answer names another tier.
func (e *Estimate) projectDecides() bool { return e.undecided && e.preset.tier == AutoTier }

// NameTier makes Rewrite name the standard tier if the request leaves it to the account
// and the upstream is set to DefaultTier.
func (e *Estimate) NameTier() { e.named = e.undecided && e.preset.tier == DefaultTier }

// NamesTier returns the field in which Rewrite names a tier; empty if it does not.
func (e *Estimate) NamesTier() string {
	if e.named {
		return tierField
	}
	return ""
}

// priorityPermille returns the factor for the model's prices when it is served with
// priority: 2, and 2.5 for GPT-5.5 (https://openai.com/api-priority-processing), which
// gateways list under its maker's name; Mistral's is 1.75
// (https://docs.mistral.ai/inference/priority-tier).
func (e *Estimate) priorityPermille() int64 {
	switch name := e.Model[strings.LastIndexByte(e.Model, '/')+1:]; {
	case e.preset != nil && e.preset.Name == "mistral":
		return 1750
	case strings.HasPrefix(name, "gpt-5.5"):
		return 2500
	}
	return 2000
}

// ultrafastPermille is the factor for OpenAI's fastest tier, "six times standard on every
// rate": https://docs.merge.dev/merge-gateway/capabilities/service-tiers. No request
// of a key with a limit may ask for it, and no project can have it set, but a gateway may
// ask for it.
const ultrafastPermille = 6000
