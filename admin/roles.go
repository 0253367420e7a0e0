package admin

import (
	"cmp"
	"net/http"
	"slices"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

func (a *api) roles(l *limiter.Limiter, _ *http.Request) (any, error) {
	roles, err := l.Roles()
	answer := wire.RolesAnswer{Roles: make([]wire.RoleObject, 0, len(roles))}
	for _, r := range roles {
		answer.Roles = append(answer.Roles, roleJSON(&r))
	}
	return answer, err
}

func roleJSON(r *limiter.RoleView) wire.RoleObject {
	o := wire.RoleObject{
		Name: r.Name, Permissions: r.Permissions, Sees: r.Sees, Upstreams: r.Upstreams,
		Models: r.Scope.Models, Methods: r.Scope.Methods, Paths: r.Scope.Paths,
		MaxActivations: unless(0, r.Max[record.Activations]), MaxTokens: unless(0, r.Max[record.Tokens]),
		MaxSpendUSD: optionalUSD(r.Max[record.Nanodollars]), MaxLifetime: wire.Span(r.MaxLifetime).String(),
	}
	if o.Permissions == nil {
		o.Permissions = []record.Permission{}
	}
	o.Sees = cmp.Or(o.Sees, record.SeesOwn)
	for _, p := range r.Scope.IPs {
		o.IPs = append(o.IPs, p.String())
	}
	if limit := r.Budget.Limit; limit != record.NoLimits() {
		o.Budget = &wire.BudgetObject{
			Activations: unless(record.NoLimit, limit[record.Activations]), Tokens: unless(record.NoLimit, limit[record.Tokens]), Renews: string(r.Budget.Renews),
			UsedActivations: r.Used[record.Activations], UsedTokens: r.Used[record.Tokens], UsedSpendUSD: record.FormatUSD(r.Used[record.Nanodollars]),
		}
		if n := limit[record.Nanodollars]; n != record.NoLimit {
			o.Budget.SpendUSD = record.FormatUSD(n)
		}
	}
	return o
}

// unless returns a limit, or nil if it is the number that stands for none.
func unless(none, limit int64) *int64 {
	if limit == none {
		return nil
	}
	return &limit
}

// choices lists the upstreams for which the caller may mint keys of a role. If
// there is only one, a mint need not name it.
func (a *api) choices(l *limiter.Limiter, role string) ([]wire.UpstreamInfo, error) {
	if a.caller.Role != record.OperatorRole {
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
	metered := slices.ContainsFunc(record.LimitKinds[:], func(kind record.Kind) bool {
		return kind.Metered() && (r.Max[kind] > 0 || r.Budget.Limit[kind] != record.NoLimit)
	})
	return slices.DeleteFunc(slices.Clone(infos), func(u wire.UpstreamInfo) bool {
		return len(r.Upstreams) > 0 && !slices.Contains(r.Upstreams, u.Name) || metered && u.Dialect == ""
	}), nil
}
