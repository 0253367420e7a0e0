package storetest

import (
	"cmp"
	"errors"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

// Cluster is a simulated database that several nodes share: what they commit, the
// locks they wait for, their sessions, and what they tell each other. A test decides
// what goes wrong with it.
//
// Its time is the time that passes, which is the bubble's in a bubble of
// testing/synctest, plus what Advance adds.
type Cluster struct {
	mu      sync.Mutex
	began   time.Time
	added   time.Duration
	changed chan struct{} // is closed and replaced when a wait may be over

	rows    table
	feed    []entry  // all that nodes follow, in the order of commits
	former  []moment // the last states, oldest first
	commits int

	all   latch // held by every transaction
	locks map[string]*latch
	open  map[*transaction]struct{}

	sessions map[string]*clusterNode // the last of each name
	outlived map[string]*clusterNode // live processes whose name another has taken, or nobody has
	skews    map[string]time.Duration
	leader   *clusterNode

	failovers int // that have lost something
	repairs   int
	stays     *formerServer // after a failover; nil: it has ended

	down     bool
	doubt    error // the database has lost commits that nodes know of
	deaf     bool  // recalls are lost
	flaw     Flaw
	rehearse bool
	fault    func(node string) Outcome
}

// entry is what one Update has told the other nodes.
type entry struct {
	node string
	keys [][]byte
	at   time.Duration
}

// moment is a state that a failover may go back to.
type moment struct {
	rows table
	head int
}

// mostLost is how many commits a failover can lose.
const mostLost = 64

// How long nodes and the database wait for each other, as the real store does.
const (
	freshFor      = 7 * time.Second  // since the last contact
	sessionFor    = 10 * time.Second // since the last contact
	heartbeat     = 3 * time.Second  // finds commits that no notification has reported
	lockPatience  = 6 * time.Second
	idlePatience  = time.Second // with a transaction that its client does not go on with
	followRetries = time.Second // between two attempts to follow
)

// Outcome is what becomes of a commit.
type Outcome int

// The outcomes.
const (
	// Committed is a commit like any other.
	Committed Outcome = iota
	// Refused leaves nothing; the next commit may succeed.
	Refused
	// CutCommitted cuts the node off after its commit has taken effect. The node
	// learns that once it is connected again.
	CutCommitted
	// CutRefused cuts the node off before its commit has taken effect. The node
	// learns that once it is connected again.
	CutRefused
)

// Flaw is a check that a simulated database, or a node of it, leaves out, so that a test
// can show that the check is missed.
type Flaw int

// The flaws.
const (
	// Sound leaves nothing out.
	Sound Flaw = iota
	// Impostors lets a process go on whose name another has taken.
	Impostors
	// Timeless lets a node go on that has had no contact for too long.
	Timeless
	// Deaf lets no node hear what another asks back.
	Deaf
	// Reticent lets no node hear that it has lost touch for good after it has lost touch.
	Reticent
	// Lingering lets a node write to the former server after its session has left it.
	Lingering
	// Outdated lets a node read from the former server after its session has left it.
	Outdated
	// Misplaced lets a node that finds commits missing tell no other.
	Misplaced
)

// Errors of a node that is no more.
var (
	errKilled = errors.New("this process was killed")
	errTaken  = errors.New("another process has taken this node's name")
)

// NewCluster returns an empty store.
func NewCluster() *Cluster {
	return &Cluster{
		began: time.Now(), changed: make(chan struct{}), locks: make(map[string]*latch), open: make(map[*transaction]struct{}),
		sessions: make(map[string]*clusterNode), outlived: make(map[string]*clusterNode), skews: make(map[string]time.Duration),
	}
}

// wakeAll lets everybody who waits look again. It is called with the lock held.
func (c *Cluster) wakeAll() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// forever is a moment that never comes.
const forever = time.Duration(math.MaxInt64)

// wait waits until a condition holds. It looks at the condition whenever something has
// changed, and at the latest when the condition says.
func (c *Cluster) wait(over func() (over bool, next time.Duration)) {
	for {
		is, next := over()
		if is {
			return
		}
		changed := c.changed
		var late <-chan time.Time
		var timer *time.Timer
		if next != forever {
			timer = time.NewTimer(next - c.elapsed() + 1)
			late = timer.C
		}
		c.mu.Unlock()
		select {
		case <-changed:
		case <-late:
		}
		if timer != nil {
			timer.Stop()
		}
		c.mu.Lock()
	}
}

func (c *Cluster) elapsed() time.Duration { return time.Since(c.began) + c.added }

// do runs a change of the cluster that a test makes.
func (c *Cluster) do(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	c.wakeAll()
}

// names are the names of the nodes that have joined.
func (c *Cluster) names() []string { return slices.Sorted(maps.Keys(c.sessions)) }

// of does something to the node that has a name at present, or to the process that had it
// when it was taken off the list.
func (c *Cluster) of(node string, do func(n *clusterNode)) {
	c.do(func() {
		if n := cmp.Or(c.sessions[node], c.outlived[node]); n != nil {
			do(n)
		}
	})
}

// Advance lets time pass at once, on all nodes and in the database. A node that was just
// following what others have done has had no time for it, so it is not late for that.
func (c *Cluster) Advance(d time.Duration) {
	c.do(func() {
		for _, n := range c.sessions {
			if _, stands := n.sure(); n.online && stands {
				n.leapt += d
			}
		}
		c.added += d
	})
}

// Skew sets how far a node's clock is ahead of the database's.
func (c *Cluster) Skew(node string, d time.Duration) { c.do(func() { c.skews[node] = d }) }

// Inject lets fn decide about each commit that writes something, from now on. It may
// block, and so hold the commit up, with its locks held. Nil ends it.
func (c *Cluster) Inject(fn func(node string) Outcome) { c.do(func() { c.fault = fn }) }

// Plant leaves a check out from now on.
func (c *Cluster) Plant(f Flaw) { c.do(func() { c.flaw = f }) }

// Rehearse lets every transaction run twice from now on, and keeps what the second
// run did.
func (c *Cluster) Rehearse() { c.do(func() { c.rehearse = true }) }

// Cut takes a node's network away, until Heal.
func (c *Cluster) Cut(node string) { c.of(node, (*clusterNode).disconnect) }

// Heal gives a node its network back.
func (c *Cluster) Heal(node string) { c.of(node, func(n *clusterNode) { n.cut = false }) }

// Pause stops a node's process as SIGSTOP does, until Resume: nothing in it that touches
// the store goes on. A test must not make calls that would run on it meanwhile.
func (c *Cluster) Pause(node string) {
	c.of(node, func(n *clusterNode) {
		n.leave()
		n.paused = true
	})
}

// Resume lets a node's process go on.
func (c *Cluster) Resume(node string) { c.of(node, func(n *clusterNode) { n.paused = false }) }

// ResumeOutlived lets the process go on that had a node's name before, if it lives.
func (c *Cluster) ResumeOutlived(node string) {
	c.do(func() {
		if n := c.outlived[node]; n != nil {
			n.paused = false
		}
	})
}

// Kill ends a node's process, whose connections are closed. Its session lapses. Its
// name may join again.
func (c *Cluster) Kill(node string) { c.of(node, (*clusterNode).kill) }

// KillOutlived ends the process that had a node's name before, if it lives.
func (c *Cluster) KillOutlived(node string) {
	c.do(func() {
		if n := c.outlived[node]; n != nil {
			n.kill()
			delete(c.outlived, node)
		}
	})
}

// Lose lets a node hear of commits only by its heartbeat, as when notifications are
// lost, or late.
func (c *Cluster) Lose(node string, lost bool) { c.of(node, func(n *clusterNode) { n.quiet = lost }) }

// LoseRecalls lets recalls be lost.
func (c *Cluster) LoseRecalls(lost bool) { c.do(func() { c.deaf = lost }) }

// Stop takes the database down, as all nodes see it, until Start. Uncommitted changes
// are gone.
func (c *Cluster) Stop() { c.do(func() { c.stop() }) }

func (c *Cluster) stop() {
	for _, n := range c.sessions {
		n.leave()
	}
	c.down, c.leader = true, nil
	c.abort(nil, store.ErrUnavailable)
}

// Start ends Stop.
func (c *Cluster) Start() { c.do(func() { c.down = false }) }

// Restart takes the database down and up again at once.
func (c *Cluster) Restart() {
	c.do(func() {
		c.stop()
		c.down = false
	})
}

// Failover puts a standby that lacks the last commits in the database's place, and
// returns how many it lacks. If it lacks any, everything is refused until Reset.
func (c *Cluster) Failover(lost int) int {
	lost = max(0, lost)
	c.do(func() {
		c.stop()
		c.down = false
		if lost = min(lost, len(c.former)); lost == 0 {
			return
		}
		at := len(c.former) - lost
		c.rows, c.feed = c.former[at].rows, c.feed[:c.former[at].head]
		c.former = c.former[:at]
		c.failovers++
		c.doubt = store.Doubt("the database lacks %d commits", lost)
	})
	return lost
}

// Reset lets the nodes take the database as it is, as an operator may decide. Those
// that have joined have missed everything.
func (c *Cluster) Reset() {
	c.do(func() {
		c.doubt = nil
		for _, n := range c.sessions {
			n.heard = nil
			n.miss(c.elapsed())
		}
	})
}

// View reads what is committed, whatever is wrong.
func (c *Cluster) View(fn func(store.Reader) error) error {
	c.mu.Lock()
	rows := c.rows
	c.mu.Unlock()
	return fn(rows)
}

// Commits counts the commits that wrote something.
func (c *Cluster) Commits() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.commits
}

