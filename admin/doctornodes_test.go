package admin

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/store"
)

// checksOf names what was found.
func checksOf(d wire.Diagnosis) (checks []string) {
	for _, f := range d.Findings {
		checks = append(checks, f.Check)
	}
	return checks
}

func TestDoctorNamesTheNodeAndWhatIsWrongWithIt(t *testing.T) {
	t.Parallel()
	now := time.Now()
	node := func(name string, change func(*store.Node)) store.Node {
		n := store.Node{Name: name, Version: "v1", Started: now.Add(-time.Hour), Seen: now, Live: true, Configuration: "retain=aa roles=bb"}
		if change != nil {
			change(&n)
		}
		return n
	}
	for _, test := range []struct {
		name    string
		other   func(*store.Node)
		pending []string
		off     time.Duration // of the database's clock
		check   string
		says    string
	}{
		{name: "in order"},
		{name: "a moment behind", other: func(n *store.Node) { n.Behind = 1 }},
		{name: "behind for long", other: func(n *store.Node) { n.Behind = 3 }, pending: []string{"b"}, check: "node_behind", says: "it is 3 changes behind"},
		{name: "gone", other: func(n *store.Node) { n.Live, n.Seen = false, now.Add(-10*time.Minute) }, check: "node_gone", says: "node b was last seen 10m ago"},
		{name: "gone for good", other: func(n *store.Node) { n.Live, n.Seen = false, now.Add(-48*time.Hour) }},
		{name: "configured otherwise", other: func(n *store.Node) { n.Configuration = "retain=cc roles=dd upstreams=ee" }, check: "node_configuration", says: "from this one: retain, roles"},
		{name: "another version", other: func(n *store.Node) { n.Version = "v2" }, check: "node_version", says: "node b runs v2, and this one v1"},
		{name: "gone, and of another configuration and version", other: func(n *store.Node) {
			n.Live, n.Seen, n.Version, n.Configuration = false, now.Add(-48*time.Hour), "v0", "roles=zz"
		}},
		{name: "another clock", off: -2 * time.Minute, check: "clock", says: "2m0s apart"},
	} {
		nodes := describeNodes([]store.Node{node("b", test.other), node("c", nil), node("a", nil)}, "c")
		if names := []string{nodes[0].Name, nodes[1].Name, nodes[2].Name}; !slices.Equal(names, []string{"c", "a", "b"}) || !nodes[0].Self {
			t.Errorf("%s: they are listed as %v", test.name, names)
		}
		found := nodeFindings(nodes, test.pending, now.Add(test.off))
		if test.check == "" {
			if len(found) > 0 {
				t.Errorf("%s: %+v", test.name, found)
			}
			continue
		}
		if len(found) != 1 || found[0].Check != test.check || found[0].Level != wire.LevelWarning || !strings.Contains(found[0].What, test.says) {
			t.Errorf("%s: %+v", test.name, found)
		}
	}
}

func TestANodesStateIsOneWord(t *testing.T) {
	t.Parallel()
	for state, n := range map[string]store.Node{
		wire.NodeFresh:  {Name: "a", Live: true},
		wire.NodeBehind: {Name: "a", Live: true, Behind: 2},
		wire.NodeGone:   {Name: "a", Behind: 2, Leads: true},
	} {
		d := describeNodes([]store.Node{n}, "b")[0]
		if d.State != state || d.Leads {
			t.Errorf("%+v is %s, want %s", n, d.State, state)
		}
	}
}

func TestWhatNodesTellEachOtherOfTheirConfigurationIsReadAgain(t *testing.T) {
	t.Parallel()
	c := wire.CommonConfiguration{"roles": "aa", "retain": "bb"}
	if got := c.String(); got != "retain=bb roles=aa" {
		t.Errorf("it is written as %q", got)
	}
	other := wire.ParseCommonConfiguration(c.String() + " later=cc and what another version writes")
	if differs := c.Differs(other); len(differs) > 0 {
		t.Errorf("it differs from itself: %v", differs)
	}
	other["roles"] = "zz"
	if differs := c.Differs(other); !slices.Equal(differs, []string{"roles"}) {
		t.Errorf("it differs in %v", differs)
	}
}
