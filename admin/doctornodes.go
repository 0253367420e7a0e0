package admin

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/store"
)

// maxNodeSkew is how far a machine's clock may be from the database's before that is
// reported. Limits are judged by the database's, so a wrong clock misleads only people
// who compare logs.
const maxNodeSkew = 30 * time.Second

// describeNodes describes nodes as the node self sees them, itself first.
func describeNodes(nodes []store.Node, self string) []wire.NodeJSON {
	var own wire.CommonConfiguration
	for _, n := range nodes {
		if n.Name == self {
			own = wire.ParseCommonConfiguration(n.Configuration)
		}
	}
	described := make([]wire.NodeJSON, 0, len(nodes))
	for _, n := range nodes {
		d := wire.NodeJSON{
			Name: n.Name, Version: n.Version, Address: n.Address, Started: n.Started.UTC(), Seen: n.Seen.UTC(),
			State: wire.StateOf(&n), Behind: n.Behind, Leads: n.Leads && n.Live, Self: n.Name == self,
		}
		if n.Live && !d.Self {
			d.Differs = own.Differs(wire.ParseCommonConfiguration(n.Configuration))
		}
		described = append(described, d)
	}
	slices.SortFunc(described, func(a, b wire.NodeJSON) int {
		if a.Self != b.Self {
			if a.Self {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return described
}

// nodeFindings finds what is wrong with the other nodes. pending are those that have
// not followed changes that were durable some seconds ago, and now is the database's
// time.
func nodeFindings(nodes []wire.NodeJSON, pending []string, now time.Time) (found []wire.Finding) {
	warn := func(check, fix, what string, args ...any) {
		found = append(found, wire.Finding{Check: check, Level: wire.LevelWarning, What: fmt.Sprintf(what, args...), Fix: fix})
	}
	var version string
	for _, n := range nodes {
		if n.Self {
			version = n.Version
			if off := time.Since(now); off.Abs() > maxNodeSkew {
				warn("clock", "timedatectl set-ntp true, on the one that is wrong; limits are judged by the database's clock",
					"this machine's clock and the database's are %s apart", off.Abs().Round(time.Second))
			}
		}
	}
	for _, n := range nodes {
		switch {
		case n.Self:
		case n.State == wire.NodeGone:
			if gone := now.Sub(n.Seen); gone < forgetGone {
				warn("node_gone", "start it again, and it gives back what it had reserved; or, if it is gone for good: caddy till nodes remove "+n.Name,
					"node %s was last seen %s", n.Name, prose.Relative(n.Seen, now))
			}
		case slices.Contains(pending, n.Name):
			warn("node_behind", "it refuses every key if that lasts; look at its log, and at its way to the database",
				"node %s has not followed what others changed: it is %s behind", n.Name, prose.Counted(n.Behind, "change"))
		}
		if len(n.Differs) > 0 {
			warn("node_configuration", "give all nodes the same configuration, and reload them",
				"node %s is configured differently from this one: %s", n.Name, strings.Join(n.Differs, ", "))
		}
		if n.State != wire.NodeGone && !n.Self && n.Version != version {
			warn("node_version", "finish the upgrade: run the same version on all nodes",
				"node %s runs %s, and this one %s", n.Name, n.Version, version)
		}
	}
	return found
}

// forgetGone is how long a node that is gone is worth a warning.
const forgetGone = 24 * time.Hour
