package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
)

// latest is the last time at which any node was heard of: about now, by the
// database's clock.
func latest(nodes []wire.NodeJSON) (at time.Time) {
	for _, n := range nodes {
		if n.Seen.After(at) {
			at = n.Seen
		}
	}
	return at
}

// stateOf says in a few words how a node is.
func stateOf(n *wire.NodeJSON, now time.Time) string {
	state := n.State
	switch {
	case n.State == wire.NodeBehind:
		state = "behind by " + compact(n.Behind)
	case n.State == wire.NodeGone:
		state = "gone " + strings.TrimSuffix(prose.Relative(n.Seen, now), " ago")
	case n.Leads:
		state = "fresh, leads"
	}
	return state
}

// nodesTable lists the nodes that share a store, in 80 columns.
func nodesTable(nodes []wire.NodeJSON) string {
	if len(nodes) == 0 {
		return ""
	}
	now := latest(nodes)
	var b strings.Builder
	fmt.Fprintf(&b, "\n%-24s %-15s %-16s %s\n", "NODE", "STATE", "VERSION", "MACHINE")
	for i := range nodes {
		n := &nodes[i]
		name := n.Name
		if n.Self {
			name += " *"
		}
		row := pad(name, 24) + " " + pad(stateOf(n, now), 15) + " " + pad(n.Version, 16) + " " + n.Address
		b.WriteString(strings.TrimRight(fit(row, tableWidth), " ") + "\n")
		if len(n.Differs) > 0 {
			b.WriteString(strings.Join(wrap(strings.Fields("configured otherwise: "+strings.Join(n.Differs, ", ")), " ", tableWidth-2), "\n  ") + "\n")
		}
	}
	b.WriteString("* is the one that answers\n")
	return b.String()
}

// nodesLine says in one line how the nodes are.
func nodesLine(nodes []wire.NodeJSON) string {
	now := latest(nodes)
	parts := make([]string, len(nodes))
	for i := range nodes {
		parts[i] = nodes[i].Name + " " + stateOf(&nodes[i], now)
		if nodes[i].Self {
			parts[i] = "* " + parts[i]
		}
	}
	return "nodes: " + strings.Join(parts, "  ")
}
