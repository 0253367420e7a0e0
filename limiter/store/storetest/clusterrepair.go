package storetest

import "github.com/till-proxy/till/limiter/store"

// Repair is a simulated database that has lost commits, as an operator repairs it. No node
// uses it meanwhile.
type Repair struct{ n *clusterNode }

// Repair begins a repair, which no node follows: all begin again after it. The database
// must have lost something.
func (c *Cluster) Repair() *Repair { return &Repair{&clusterNode{c: c, follower: store.Bystander{}}} }

// Why says what was lost.
func (r *Repair) Why() string { return r.n.c.doubt.Error() }

// View implements store.Store.
func (r *Repair) View(fn func(store.Reader) error) error { return r.n.c.View(fn) }

// Update implements store.Store.
func (r *Repair) Update(fn func(store.Tx) error) error { return r.update(fn, func() {}) }

// Finish is the last Update. It ends the doubt, and the sessions of all nodes: those that
// live have to be opened again.
func (r *Repair) Finish(fn func(store.Tx) error) error {
	c := r.n.c
	return r.update(fn, func() {
		for _, n := range c.sessions {
			n.leave()
			n.left = true
		}
		c.doubt, c.leader = nil, nil
		c.repairs++
	})
}

func (r *Repair) update(fn func(store.Tx) error, done func()) error {
	c := r.n.c
	t := &transaction{node: r.n, exclusive: true, overlay: overlay{changes: make(map[string]change)}}
	c.mu.Lock()
	t.base = c.rows
	c.mu.Unlock()
	if err := fn(t); err != nil {
		return err
	}
	c.do(func() {
		c.commit(t)
		done()
	})
	return nil
}

// Close implements store.Store.
func (r *Repair) Close() error { return nil }

// Interface guards
var _ store.Store = (*Repair)(nil)
