package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
)

func threeNodes() []wire.NodeJSON {
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	return []wire.NodeJSON{
		{Name: "till-1", Version: "v1.2.3", Address: "web1.internal", Seen: at, State: wire.NodeFresh, Leads: true, Self: true},
		{Name: "till-2-" + strings.Repeat("x", 50), Version: "v1.2.4-0.20261130120000-abcdef", Address: "web2.internal" + strings.Repeat("y", 50), Seen: at.Add(-time.Second), State: wire.NodeBehind, Behind: 12,
			Differs: []string{"roles", "stale_after", "unknown_price", "upstreams", "webhooks", "retain", "seal_keys", "audit_retain"}},
		{Name: "till-3", Version: "v1.2.3", Seen: at.Add(-3 * time.Minute), State: wire.NodeGone},
	}
}

func TestTheTableOfNodesFitsAndSaysHowEachIs(t *testing.T) {
	t.Parallel()
	table := nodesTable(threeNodes())
	for line := range strings.Lines(table) {
		if n := prose.Wide(strings.TrimSuffix(line, "\n")); n > tableWidth {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	for _, want := range []string{"till-1 *", "fresh, leads", "behind by 12", "gone 3m", "web1.internal", "configured otherwise: roles, stale_after,", "audit_retain"} {
		if !strings.Contains(table, want) {
			t.Errorf("%q is missing:\n%s", want, table)
		}
	}
	if table := nodesTable(nil); table != "" {
		t.Errorf("where a server has the store for itself: %q", table)
	}
}

func TestTopShowsTheNodesInALineOfTheirOwn(t *testing.T) {
	t.Parallel()
	s := &snapshot{Keys: []*topKey{}}
	v := &topView{columns: 80, rows: 24}
	alone := len(v.lines(s))
	s.Stats.Nodes = threeNodes()
	lines := v.lines(s)
	if len(lines) != alone+1 || !strings.HasPrefix(lines[3], "nodes: * till-1 fresh, leads  till-2-") || !strings.HasPrefix(lines[4], "NAME") {
		t.Errorf("%d lines, and %d without nodes:\n%s", len(lines), alone, strings.Join(lines, "\n"))
	}
	v.rows = 6
	if lines := v.lines(s); len(lines) > 6 {
		t.Errorf("%d lines on a terminal of 6", len(lines))
	}
}
