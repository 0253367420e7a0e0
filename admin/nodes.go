package admin

import (
	"net/http"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

func (a *api) nodes(l *limiter.Limiter, r *http.Request) (any, error) {
	nodes, err := l.ListNodes(a.caller)
	return wire.NodesAnswer{Nodes: describeNodes(nodes, a.backend.Node())}, err
}

// removeNode removes a node that is gone for good.
func (a *api) removeNode(l *limiter.Limiter, r *http.Request) (any, error) {
	done, err := l.RemoveNode(r.Context(), a.caller, r.PathValue("name"))
	return wire.RemovedNode{
		Name: r.PathValue("name"), Accounts: done.Accounts, Activations: done.Forfeited[record.Activations],
		Tokens: done.Forfeited[record.Tokens], SpendUSD: record.FormatUSD(done.Forfeited[record.Nanodollars]),
	}, err
}
