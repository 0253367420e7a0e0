package till

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/store"
)

// The way to a store on another machine may change while the store is open: to another
// password, or another address. The store is then opened again in the new way, and
// requests in flight go on.

// errNotReached means that the open store can no longer be reached as a configuration
// says.
var errNotReached = errors.New("the store cannot be reached as this configuration says, and stays open as it was")

// errReopen means that the store must be opened again because it is reached in another
// way.
var errReopen = errors.New("the store is reached in another way and is not open yet")

// reconnect opens the store again if it is reached in another way than when it was
// opened. That is tried before the open store is closed.
func (e *engine) reconnect(o storeOptions) error {
	way := o.wayText()
	e.mu.Lock()
	same := e.opening != nil || e.limiter == nil || e.failed != nil || e.way == way // a store that is closed is opened in the new way
	e.mu.Unlock()
	if same {
		return nil
	}
	tried, err := o.open(o.opening())
	if err == nil {
		err = tried.Close()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errNotReached, err)
	}
	e.mu.Lock()
	if e.opening == nil && e.failed == nil {
		e.failed, e.nextTry = errReopen, time.Time{}
	}
	e.mu.Unlock()
	_, err = e.open(o, startingTime)
	return err
}

// announce tells the nodes that share the store the common part of this configuration, and
// warns if theirs differ.
func (e *engine) announce(o storeOptions) {
	e.mu.Lock()
	opened := e.opened.Store
	e.mu.Unlock()
	listed, ok := opened.(interface{ Describe(string) error })
	if !ok {
		return
	}
	if err := listed.Describe(o.common()); err != nil {
		o.log.Warn("the other nodes do not know yet how this one is configured", "error", err)
	}
	e.compareNodes(o, opened)
}

// compareNodes warns of nodes that are configured differently from this one, once for
// each difference. doctor reports it for as long as it lasts.
func (e *engine) compareNodes(o storeOptions, opened store.Store) {
	shared, ok := opened.(store.Shared)
	if !ok || o.common == nil {
		return
	}
	nodes, err := shared.Nodes()
	if err != nil {
		return // what needs the database says so
	}
	own := wire.ParseCommonConfiguration(o.common())
	var found []string
	for _, n := range nodes {
		if differs := own.Differs(wire.ParseCommonConfiguration(n.Configuration)); n.Live && n.Name != shared.Node() && len(differs) > 0 {
			found = append(found, n.Name+": "+strings.Join(differs, ", "))
		}
	}
	text := strings.Join(found, "; ")
	e.mu.Lock()
	known := e.differs == text
	e.differs = text
	e.mu.Unlock()
	if !known && text != "" {
		o.log.Warn("nodes are configured differently from this one: give all of them the same configuration, and reload them", "differ", text)
	}
}
