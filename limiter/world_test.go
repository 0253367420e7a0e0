package limiter_test

import (
	"cmp"
	"context"
	"flag"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/event"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
	"github.com/till-proxy/till/token"
)

// patience is how long tests wait for a store: a machine may be busy. It decides
// nothing but how a hang is reported.
const patience = 5 * time.Minute

// fakeClock stands still until it is moved, or runs with the time of a synctest bubble.
type fakeClock struct {
	mu     sync.Mutex
	now    time.Time
	steady time.Duration
	runs   time.Time // since when it runs with the bubble's time
}

func newClock() *fakeClock {
	return &fakeClock{now: time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)}
}

func (c *fakeClock) Now() (time.Time, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.runs.IsZero() {
		return c.now, c.steady
	}
	ran := time.Since(c.runs)
	return c.now.Add(ran), c.steady + ran
}

// run lets the clock run with the time of the bubble that the test is in.
func (c *fakeClock) run() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.runs = time.Now()
}

// time is what the clock tells.
func (c *fakeClock) time() time.Time {
	now, _ := c.Now()
	return now
}

// advance lets time pass.
func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now, c.steady = c.now.Add(d), c.steady+d
}

// set lets the clock tell another time, without any having passed.
func (c *fakeClock) set(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// world is a limiter with everything a test needs around it.
type world struct {
	*limiter.Limiter
	t       testing.TB
	clock   *fakeClock      // nil: the system's
	disk    *storetest.Disk // nil on Badger
	dir     string
	shadow  string
	anchor  string
	files   store.Disk // nil: real ones
	roles   map[string]record.Role
	hooks   []event.Hook
	posted  func()
	observe limiter.Observer

	lockdown *limiter.Lockdown // nil: none

	cluster *storetest.Cluster // of which this is a node; nil: it is alone
	node    string
	after   *limiter.Limiter // whose requests it takes over, once its store was repaired; nil: none

	turnBytes int64        // 0: any
	exiting   func() bool  // nil: it does not
	log       *slog.Logger // nil: none
}

// newWorld opens a limiter on a simulated disk.
func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, clock: newClock(), disk: storetest.NewDisk(), dir: memoryDir(t)}
	w.shadow, w.anchor = filepath.Join(w.dir, "shadow"), filepath.Join(w.dir, "anchor")
	w.open(w.disk.Open())
	t.Cleanup(func() { w.Abandon() })
	return w
}

// newMachine opens a limiter on a machine that is simulated as a whole.
func newMachine(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, clock: newClock(), disk: storetest.NewDisk(), shadow: "shadow", anchor: "anchor"}
	w.files = w.disk.Files()
	w.open(w.disk.Open())
	t.Cleanup(func() { w.Abandon() })
	return w
}

