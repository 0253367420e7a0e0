package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

// followed is the beginning of the rows that the nodes of a test follow.
const followed = "f/"

// follower is a node's memory in a test. It only writes down what it is told.
type follower struct {
	mu       sync.Mutex
	changed  []string
	recalled []string
	missed   int
	fails    int           // how many more calls of Changed and Missed fail
	hold     chan struct{} // Changed waits for it; nil: it does not
	news     chan struct{} // is closed and replaced at each call that the follower notes
}

func newFollower() *follower { return &follower{news: make(chan struct{})} }

// wakeAll lets everybody who waits look again. It is called with the lock held.
func (f *follower) wakeAll() {
	close(f.news)
	f.news = make(chan struct{})
}

var errNotFollowed = errors.New("could not follow")

// Follows implements store.Follower.
func (f *follower) Follows(key []byte) bool { return bytes.HasPrefix(key, []byte(followed)) }

// Changed implements store.Follower.
func (f *follower) Changed(keys [][]byte) error {
	f.mu.Lock()
	hold := f.hold
	f.mu.Unlock()
	if hold != nil {
		<-hold
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.wakeAll()
	if f.fails > 0 {
		f.fails--
		return errNotFollowed
	}
	for _, key := range keys {
		f.changed = append(f.changed, string(key))
	}
	return nil
}

// Missed implements store.Follower.
func (f *follower) Missed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.wakeAll()
	if f.fails > 0 {
		f.fails--
		return errNotFollowed
	}
	f.missed++
	return nil
}

// Recalled implements store.Follower.
func (f *follower) Recalled(account []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.wakeAll()
	f.recalled = append(f.recalled, string(account))
}

// Stale implements store.Follower.
func (f *follower) Stale(error) {}

// hang lets Changed wait until release.
func (f *follower) hang() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hold = make(chan struct{})
}

func (f *follower) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hold != nil {
		close(f.hold)
		f.hold = nil
	}
}

// await waits until a condition holds.
func (f *follower) await(t *testing.T, what string, came func() bool) {
	t.Helper()
	late := time.After(sharedPatience)
	for {
		f.mu.Lock()
		over, news := came(), f.news
		f.mu.Unlock()
		if over {
			return
		}
		select {
		case <-news:
		case <-late:
			f.mu.Lock()
			defer f.mu.Unlock()
			t.Fatalf("%s does not come: changed %q, recalled %q, missed %d times", what, f.changed, f.recalled, f.missed)
		}
	}
}

// awaitChanged waits until n rows have changed, and returns them.
func (f *follower) awaitChanged(t *testing.T, n int) []string {
	t.Helper()
	f.await(t, fmt.Sprintf("a change of %d rows", n), func() bool { return len(f.changed) >= n })
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.changed)
}

// eventually waits for a state of the store that nothing announces.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(sharedPatience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: it never comes", what)
		}
	}
}

func feedOrder(c *nodes) {
	stores := []store.Shared{c.join("a"), c.join("b"), c.join("c")}
	const each = 10
	c.beside(each, stores[:2], func(s store.Shared, _, _ int) error {
		return s.Update(func(tx store.Tx) error {
			if err := add(tx, "k/n", 1); err != nil {
				return err
			}
			n, err := number(tx, "k/n")
			if err != nil {
				return err
			}
			return tx.Set(fmt.Appendf(nil, "%s%03d", followed, n), []byte(s.Node()))
		})
	})
	by := make(map[string]string) // the node that wrote a row
	for _, row := range scan(c.t, stores[2], followed, nil, false, -1) {
		by[row[:len(followed)+3]] = row[len(row)-1:]
	}
	for _, s := range stores {
		var expected []string
		for n := range 4 * each {
			if key := fmt.Sprintf("%s%03d", followed, n+1); by[key] != s.Node() {
				expected = append(expected, key)
			}
		}
		if got := c.followers[s.Node()].awaitChanged(c.t, len(expected)); !slices.Equal(got, expected) {
			c.t.Errorf("node %s was told of %q, want %q", s.Node(), got, expected)
		}
	}
}

