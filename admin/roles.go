package admin

import (
	"net/http"
	"slices"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
)

func (a *api) roles(l *limiter.Limiter, _ *http.Request) (int, any, error) {
	roles, err := l.Roles()
	if err != nil {
		return 0, nil, err
	}
	answer := make([]*wire.RoleObject, 0, len(roles))
	for _, r := range roles {
		answer = append(answer, roleJSON(r))
	}
	return http.StatusOK, map[string]any{"roles": answer}, nil
}

func roleJSON(r limiter.RoleView) *wire.RoleObject {
	o := &wire.RoleObject{
		Name: r.Name, Permissions: r.Permissions, Sees: r.Sees, Upstreams: r.Upstreams,
		Models: r.Scope.Models, Methods: r.Scope.Methods, Paths: r.Scope.Paths,
		MaxActivations: ceiling(r.Max[limiter.Activations]), MaxTokens: ceiling(r.Max[limiter.Tokens]),
		MaxLifetime: wire.Span(r.MaxLifetime).String(),
	}
	if o.Permissions == nil {
		o.Permissions = []limiter.Permission{}
	}
	if o.Sees == "" {
		o.Sees = limiter.SeesOwn
	}
	for _, p := range r.Scope.IPs {
		o.IPs = append(o.IPs, p.String())
	}
	if n := r.Max[limiter.Nanodollars]; n > 0 {
		o.MaxSpendUSD = limiter.FormatUSD(n)
	}
	if limit := r.Budget.Limit; limit != limiter.NoLimits() {
		o.Budget = &wire.BudgetObject{
			Activations: amount(limit[limiter.Activations]), Tokens: amount(limit[limiter.Tokens]), Renews: string(r.Budget.Renews),
			UsedActivations: r.Used[limiter.Activations], UsedTokens: r.Used[limiter.Tokens], UsedSpendUSD: limiter.FormatUSD(r.Used[limiter.Nanodollars]),
		}
		if n := limit[limiter.Nanodollars]; n != limiter.NoLimit {
			o.Budget.SpendUSD = limiter.FormatUSD(n)
		}
	}
	return o
}

func amount(n int64) *int64 {
	if n == limiter.NoLimit {
		return nil
	}
	return &n
}

func ceiling(n int64) *int64 {
	if n == 0 {
		return nil
	}
	return &n
}

// choices lists the upstreams for which the caller may mint keys of a role. If
// there is only one, a mint need not name it.
func (a *api) choices(l *limiter.Limiter, role string) ([]wire.UpstreamInfo, error) {
	if a.caller.Role != limiter.OperatorRole {
		role = a.caller.Role
	}
	infos := a.backend.UpstreamInfos()
	roles, err := l.Roles()
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(roles, func(r limiter.RoleView) bool { return r.Name == role })
	if at < 0 {
		return infos, nil
	}
	r := roles[at]
	metered := slices.ContainsFunc(limiter.LimitKinds[:], func(kind limiter.Kind) bool {
		return kind.Metered() && (r.Max[kind] > 0 || r.Budget.Limit[kind] != limiter.NoLimit)
	})
	return slices.DeleteFunc(slices.Clone(infos), func(u wire.UpstreamInfo) bool {
		return len(r.Upstreams) > 0 && !slices.Contains(r.Upstreams, u.Name) || metered && u.Dialect == ""
	}), nil
}