// memoryDir is a directory for the files beside a simulated disk. What they
// survive is simulated, too, so none of them needs to reach a real one.
func memoryDir(t testing.TB) string {
	t.Helper()
	shared := cmp.Or(os.Getenv("TILL_TEST_MEMORY"), "/dev/shm") // a container may have 64 MB there
	if free, err := limiter.FreeSpace(shared); err != nil || free < 1<<30 {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(shared, "till")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fewSlots are real files, with room for a thousand slots of the shadow: a start
// reads and clears all of them, which takes long under the race detector.
type fewSlots struct{ store.Files }

func (d fewSlots) Map(path string, size int) (store.Mapping, error) {
	return d.Files.Map(path, min(size, 128<<10))
}

// beside is the disk of the files beside the store. Beside a real one they are as
// large as they ever are.
func (w *world) beside() store.Disk {
	switch {
	case w.files != nil:
		return w.files
	case w.disk != nil:
		return fewSlots{}
	}
	return store.Files{}
}

// newBadgerWorld opens a limiter on a real Badger directory.
func newBadgerWorld(t testing.TB) *world {
	t.Helper()
	return newBadgerWorldBy(t, newClock())
}

// newBadgerWorldWithSystemClock is for measuring.
func newBadgerWorldWithSystemClock(t testing.TB) *world {
	t.Helper()
	return newBadgerWorldBy(t, nil)
}

func newBadgerWorldBy(t testing.TB, clock *fakeClock) *world {
	t.Helper()
	w := &world{t: t, clock: clock, dir: t.TempDir()}
	w.shadow, w.anchor = filepath.Join(w.dir, "shadow"), filepath.Join(w.dir, "anchor")
	w.reopenBadger()
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) reopenBadger() {
	w.t.Helper()
	s, err := store.OpenBadger(filepath.Join(w.dir, "badger"), discard)
	if err != nil {
		w.t.Fatal(err)
	}
	s.(*store.Badger).ClosePatience = patience
	w.open(s)
}

func (w *world) options(s store.Store) limiter.Options {
	o := limiter.Options{Patience: patience, Store: s, Shadow: w.shadow, Anchor: w.anchor, Disk: w.beside(), Roles: w.roles, Hooks: w.hooks, Posted: w.posted, Observe: w.observe, Lockdown: w.lockdown, TurnBytes: w.turnBytes, Exiting: w.exiting, Logger: w.log, After: w.after, Repaired: w.after != nil}
	switch {
	case w.cluster != nil:
		o.Clock = w.cluster.Clock(w.node)
	case w.clock != nil: // nothing is measured
		o.Clock, o.Store = w.clock, rehearsed{s}
	}
	return o
}

func (w *world) open(s store.Store) {
	w.t.Helper()
	l, err := limiter.Open(w.options(s))
	if err != nil {
		w.t.Fatal(err)
	}
	w.Limiter = l
}

// succeed closes the limiter, which has failed, and opens another that comes after it.
// What between does happens when neither is open.
func (w *world) succeed(between func()) error {
	w.t.Helper()
	former := w.Limiter
	if err := former.Close(); err == nil {
		w.t.Fatal("a failed limiter closes as if nothing had happened")
	}
	if between != nil {
		between()
	}
	if w.cluster != nil {
		return w.follow(former, w.cluster.Node(w.node))
	}
	return w.follow(former, w.disk.Open())
}

// follow opens a limiter that comes after one that is closed.
func (w *world) follow(former *limiter.Limiter, s store.Store) error {
	w.t.Helper()
	o := w.options(s)
	o.After = former
	l, err := limiter.Open(o)
	if err != nil {
		former.StillFailed(err)
		return err
	}
	w.Limiter = l
	return nil
}

// kill leaves the limiter as kill -9 would and opens another on what the disk
// and the page cache hold at this moment; without the page cache when the
// power went too.
func (w *world) kill(powerToo bool) {
	w.t.Helper()
	if w.files != nil {
		w.Abandon()
		w.boot(powerToo)
		w.open(w.disk.Open())
		return
	}
	// The committer may be at work. A slot of the shadow is taken before its
	// block is committed and released after it was given back, so with the
	// shadow first the two are as they could be at one moment.
	page, err := os.ReadFile(w.shadow)
	if err != nil {
		w.t.Fatal(err)
	}
	var disk *storetest.Disk
	var anchor []byte
	for again := true; again; { // until no commit came between
		commits := w.disk.Commits()
		if anchor, err = os.ReadFile(w.anchor); err != nil {
			w.t.Fatal(err)
		}
		disk = w.disk.Snapshot()
		again = w.disk.Commits() != commits
	}
	w.Abandon()
	if err := os.WriteFile(w.anchor, anchor, 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.disk = disk
	w.shadow += "'"
	if !powerToo {
		if err := os.WriteFile(w.shadow, page, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	w.open(disk.Open())
}

// boot gives a simulated machine, whose process was killed, what its disk has kept.
func (w *world) boot(powerToo bool) {
	w.disk = w.disk.Restarted(powerToo, func() bool { return true })
	w.files = w.disk.Files()
}

// restart closes the limiter cleanly and opens it again.
func (w *world) restart() {
	w.t.Helper()
	if err := w.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.open(w.disk.Open())
}

// key is a minted key, as its holder sees it.
type key struct {
	w      *world
	id     string
	lookup token.Lookup
}

// mint makes a key; fn says what is special about it.
func (w *world) mint(fn func(*record.Key)) *key {
	w.t.Helper()
	return w.mintBy(limiter.Operator, fn)
}

func (w *world) mintBy(by limiter.Caller, fn func(*record.Key)) *key {
	w.t.Helper()
	spec := &record.Key{Upstream: "openai", Custody: "held", Limit: record.NoLimits(), SelfRevoke: true}
	fn(spec)
	k, err := w.tryMint(by, spec)
	if err != nil {
		w.t.Fatal(err)
	}
	return k
}

func (w *world) tryMint(by limiter.Caller, spec *record.Key) (*key, error) {
	_, lookup, err := token.MintKey()
	if err != nil {
		return nil, err
	}
	view, err := w.Mint(by, spec, limiter.Birth{Lookup: lookup, Unlimited: true})
	return &key{w: w, id: view.ID, lookup: lookup}, err
}

// MintMany mints n keys, as many at a time as a busy server would.
func (w *world) MintMany(n int, fn func(i int, k *record.Key)) []*key {
	w.t.Helper()
	keys := make([]*key, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				keys[i] = w.mint(func(k *record.Key) { fn(i, k) })
			}
		})
	}
	wg.Wait()
	return keys
}

func activations(n int64) func(*record.Key) {
	return func(k *record.Key) { k.Limit[record.Activations] = n }
}

// ask asks for one request: the grant, or the refusal.
func (k *key) ask(opts ...func(*limiter.Ask)) (*limiter.Grant, *record.Refusal) {
	k.w.t.Helper()
	a := limiter.Ask{
		Bound:  record.Amounts{record.Activations: 1},
		Method: "POST", Path: "/v1/chat/completions", Addr: netip.MustParseAddr("192.0.2.1"),
	}
	for _, opt := range opts {
		opt(&a)
	}
	live, refusal := k.w.Find(context.Background(), k.lookup)
	if refusal != nil {
		return nil, refusal
	}
	g := new(limiter.Grant)
	if refusal := live.Reserve(context.Background(), &a, g); refusal != nil {
		return nil, refusal
	}
	return g, nil
}

// use forwards one request, or returns the code it was refused with.
func (k *key) use(opts ...func(*limiter.Ask)) record.Code {
	k.w.t.Helper()
	g, refusal := k.ask(opts...)
	if refusal != nil {
		return refusal.Code
	}
	g.Settle(record.Amounts{record.Activations: 1})
	return ""
}

// drain uses the key until it is refused and returns how often it worked.
func (k *key) drain(want record.Code) (n int64) {
	k.w.t.Helper()
	for {
		switch code := k.use(); code {
		case "":
			n++
		case want:
			return n
		default:
			k.w.t.Fatalf("after %d requests: refused with %s, want %s", n, code, want)
		}
	}
}

func (k *key) view() limiter.View {
	k.w.t.Helper()
	v, err := k.w.Get(limiter.Operator, k.id)
	if err != nil {
		k.w.t.Fatal(err)
	}
	return v
}

func (k *key) revoke() {
	k.w.t.Helper()
	if _, _, err := k.w.Revoke(context.Background(), limiter.Operator, k.id, ""); err != nil {
		k.w.t.Fatal(err)
	}
}

func from(addr string) func(*limiter.Ask) {
	return func(a *limiter.Ask) { a.Addr = netip.MustParseAddr(addr) }
}

func bound(k record.Kind, n int64) func(*limiter.Ask) {
	return func(a *limiter.Ask) { a.Bound[k] = n }
}

func free(a *limiter.Ask) { a.Free = true }

func listens(a *limiter.Ask) { a.Listens = true }

// Schedules that rapid tries: more of them with -rapid.checks, and far more
// through TestSimulation.
func init() {
	if err := flag.Set("rapid.checks", "40"); err != nil {
		panic(err)
	}
}