func feedContent(c *nodes) {
	a, _ := c.join("a"), c.join("b")
	boom := errors.New("boom")
	for _, fails := range []error{boom, nil} {
		err := again(func() error {
			return a.Update(func(tx store.Tx) error {
				return errors.Join(tx.Set([]byte("k/1"), nil), tx.Set([]byte(followed+"1"), []byte("1")), fails)
			})
		})
		if !errors.Is(err, fails) {
			c.t.Fatal(err)
		}
	}
	check(c.t, again(func() error {
		return a.UpdateRows(store.Rows{Lock: rows("k/1")}, func(tx store.Tx) error { return tx.Set([]byte("k/1"), []byte("2")) })
	}))
	check(c.t, again(func() error { return a.Update(func(tx store.Tx) error { return tx.Delete([]byte(followed + "1")) }) }))
	set(c.t, a, "k/3", "")
	set(c.t, a, followed+"last", "")
	want := []string{followed + "1", followed + "1", followed + "last"}
	if got := c.followers["b"].awaitChanged(c.t, len(want)); !slices.Equal(got, want) {
		c.t.Errorf("told %q, want %q", got, want)
	}
}

func failedChange(c *nodes) {
	a, b := c.join("a"), c.join("b")
	f := c.followers["b"]
	f.mu.Lock()
	f.fails = 2
	missed := f.missed
	f.mu.Unlock()
	set(c.t, a, followed+"1", "")
	f.await(c.t, "Missed", func() bool { return f.fails == 0 && f.missed > missed })
	c.becomesFresh(b) // it has read everything again
	behind, err := a.Settled(sharedPatience)
	if err != nil || len(behind) != 0 {
		c.t.Errorf("Settled: %q behind, %v", behind, err)
	}
	set(c.t, a, followed+"2", "")
	if got := f.awaitChanged(c.t, 1); !slices.Equal(got, []string{followed + "2"}) {
		c.t.Errorf("then told %q", got)
	}
}

func settled(c *nodes) {
	a, _, _ := c.join("a"), c.join("b"), c.join("c")
	if behind, err := a.Settled(sharedPatience); err != nil || len(behind) != 0 {
		c.t.Errorf("before anything was written: %q behind, %v", behind, err)
	}
	f := c.followers["b"]
	f.hang()
	set(c.t, a, followed+"1", "")
	c.followers["c"].awaitChanged(c.t, 1)
	eventually(c.t, "only the node whose follower hangs is behind", func() bool {
		behind := c.behind(a)
		if !slices.Contains(behind, "b") {
			c.t.Fatalf("%q are behind, and b has not followed", behind)
		}
		return len(behind) == 1
	})
	time.AfterFunc(20*time.Millisecond, f.release)
	behind, err := a.Settled(sharedPatience)
	if err != nil || len(behind) != 0 {
		c.t.Errorf("%q are behind, %v", behind, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.changed) != 1 {
		c.t.Error("Settled has not waited")
	}
}

// behind is what Settled finds while a follower hangs: it waits for no longer than a busy
// database needs to answer.
func (c *nodes) behind(s store.Shared) []string {
	c.t.Helper()
	for patience := 50 * time.Millisecond; ; patience *= 2 {
		behind, err := s.Settled(patience)
		if !errors.Is(err, store.ErrUnavailable) || patience > sharedPatience {
			check(c.t, err)
			return behind
		}
	}
}

func settledOfOthers(c *nodes) {
	a, b := c.join("a"), c.join("b")
	f := c.followers["a"]
	f.hang()
	set(c.t, b, followed+"1", "")
	if behind := c.behind(b); !slices.Equal(behind, []string{"a"}) {
		c.t.Errorf("the node that has written it finds %q behind", behind)
	}
	set(c.t, a, followed+"2", "")
	if behind, err := a.Settled(sharedPatience); err != nil || len(behind) != 0 {
		c.t.Errorf("the node that has not followed another finds %q behind, %v", behind, err)
	}
	f.release()
}

func settledWithoutLeft(c *nodes) {
	a, b := c.join("a"), c.join("b")
	c.leave(b)
	set(c.t, a, followed+"1", "")
	if behind, err := a.Settled(sharedPatience); err != nil || len(behind) != 0 {
		c.t.Errorf("%q are behind, %v", behind, err)
	}
	if got := c.followers["b"].changed; len(got) != 0 {
		c.t.Errorf("a node that has left is told of %q", got)
	}
}

func recall(c *nodes) {
	a, _, _ := c.join("a"), c.join("b"), c.join("c")
	account := []byte("an\x00account\xff")
	for _, node := range []string{"b", "c"} {
		f := c.followers[node]
		eventually(c.t, "a recall", func() bool { // each may be lost
			a.Recall(account)
			f.mu.Lock()
			defer f.mu.Unlock()
			return len(f.recalled) > 0
		})
		f.mu.Lock()
		if f.recalled[0] != string(account) {
			c.t.Errorf("%q is recalled, want %q", f.recalled[0], account)
		}
		f.mu.Unlock()
	}
	f := c.followers["a"]
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.recalled) != 0 {
		c.t.Error("a node recalls its own reserve")
	}
}

