package till

import (
	"cmp"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
)

// storeOptions are a configuration's settings for opening the store.
type storeOptions struct {
	open   func(StoreOpening) (OpenedStore, error)
	anchor string
	// doubted opens a store that nodes share and doubt; nil if nothing repairs it.
	doubted func(o StoreOpening, why string, look bool) (limiter.Doubted, commit.Clock, error)
	way     func() string // Place.Way; nil if that is always the same
	common  func() string // StoreOpening.Configuration; nil if nobody asks
	log     *slog.Logger
	roles   map[string]record.Role
	hooks   []event.Hook
	// keepAudit is how long entries of the audit log are kept; 0 means for ever.
	keepAudit time.Duration
	// retain is how long ended keys stay listed.
	retain time.Duration
	// staleAfter and staleRevoke are described at App.
	staleAfter  time.Duration
	staleRevoke bool
	// enters says that the configuration is being put into force. Otherwise the store
	// is opened as the one in force says, if there is one.
	enters bool
	// of is the configuration in force that these settings come from, and mixed says
	// that what another one keeps was added.
	of    configuration
	mixed bool
}

func (o *storeOptions) opening() StoreOpening {
	return StoreOpening{Log: o.log, Configuration: o.common}
}

func (o *storeOptions) wayText() string {
	if o.way == nil {
		return ""
	}
	return o.way()
}

// anchorOf is the path of a store's anchor, or "" if it has none: the nodes that share
// a store witness for it.
func (o *storeOptions) anchorOf(at Place) string {
	if o.anchor != "" || at.Shared {
		return o.anchor
	}
	return at.File("anchor")
}

// apply puts the settings into force in an open store.
func (o *storeOptions) apply(l *limiter.Limiter) error {
	l.KeepAudit(o.keepAudit)
	l.Retain(o.retain)
	l.SetStale(o.staleAfter, o.staleRevoke)
	return errors.Join(l.SetRoles(o.roles), l.Outbox().SetHooks(o.hooks))
}

// keepOf adds what another configuration keeps: the longer times, messages for its
// webhooks, and the present windows of its roles' budgets.
func (o *storeOptions) keepOf(other storeOptions) {
	forEver := o.keepAudit == 0 || other.keepAudit == 0
	if o.keepAudit = max(o.keepAudit, other.keepAudit); forEver {
		o.keepAudit = 0
	}
	o.retain = max(cmp.Or(o.retain, limiter.DefaultRetain), cmp.Or(other.retain, limiter.DefaultRetain))
	o.staleAfter = max(cmp.Or(o.staleAfter, limiter.DefaultStaleAfter), cmp.Or(other.staleAfter, limiter.DefaultStaleAfter))
	o.staleRevoke = o.staleRevoke && other.staleRevoke
	o.roles = maps.Clone(o.roles)
	for name, role := range o.roles {
		former, known := other.roles[name]
		if known && role.Budget.Renews != former.Budget.Renews { // a new window would begin with nothing used
			role.Budget = former.Budget
			o.roles[name] = role
		}
	}
	o.hooks = slices.Clone(o.hooks)
	for _, h := range other.hooks {
		if !slices.ContainsFunc(o.hooks, func(own event.Hook) bool { return own.URL == h.URL }) {
			o.hooks = append(o.hooks, h)
		}
	}
}

func (a *App) storeOptions() storeOptions {
	var doubted func(StoreOpening, string, bool) (limiter.Doubted, commit.Clock, error)
	if a.database != nil {
		doubted = a.database.openDoubted
	}
	return storeOptions{open: a.storage.OpenStore, doubted: doubted, anchor: a.Anchor, way: a.wayToStore, common: a.commonConfiguration,
		log: a.engine.log.logger(), roles: a.roles, hooks: a.limiterHooks(),
		keepAudit: time.Duration(a.AuditRetain), retain: time.Duration(a.Retain),
		staleAfter: time.Duration(a.StaleAfter), staleRevoke: a.StaleRevoke, of: a}
}

func (a *App) wayToStore() string { return a.storage.Place().Way }
