package limiter

import (
	"errors"
	"fmt"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// SetRoles applies the configured roles, at start and after each reload. What a role
// has used is kept while the role is not configured; its keys are refused for that
// long.
func (l *Limiter) SetRoles(roles map[string]record.Role) error {
	// What they forbid is forbidden at once, even while the store cannot be read: the reload
	// will not be repeated.
	overdrawn := l.applyRoles(roles)
	for name := range roles {
		if _, err := l.role(name); err != nil {
			return err
		}
	}
	if !l.applyRoles(roles) && !overdrawn {
		return nil
	}
	// What was used while a role had no limit is reserved now that it has one.
	return l.committer.Do(func(*batch) error { return nil }, nil)
}

// applyRoles reports whether more of a budget is used than reserved.
func (l *Limiter) applyRoles(roles map[string]record.Role) (overdrawn bool) {
	l.rolesMu.Lock()
	defer l.rolesMu.Unlock()
	l.configured.Store(&roles)
	for name, a := range l.roles {
		role, configured := roles[name]
		a.mu.Lock()
		a.absent = !configured
		if configured {
			l.lower(a, role.Budget.Limit)
			a.setRenewal(role.Budget.Renews, l.clock.Now())
		}
		a.call(0)
		if a.overdrawn() {
			overdrawn = true
			l.askBlock(a, nil)
		}
		a.mu.Unlock()
	}
	return overdrawn
}

// role returns the account of a role, reading it on first use. There is one
// per name for as long as the Limiter lives, because only one may own blocks.
func (l *Limiter) role(name string) (*account, error) {
	l.rolesMu.Lock()
	a := l.roles[name]
	l.rolesMu.Unlock()
	if a != nil {
		return a, nil
	}
	var rec record.Account
	var own record.Part
	id := record.RoleAccount(name)
	err := l.store.View(func(r store.Reader) (err error) {
		if err := l.check(r, id); err != nil {
			return err
		}
		rec, own, err = booksOf(r, l.node(), id)
		return err
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("reading the budget of role %s: %w", name, err)
	}
	l.rolesMu.Lock()
	defer l.rolesMu.Unlock()
	if a := l.roles[name]; a != nil {
		return a, nil
	}
	a = &account{id: id, forRole: true}
	a.restore(&rec, &own, record.NoLimits())
	role := l.policy(name)
	a.absent = role == nil
	if role != nil {
		a.setWhole(role.Budget.Limit)
		now := l.clock.Now()
		a.setRenewal(role.Budget.Renews, now)
		l.realign(a, nil, now)
	}
	l.roles[name] = a
	return a, nil
}

// RoleView is a role as configured, and what its keys have used of its budget
// since the budget began.
type RoleView struct {
	Name string
	record.Role
	Used record.Amounts
}

// Roles are the configured roles, by name.
func (l *Limiter) Roles() ([]RoleView, error) {
	now := l.clock.Now()
	names := l.roleNames()
	views := make([]RoleView, 0, len(names))
	for _, name := range names {
		role := l.policy(name)
		a, err := l.role(name)
		if err != nil {
			return nil, err
		}
		if role == nil { // removed by a reload since
			continue
		}
		v := RoleView{Name: name, Role: *role}
		a.mu.Lock()
		if !a.due(now) {
			v.Used = a.spent
			v.Used.Add(a.others.Settled)
		}
		a.mu.Unlock()
		views = append(views, v)
	}
	return views, nil
}