func leader(c *nodes) {
	stores := []store.Shared{c.join("a"), c.join("b"), c.join("c")}
	for len(stores) > 0 {
		led := -1
		eventually(c.t, "a leader that a list names alone", func() bool { // a machine that stood still has another one
			if led = slices.IndexFunc(stores, store.Shared.Leads); led < 0 {
				return false
			}
			var nodes []store.Node
			check(c.t, again(func() (err error) {
				nodes, err = stores[led].Nodes()
				return err
			}))
			return !slices.ContainsFunc(nodes, func(n store.Node) bool { return n.Leads != (n.Name == stores[led].Node()) })
		})
		for i, s := range stores {
			if i != led && s.Leads() && stores[led].Leads() {
				c.t.Errorf("%s and %s lead", s.Node(), stores[led].Node())
			}
		}
		c.leave(stores[led])
		stores = slices.Delete(stores, led, led+1)
	}
}

func fresh(c *nodes) {
	for _, node := range []string{"a", "b"} {
		c.joinFresh(node)
	}
}

// joinFresh joins a node, and fails unless it is fresh then. If the machine stood still
// meanwhile, the node may have lost touch, until it hears of the others again.
func (c *nodes) joinFresh(node string) store.Shared {
	c.t.Helper()
	began := time.Now()
	s := c.join(node)
	if err := s.Fresh(); err != nil && time.Since(began) < freshFor {
		c.t.Errorf("node %s has joined, and is not fresh: %v", node, err)
	}
	c.becomesFresh(s)
	return s
}

// becomesFresh waits until a node is in touch.
func (c *nodes) becomesFresh(s store.Shared) {
	c.t.Helper()
	eventually(c.t, "node "+s.Node()+" is fresh", func() bool { return s.Fresh() == nil })
}

func listed(c *nodes) {
	a, b := c.join("a"), c.join("b")
	live := func() map[string]bool {
		var nodes []store.Node
		check(c.t, again(func() (err error) {
			nodes, err = a.Nodes()
			return err
		}))
		state := make(map[string]bool)
		for _, n := range nodes {
			state[n.Name] = n.Live
			if n.Started.IsZero() || n.Seen.Before(n.Started) {
				c.t.Errorf("node %s started at %v and was seen at %v", n.Name, n.Started, n.Seen)
			}
		}
		return state
	}
	eventually(c.t, "a list of two that live", func() bool { // a machine that stood still has ended their sessions
		got := live()
		return len(got) == 2 && got["a"] && got["b"]
	})
	c.leave(b)
	if got := live(); got["b"] {
		c.t.Errorf("live are %v, want a alone", got)
	}
	eventually(c.t, "a list in which a lives", func() bool { return live()["a"] })
}

func rejoin(c *nodes) {
	a, b := c.join("a"), c.join("b")
	set(c.t, a, followed+"1", "")
	c.followers["b"].awaitChanged(c.t, 1)
	c.leave(b)
	set(c.t, a, followed+"2", "")
	b = c.joinFresh("b")
	set(c.t, a, followed+"3", "")
	if got := c.followers["b"].awaitChanged(c.t, 1); got[len(got)-1] != followed+"3" {
		c.t.Errorf("told %q, want what was written since it came back", got)
	}
	want(c.t, b, followed+"2", "")
}

func oneName(c *nodes) {
	a, first := c.join("a"), c.join("b")
	set(c.t, first, followed+"1", "first")
	second := c.open(c.t, "b")
	joined := make(chan error, 1)
	go func() { joined <- second.Join(newFollower()) }()
	select {
	case err := <-joined:
		c.t.Errorf("two have one name: %v", err)
	case <-time.After(50 * time.Millisecond):
		set(c.t, first, followed+"2", "first") // it still may
	}
	c.leave(first)
	select {
	case err := <-joined:
		check(c.t, err)
	case <-time.After(sharedPatience):
		c.t.Fatal("the name is never free")
	}
	c.joined = append(c.joined, second)
	set(c.t, second, followed+"3", "second")
	if got := c.followers["a"].awaitChanged(c.t, 3); !slices.Equal(got, []string{followed + "1", followed + "2", followed + "3"}) {
		c.t.Errorf("told %q", got)
	}
	c.becomesFresh(a)
}
