package limiter_test

import (
	"bytes"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
	"github.com/till-proxy/till/token"
)

// single is the store of one server, in a directory of its own.
type single struct {
	t   *testing.T
	dir string
}

func (s single) open() store.Store {
	s.t.Helper()
	opened, err := store.OpenBadger(filepath.Join(s.dir, "store"), slog.New(slog.DiscardHandler))
	if err != nil {
		s.t.Fatal(err)
	}
	opened.(*store.Badger).ClosePatience = patience
	return opened
}

func (s single) anchor() string { return filepath.Join(s.dir, "store", "anchor") }

func (s single) serve() *limiter.Limiter { return s.serveBy(commit.SystemClock{}) }

func (s single) serveBy(clock commit.Clock) *limiter.Limiter {
	s.t.Helper()
	l, err := limiter.Open(limiter.Options{Patience: patience, Store: s.open(), Shadow: filepath.Join(s.dir, "store", "shadow"), Anchor: s.anchor(), Clock: clock})
	if err != nil {
		s.t.Fatal(err)
	}
	return l
}

func serveNode(t *testing.T, c *storetest.Cluster, name string) *limiter.Limiter {
	t.Helper()
	l, err := limiter.Open(limiter.Options{Patience: patience, Store: c.Node(name)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func shut(t *testing.T, c interface{ Close() error }) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func newLimited(t *testing.T, l *limiter.Limiter, n int64) token.Lookup {
	t.Helper()
	_, lookup, err := token.MintKey()
	if err != nil {
		t.Fatal(err)
	}
	spec := &record.Key{Upstream: "openai", Custody: record.CustodyHeld, Limit: record.NoLimits()}
	spec.Limit[record.Activations] = n
	spec.ExpiresAt = time.Now().Add(time.Hour)
	if _, err := l.Mint(limiter.Operator, spec, limiter.Birth{Lookup: lookup}); err != nil {
		t.Fatal(err)
	}
	return lookup
}

// useUp forwards requests until one is refused, and returns how many there were. A node that
// stood still for seconds has lost touch with its store for a moment, and takes nothing then.
func useUp(t *testing.T, l *limiter.Limiter, lookup token.Lookup, atMost int) (n int) {
	t.Helper()
	for deadline := time.Now().Add(patience); n < atMost; {
		var g limiter.Grant
		k, refusal := l.Find(t.Context(), lookup)
		if refusal == nil {
			refusal = k.Reserve(t.Context(), &limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/v1/x"}, &g)
		}
		switch {
		case refusal == nil:
			g.Settle(record.Amounts{record.Activations: 1})
			n++
		case refusal.Code != record.CodeStoreUnavailable || time.Now().After(deadline):
			return n
		default:
			time.Sleep(time.Millisecond) // between two looks
		}
	}
	return n
}

func TestAMigrationCarriesBudgetsAndTheAuditLogToADatabaseAndBack(t *testing.T) {
	t.Parallel()
	from := single{t, t.TempDir()}
	l := from.serve()
	lookup, spent := newLimited(t, l, 100), newLimited(t, l, 5)
	if n := useUp(t, l, lookup, 30) + useUp(t, l, spent, 10); n != 35 {
		t.Fatalf("%d were used", n)
	}
	shut(t, l)

	cluster := storetest.NewCluster()
	cluster.Rehearse()
	source, target := from.open(), cluster.Bystander(t, "migration")
	m := limiter.Migration{From: source, To: target, By: limiter.Operator, Disk: store.Files{}, Clock: commit.SystemClock{}, Dir: filepath.Join(from.dir, "store"), Anchor: from.anchor(), Shadow: filepath.Join(from.dir, "store", "shadow")}
	done, err := limiter.Migrate(m)
	if err != nil || done.Keys != 2 || done.Used[record.Activations] != 35 || done.Resumed {
		t.Fatalf("%+v, %v", done, err)
	}
	if _, err := limiter.Migrate(m); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("once more: %v", err)
	}
	shut(t, source)
	shut(t, target)

	a, b := serveNode(t, cluster, "a"), serveNode(t, cluster, "b")
	if n := useUp(t, a, lookup, 20) + useUp(t, b, lookup, 20) + useUp(t, b, spent, 1); n != 40 {
		t.Errorf("%d were used on two nodes", n)
	}
	busy := cluster.Bystander(t, "migration")
	back := single{t, t.TempDir()}
	returned := back.open()
	m = limiter.Migration{From: busy, To: rehearsed{returned}, By: limiter.Operator, Disk: store.Files{}, Clock: commit.SystemClock{}, Dir: filepath.Join(back.dir, "store"), Anchor: back.anchor()}
	if _, err := limiter.Migrate(m); err == nil || !strings.Contains(err.Error(), "stop all servers first") {
		t.Errorf("while nodes use it: %v", err)
	}
	shut(t, a)
	shut(t, b)
	if done, err = limiter.Migrate(m); err != nil || done.Keys != 2 || done.Used[record.Activations] != 75 {
		t.Fatalf("back: %+v, %v", done, err)
	}
	shut(t, returned)

	l = back.serve()
	defer shut(t, l)
	if used := l.Stats().Used[record.Activations]; used != 75 {
		t.Errorf("%d of all are used", used)
	}
	if n := useUp(t, l, lookup, 100); n != 30 {
		t.Errorf("%d of 100 were left, want 30", n)
	}
	verdict, err := l.AuditVerify(t.Context(), limiter.Operator)
	if err != nil || verdict.Entries < 5 { // two mints, an end, two migrations
		t.Errorf("the audit log: %+v, %v", verdict, err)
	}
}

// TestAMigrationGoesByTheClockOfTheDatabase: its entries in the audit log have that time, and
// what has passed there has passed for a server that takes over.
func TestAMigrationGoesByTheClockOfTheDatabase(t *testing.T) {
	t.Parallel()
	machine, database := newClock(), newClock()
	database.set(-time.Second)
	from, back, cluster := single{t, t.TempDir()}, single{t, t.TempDir()}, storetest.NewCluster()
	l := from.serveBy(machine)
	_, lookup, err := token.MintKey()
	if err != nil {
		t.Fatal(err)
	}
	spec := &record.Key{Upstream: "openai", Custody: record.CustodyHeld, Limit: record.NoLimits(), ExpiresAt: machine.time().Add(time.Hour)}
	if _, err := l.Mint(limiter.Operator, spec, limiter.Birth{Lookup: lookup, Unlimited: true}); err != nil {
		t.Fatal(err)
	}
	shut(t, l)

	source, target := from.open(), cluster.Bystander(t, "migration")
	m := limiter.Migration{From: source, To: target, By: limiter.Operator, Disk: store.Files{}, Clock: database, Dir: filepath.Join(from.dir, "store"), Anchor: from.anchor()}
	if _, err := limiter.Migrate(m); err == nil || !strings.Contains(err.Error(), "the clock of the database says 2026-11-24T08:59:59Z") {
		t.Errorf("the database's clock is behind what the source has seen: %v", err)
	}
	database.set(5 * time.Hour)
	if _, err := limiter.Migrate(m); err != nil {
		t.Fatal(err)
	}
	shut(t, source)
	database.advance(time.Hour)
	returned := back.open()
	m.From, m.To, m.Dir, m.Anchor = target, returned, filepath.Join(back.dir, "store"), back.anchor()
	if _, err := limiter.Migrate(m); err != nil {
		t.Fatal(err)
	}
	shut(t, target)
	shut(t, returned)

	l = back.serveBy(machine)
	defer shut(t, l)
	page, err := l.Audit(t.Context(), limiter.Operator, audit.Filter{Action: audit.ActStoreMigrate})
	if err != nil {
		t.Fatal(err)
	}
	log := string(bytes.Join(page.Entries, nil))
	if len(page.Entries) != 2 || !strings.Contains(log, "2026-11-24T13:59:59Z") || !strings.Contains(log, "2026-11-24T14:59:59Z") {
		t.Errorf("the audit log has other times than 13:59:59 and 14:59:59: %s", log)
	}
	if _, refusal := l.Find(t.Context(), lookup); l.Time().Before(database.time()) || refusal == nil && useUp(t, l, lookup, 1) > 0 {
		t.Errorf("at the server it is %s, and a key lives that had expired", l.Time())
	}
}

// cutOff is a store whose commits fail after some.
type cutOff struct {
	store.Shared
	left int
}

var errCutOff = errors.New("cut off")

func (c *cutOff) Update(fn func(store.Tx) error) error {
	if c.left--; c.left < 0 {
		return errCutOff
	}
	return c.Shared.Update(fn)
}

func TestAMigrationThatWasCutOffGoesOnAndNoServerOpensItsTarget(t *testing.T) {
	t.Parallel()
	from := single{t, t.TempDir()}
	l := from.serve()
	for range 300 { // several pages of records
		newLimited(t, l, 100)
	}
	shut(t, l)
	cluster, source := storetest.NewCluster(), from.open()
	defer shut(t, source)
	m := limiter.Migration{From: source, By: limiter.Operator, Disk: store.Files{}, Clock: commit.SystemClock{}, Dir: filepath.Join(from.dir, "store"), Anchor: from.anchor(), Shadow: filepath.Join(from.dir, "store", "shadow")}
	for left := 1; ; left++ {
		target := cluster.Bystander(t, "migration")
		m.To = &cutOff{target, left}
		done, err := limiter.Migrate(m)
		shut(t, target)
		if err == nil {
			if !done.Resumed || done.Keys != 300 || left < 3 {
				t.Errorf("with %d commits at once: %+v", left, done)
			}
			break
		}
		if !errors.Is(err, errCutOff) {
			t.Fatal(err)
		}
		_, err = limiter.Open(limiter.Options{Store: cluster.Node("a")})
		if !errors.Is(err, store.ErrFormat) || !strings.Contains(err.Error(), "run the same command again") {
			t.Fatalf("a server that opens what is unfinished: %v", err)
		}
		cluster.Kill("a")
		cluster.Advance(time.Minute)
	}
	l = serveNode(t, cluster, "a")
	defer shut(t, l)
	if keys := l.Stats().Keys[record.Active]; keys != 300 {
		t.Errorf("%d keys are there", keys)
	}
}

func TestASourceWhoseServerWasKilledIsRefused(t *testing.T) {
	t.Parallel()
	disk := storetest.NewDisk()
	clock := &fakeClock{now: time.Now()} // stands still, so that nothing is written by itself
	open := func(disk *storetest.Disk) *limiter.Limiter {
		l, err := limiter.Open(limiter.Options{Patience: patience, Store: disk.Open(), Disk: disk.Files(), Shadow: "/store/shadow", Anchor: "/store/anchor", Clock: clock})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := open(disk)
	lookup := newLimited(t, l, record.NoLimit)
	useUp(t, l, lookup, 25) // of which the records know nothing yet
	killed := disk.Restarted(false, func() bool { return false })
	shut(t, l)
	target := storetest.NewCluster().Bystander(t, "migration")
	defer shut(t, target)
	migrate := func() error {
		_, err := limiter.Migrate(limiter.Migration{
			From: killed.Open(), To: target, By: limiter.Operator, Disk: killed.Files(), Clock: commit.SystemClock{}, Dir: "/store", Anchor: "/store/anchor", Shadow: "/store/shadow"})
		return err
	}
	if err := migrate(); err == nil || !strings.Contains(err.Error(), "start it once more, and stop it") {
		t.Errorf("after a kill: %v", err)
	}
	shut(t, open(killed))
	if err := migrate(); err != nil {
		t.Errorf("after it was opened and closed: %v", err)
	}
}

// TestWhatRanWhenAServerStoppedIsSpentAfterAMigration: nobody is left who could give
// it back.
func TestWhatRanWhenAServerStoppedIsSpentAfterAMigration(t *testing.T) {
	t.Parallel()
	from := single{t, t.TempDir()}
	l := from.serve()
	lookup := newLimited(t, l, 3)
	k, refusal := l.Find(t.Context(), lookup)
	if refusal != nil {
		t.Fatal(refusal)
	}
	ask := &limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/v1/x"}
	if refusal := k.Reserve(t.Context(), ask, new(limiter.Grant)); refusal != nil {
		t.Fatal(refusal)
	}
	shut(t, l)

	c := storetest.NewCluster()
	source, target := from.open(), c.Bystander(t, "migration")
	if _, err := limiter.Migrate(limiter.Migration{
		From: source, To: target, By: limiter.Operator, Disk: store.Files{}, Clock: commit.SystemClock{}, Dir: filepath.Join(from.dir, "store"),
		Anchor: from.anchor(), Shadow: filepath.Join(from.dir, "store", "shadow"),
	}); err != nil {
		t.Fatal(err)
	}
	shut(t, source)
	shut(t, target)
	node := serveNode(t, c, "node-a")
	defer shut(t, node)
	if n := useUp(t, node, lookup, 10); n != 2 {
		t.Errorf("%d more were used, want 2", n)
	}
	k, refusal = node.Find(t.Context(), lookup)
	if refusal == nil {
		refusal = k.Reserve(t.Context(), ask, new(limiter.Grant))
	}
	if refusal == nil || refusal.Code != record.CodeActivationsExhausted {
		t.Errorf("then it is refused with %+v", refusal)
	}
}

// What a killed node had reserved is in the accounts alone once its parts are left behind.
func TestAMigrationCountsWhatAKilledNodeHadReservedAsUsed(t *testing.T) {
	t.Parallel()
	cluster := storetest.NewCluster()
	a, b := serveNode(t, cluster, "a"), serveNode(t, cluster, "b")
	lookup := newLimited(t, a, 100)
	used := useUp(t, a, lookup, 10) + useUp(t, b, lookup, 20)
	k, refusal := b.Find(t.Context(), lookup)
	if refusal != nil {
		t.Fatal(refusal)
	}
	for range 5 { // they run when it dies
		var g limiter.Grant
		if refusal := k.Reserve(t.Context(), &limiter.Ask{Bound: record.Amounts{record.Activations: 1}, Method: "POST", Path: "/v1/x"}, &g); refusal != nil {
			t.Fatal(refusal)
		}
	}
	cluster.Kill("b")
	b.Abandon()
	shut(t, a)
	var reserved record.Amounts // what either has used, and whatever the one that was killed had not given back yet
	if err := cluster.View(func(r store.Reader) (err error) {
		reserved, err = limiter.Reserved(r, k.Key().ID)
		return err
	}); err != nil || reserved[record.Activations] < 10+25 {
		t.Fatalf("%d are reserved, %v", reserved[record.Activations], err)
	}
	cluster.Advance(30 * time.Second)

	to := single{t, t.TempDir()}
	source, target := cluster.Bystander(t, "migration"), to.open()
	m := limiter.Migration{From: source, To: target, By: limiter.Operator, Disk: store.Files{}, Clock: commit.SystemClock{}, Dir: filepath.Join(to.dir, "store"), Anchor: to.anchor()}
	if _, err := limiter.Migrate(m); err != nil {
		t.Fatal(err)
	}
	shut(t, source)
	shut(t, target)
	l := to.serve()
	defer shut(t, l)
	if left := useUp(t, l, lookup, 200); left != 100-int(reserved[record.Activations]) {
		t.Errorf("after %d requests, with %d reserved when all had ended, %d are left of 100", used, reserved[record.Activations], left)
	}
}

// cutShort is a store of one server whose commits fail after some.
type cutShort struct {
	store.Store
	left int
}

func (c *cutShort) Update(fn func(store.Tx) error) error {
	if c.left--; c.left < 0 {
		return errCutOff
	}
	return c.Store.Update(fn)
}

// TestAMigrationToOneServerThatWasCutOffGoesOn wherever that was.
func TestAMigrationToOneServerThatWasCutOffGoesOn(t *testing.T) {
	t.Parallel()
	cluster := storetest.NewCluster()
	node := serveNode(t, cluster, "a")
	lookup := newLimited(t, node, 100)
	useUp(t, node, lookup, 30)
	shut(t, node)
	source := cluster.Bystander(t, "migration")
	defer shut(t, source)
	m := limiter.Migration{From: source, By: limiter.Operator, Clock: commit.SystemClock{}, Dir: "/store", Anchor: "/store/anchor"}
	disk := storetest.NewDisk()
	for left := 1; ; left++ {
		m.Disk = disk.Files()
		m.To = &cutShort{disk.Open(), left}
		done, err := limiter.Migrate(m)
		if err == nil {
			if !done.Resumed || done.Keys != 1 || left < 5 {
				t.Errorf("with %d commits at once: %+v", left, done)
			}
			break
		}
		if !errors.Is(err, errCutOff) {
			t.Fatalf("with %d commits at once: %v", left, err)
		}
		shut(t, m.To)
	}
	shut(t, m.To)
	l, err := limiter.Open(limiter.Options{Patience: patience, Store: disk.Open(), Disk: disk.Files(), Shadow: "/store/shadow", Anchor: "/store/anchor"})
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, l)
	if n := useUp(t, l, lookup, 200); n != 70 {
		t.Errorf("%d of 100 were left, want 70", n)
	}
}
