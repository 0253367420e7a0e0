package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// doctor answers with what is wrong, even while the store is closed. Everybody with
// a token may ask: the operator gets findings about the server, others about the
// keys and tokens that they see.
func (a *api) doctor(_ *limiter.Limiter, r *http.Request) (any, error) {
	var findings []wire.Finding
	var files []wire.File
	l, err := a.backend.Limiter()
	if a.caller.Role == record.OperatorRole {
		findings = append(findings, a.backend.Diagnose()...)
		findings = append(findings, a.storeFindings(r.Context())...)
		if err == nil && l.Failed() == nil {
			nodes, err := l.Nodes()
			if err == nil && len(nodes) > 0 {
				findings = append(findings, nodeFindings(describeNodes(nodes, a.backend.Node()), l.Pending(), l.Time())...)
			}
		}
		files = a.backend.Files()
		if s := a.backend.Lockdown().State(); s != nil {
			findings = append(findings, wire.Finding{Check: "lockdown", Level: wire.LevelWarning, What: "a lockdown is in force: every key is refused", Fix: "caddy till lockdown --lift"})
		}
	}
	if err == nil && l.Failed() == nil {
		for permission, look := range map[record.Permission]func(context.Context, *limiter.Limiter, limiter.Caller) ([]wire.Finding, error){
			record.KeysRead: keyFindings, record.TokensManage: tokenFindings,
		} {
			if !l.Allows(a.caller, permission) {
				continue
			}
			more, err := look(r.Context(), l, a.caller)
			if err != nil {
				return nil, err
			}
			findings = append(findings, more...)
		}
	}
	answer := wire.DoctorAnswer{Diagnosis: wire.NewDiagnosis(findings), Now: time.Now().UTC()}
	answer.Files = files
	return answer, nil
}

func (a *api) storeFindings(ctx context.Context) []wire.Finding {
	l, err := a.backend.Limiter()
	var off time.Duration
	if err == nil {
		err, off = l.Trouble(ctx), l.Stats().ClockOff
	}
	return stateFindings(err, off, a.backend.Node() != "")
}

// stateFindings finds what is wrong with the store. shared says that it is a database
// that several nodes share.
func stateFindings(failed error, clockOff time.Duration, shared bool) []wire.Finding {
	switch {
	case errors.As(failed, new(*store.Contradiction)):
		return []wire.Finding{{Check: "store", Level: wire.LevelError, What: "this node refuses every key, for the second time within an hour: " + token.Scrub(store.Reason(failed)),
			Fix: "find out who writes in the database besides till, and restart this node: what it had reserved counts as used; if it comes again after that, caddy till repair --forfeit; see \"When a record contradicts a node\" in docs/cluster.md"}}
	case errors.Is(failed, store.ErrDoubt) && shared:
		return []wire.Finding{{Check: "store", Level: wire.LevelError, What: "the database is in doubt, and every key is refused on every node: " + token.Scrub(store.Reason(failed)),
			Fix: "put the newest copy of the database in place; or count every budget as spent: caddy till repair --forfeit; see \"When the database went back in time\" in docs/cluster.md"}}
	case failed != nil && shared:
		return []wire.Finding{{Check: "store", Level: wire.LevelError, What: "the database does not answer as it must, and keys are refused: " + token.Scrub(failed.Error()),
			Fix: "fix the cause (is it up, does the password hold, may it be written to); this node then goes on by itself"}}
	case clockOff != 0 && shared:
		return []wire.Finding{{Check: "clock", Level: wire.LevelError, What: fmt.Sprintf("the database's clock was set by %s, and is not followed", clockOff.Round(time.Second)),
			Fix: "timedatectl set-ntp true, on its machine; when the clock is right: caddy till repair --clock"}}
	case errors.Is(failed, store.ErrDoubt):
		return []wire.Finding{{Check: "store", Level: wire.LevelError, What: "the store is in doubt, and every key is refused: " + token.Scrub(failed.Error()),
			Fix: "put the newest store and its anchor in place and restart; or count every budget as spent: caddy till repair --forfeit"}}
	case failed != nil:
		return []wire.Finding{{Check: "store", Level: wire.LevelError, What: "the store does not work, and keys are refused: " + token.Scrub(failed.Error()),
			Fix: "fix the cause (space, permissions, the disk, another process); the store then recovers by itself"}}
	case clockOff != 0:
		return []wire.Finding{{Check: "clock", Level: wire.LevelError, What: fmt.Sprintf("the machine's clock was set by %s, and is not followed", clockOff.Round(time.Second)),
			Fix: "timedatectl set-ntp true; when the clock is right: caddy till repair --clock"}}
	}
	return nil
}
