package cli

import (
	"cmp"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
)

func nodesCommand(f *globalFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "nodes",
		Short: "Lists the servers that share a database, and removes one",
		Long: `Lists the servers that share a PostgreSQL database, and how each is: fresh, or
behind the others, or gone. What a server that is gone had reserved and not used
comes back when it is started again on the same disk. If it will not be, remove
it.`,
		Example: "  caddy till nodes\n  caddy till nodes remove till-3",
		Args:    argCount(0, 0, ""),
		RunE: f.calling(func(cmd *cobra.Command, c *client, _ []string) error {
			return callAndPrint(cmd, c, "GET", "/nodes", nil, func(a *wire.NodesAnswer) error {
				text := strings.TrimPrefix(nodesTable(a.Nodes), "\n")
				text = cmp.Or(text, "This server has its store for itself.\n")
				_, err := io.WriteString(cmd.OutOrStdout(), text)
				return err
			})
		}),
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "remove NODE",
		Short: "Removes a server that is gone for good",
		Long: `Removes a server that will not come back. What it had reserved and is not known
to have used counts as used, and it is not listed any more. A server that lives
is refused: stop it first. If it is started again after that, it joins as a new
node.`,
		Example: "  caddy till nodes remove till-3",
		Args:    argCount(1, 1, "the name of the server, as caddy till nodes shows it"),
		RunE: f.calling(func(cmd *cobra.Command, c *client, args []string) error {
			c = c.patient() // it may have a share of every key
			return callAndPrint(cmd, c, "DELETE", "/nodes/"+url.PathEscape(args[0]), nil, func(r *wire.RemovedNode) error {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "Removed %s. It had a part of %s; %s, %s and $%s count as used.\n", r.Name,
					prose.Counted(r.Accounts, "budget"), prose.Counted(r.Activations, "activation"), prose.Counted(r.Tokens, "token"), r.SpendUSD)
				return err
			})
		}),
	})
	return cmd
}

// latest returns the last time at which any node was heard from: about now, by the
// database's clock.
func latest(nodes []wire.NodeJSON) (at time.Time) {
	for _, n := range nodes {
		if n.Seen.After(at) {
			at = n.Seen
		}
	}
	return at
}

// stateOf describes the state of a node in a few words.
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

// nodesLine describes the state of the nodes in one line.
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