// Connected reports whether a node has contact to the database.
func (c *Cluster) Connected(node string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.sessions[node]
	return n != nil && n.online
}

// Reaches reports whether a node's process can reach the database.
func (c *Cluster) Reaches(node string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := cmp.Or(c.sessions[node], c.outlived[node])
	return n != nil && n.reachable()
}

// Silence is how long a node has had no contact to the database.
func (c *Cluster) Silence(node string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.sessions[node]; n != nil && !n.online {
		return c.elapsed() - n.contact
	}
	return 0
}

// commit takes over a transaction's changes.
func (c *Cluster) commit(t *transaction) {
	if c.former = append(c.former, moment{c.rows, len(c.feed)}); len(c.former) > mostLost {
		c.former = slices.Delete(c.former, 0, 1)
	}
	c.commits++
	c.rows = c.rows.with(t.changes)
	if len(t.tells) > 0 {
		c.feed = append(c.feed, entry{t.node.name, t.tells, c.elapsed()})
	}
}

// Clock is the clock of a node's machine.
func (c *Cluster) Clock(node string) *NodeClock { return &NodeClock{c, node} }

// NodeClock is the clock of a node's machine: that of the database, but for its skew.
type NodeClock struct {
	c    *Cluster
	node string
}

// clusterEpoch is what the database's clock shows at first.
var clusterEpoch = time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)

// Now returns the time that the clock shows, and the time since the cluster was made.
func (k *NodeClock) Now() (time.Time, time.Duration) {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	elapsed := k.c.elapsed()
	return clusterEpoch.Add(elapsed + k.c.skews[k.node]), elapsed
}
