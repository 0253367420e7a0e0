package wire

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

// NodeJSON is one of the servers that share a store.
type NodeJSON struct {
	Name    string    `json:"name"`
	Version string    `json:"version,omitempty"`
	Address string    `json:"address,omitempty"`
	Started time.Time `json:"started_at"`
	Seen    time.Time `json:"seen_at"`
	// State is one of NodeFresh, NodeBehind and NodeGone.
	State  string `json:"state"`
	Behind int64  `json:"behind"`
	Leads  bool   `json:"leads,omitempty"`
	// Self says that this node is the one that answers.
	Self bool `json:"self,omitempty"`
	// Differs names the parts of its configuration that differ from the answering
	// node's.
	Differs []string `json:"differs,omitempty"`
}

// NodesAnswer lists the servers that share the store; none where one server has it for
// itself.
type NodesAnswer struct {
	Nodes []NodeJSON `json:"nodes"`
}

// RemovedNode says what a removed node had reserved.
type RemovedNode struct {
	Name string `json:"name"`
	// Accounts counts the keys and roles that the node had a share of.
	Accounts    int64  `json:"accounts"`
	Activations int64  `json:"forfeited_activations"`
	Tokens      int64  `json:"forfeited_tokens"`
	SpendUSD    string `json:"forfeited_spend_usd"`
}

// The states of a node: it follows the others; it lives, but has not followed
// everything yet; or its session has ended.
const (
	NodeFresh  = "fresh"
	NodeBehind = "behind"
	NodeGone   = "gone"
)

// StateOf returns the state of a node.
func StateOf(n *store.Node) string {
	switch {
	case !n.Live:
		return NodeGone
	case n.Behind > 0:
		return NodeBehind
	}
	return NodeFresh
}

// CommonConfiguration describes what the configurations of nodes that share a store
// must have in common: a short hash of each part, by its name.
type CommonConfiguration map[string]string

// String is what a node tells the others.
func (c CommonConfiguration) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(c)) {
		parts = append(parts, name+"="+c[name])
	}
	return strings.Join(parts, " ")
}

// ParseCommonConfiguration reads what String wrote. Anything else is left out: it may
// come from another version.
func ParseCommonConfiguration(text string) CommonConfiguration {
	c := make(CommonConfiguration)
	for part := range strings.FieldsSeq(text) {
		if name, hash, ok := strings.Cut(part, "="); ok {
			c[name] = hash
		}
	}
	return c
}

// Differs names the parts that both have, but with different hashes.
func (c CommonConfiguration) Differs(from CommonConfiguration) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(c)) {
		if hash, ok := from[name]; ok && hash != c[name] {
			names = append(names, name)
		}
	}
	return names
}
