package limiter_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/limiter/store/storetest"
	"github.com/till-proxy/till/token"
)

func (w *world) backup(withSalts bool) []byte {
	w.t.Helper()
	var b bytes.Buffer
	if _, err := w.Backup(ctx, limiter.Operator, &b, withSalts); err != nil {
		w.t.Fatal(err)
	}
	return b.Bytes()
}

// restored is another world that has the backup.
// movedAway takes store and anchor away, so that others can be restored.
func (w *world) movedAway() {
	w.t.Helper()
	w.Abandon()
	w.disk = storetest.NewDisk()
	if err := os.Remove(w.anchor); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) restored(backup []byte, trust bool) (*world, limiter.Restored) {
	w.t.Helper()
	next := newWorld(w.t)
	next.movedAway()
	next.clock = w.clock
	done, err := limiter.Restore(limiter.Offline{Store: rehearsed{next.disk.Open()}, Anchor: next.anchor, Now: w.clock.time()}, limiter.Operator, bytes.NewReader(backup), trust)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := next.reopen(); err != nil {
		w.t.Fatal(err)
	}
	return next, done
}

func TestABackupIsTakenWhileRequestsRunAndComesBackSuspended(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(100))
	dead := w.mint(activations(1))
	dead.use()
	gone := w.mint(activations(5))
	if _, _, err := w.Revoke(ctx, limiter.Operator, gone.id, ""); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		k.use()
	}
	running, refusal := k.ask()
	if refusal != nil {
		t.Fatal(refusal)
	}
	backup := w.backup(false)
	running.Cancel()
	for range 20 {
		k.use()
	}

	next, done := w.restored(backup, false)
	if done.Keys != 3 || done.Suspended != 1 {
		t.Errorf("restored: %+v", done)
	}
	next.agree(t)
	for old, want := range map[*key]record.Code{k: record.CodeKeySuspended, dead: record.CodeActivationsExhausted, gone: record.CodeKeyRevoked} {
		if code := (&key{next, old.id, old.lookup}).use(); code != want {
			t.Errorf("%s: %q, want %q", old.id, code, want)
		}
	}
	if _, err := next.Resume(limiter.Operator, k.id); err != nil {
		t.Fatal(err)
	}
	if n := (&key{next, k.id, k.lookup}).drain(record.CodeActivationsExhausted); n > 90 || n < 20 {
		t.Errorf("%d left after the backup saw 10 used and one running", n)
	}
	next.agree(t)
	next.restart()

	trusted, done := w.restored(backup, true)
	if code := (&key{trusted, k.id, k.lookup}).use(); code != "" || done.Suspended != 0 {
		t.Errorf("trusted: %q, %+v", code, done)
	}
}

func TestABackupHoldsSaltsOnlyWhenAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, lookup, err := token.MintKey()
	if err != nil {
		t.Fatal(err)
	}
	const salt = "salt-salt-salt-salt-salt-salt-00"
	spec := &record.Key{Upstream: "openai", Custody: record.CustodySealed, Limit: record.NoLimits(), SealKey: token.SealKeyID{1}}
	if _, err := w.Mint(limiter.Operator, spec, limiter.Birth{Lookup: lookup, Salt: token.NewSecret(salt), Unlimited: true}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(w.backup(false)), salt) {
		t.Error("a backup holds a salt that nobody asked for")
	}
	if !strings.Contains(string(w.backup(true)), salt) {
		t.Error("the salt is missing where it was asked for")
	}
	for salts, want := range map[bool]limiter.Restored{true: {Keys: 1, Suspended: 1, Sealed: 1}, false: {Keys: 1, Suspended: 1, Unsalted: 1}} {
		if _, done := w.restored(w.backup(salts), false); done != want {
			t.Errorf("with salts %v: %+v, want %+v", salts, done, want)
		}
	}
}

func TestADamagedBackupIsNotRestored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mint(activations(100)).use()
	whole := w.backup(true)
	try := func(what string, b []byte) {
		t.Helper()
		disk := storetest.NewDisk()
		_, err := limiter.Restore(limiter.Offline{Store: disk.Open(), Anchor: w.anchor + ".restored", Now: w.clock.time()}, limiter.Operator, bytes.NewReader(b), false)
		if !errors.Is(err, limiter.ErrBackup) || disk.Commits() != 0 {
			t.Errorf("%s: %v, %d commits", what, err, disk.Commits())
		}
	}
	for n := range whole {
		flipped := bytes.Clone(whole)
		flipped[n] ^= 0x10
		try("a flipped byte", flipped)
		try("a cut file", whole[:n])
	}
	try("more behind it", append(bytes.Clone(whole), 0))
	if _, err := limiter.Restore(limiter.Offline{Store: w.disk.Open(), Anchor: w.anchor + ".restored", Now: w.clock.time()}, limiter.Operator, bytes.NewReader(whole), false); err == nil || errors.Is(err, limiter.ErrBackup) {
		t.Errorf("into a store that is in use: %v", err)
	}
}

// TestARestoreLeavesTheAnchorOfAnotherStoreAlone: as of a server that runs, while
// somebody tries whether a backup can be restored.
func TestARestoreLeavesTheAnchorOfAnotherStoreAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.mint(activations(10))
	backup := w.backup(true)
	anchor, disk := w.file(w.anchor), storetest.NewDisk()
	_, err := limiter.Restore(limiter.Offline{Store: disk.Open(), Anchor: w.anchor, Now: w.clock.time()}, limiter.Operator, bytes.NewReader(backup), false)
	if err == nil || !strings.Contains(err.Error(), w.anchor+" is the anchor of a store") || disk.Commits() != 0 {
		t.Errorf("%v, %d commits", err, disk.Commits())
	}
	if !bytes.Equal(w.file(w.anchor), anchor) {
		t.Error("the anchor has changed")
	}
	w.restart()
	if n := k.drain(record.CodeActivationsExhausted); n != 10 {
		t.Errorf("%d of 10 forwarded afterwards", n)
	}
}

func TestARestoreThatWasCutOffIsInDoubt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 3 {
		w.mint(activations(100)).use()
	}
	backup := w.backup(true)
	for cut := 1; ; cut++ {
		if cut > 1000 {
			t.Fatal("it is never restored")
		}
		next := newWorld(t)
		next.movedAway()
		next.disk.FailAt(cut, cut%2 == 0)
		_, err := limiter.Restore(limiter.Offline{Store: next.disk.Open(), Anchor: next.anchor, Now: w.clock.time()}, limiter.Operator, bytes.NewReader(backup), false)
		if err == nil {
			break
		}
		next.disk.Heal()
		if next.disk.Commits() == 1 && cut%2 == 1 {
			continue // nothing was written
		}
		if err := next.reopen(); err == nil {
			next.agree(t)
			if n := next.Stats().Keys[record.Suspended]; n != 3 {
				t.Errorf("cut off at commit %d, and open with %d keys suspended", cut, n)
			}
			next.Abandon()
		} else if !errors.Is(err, store.ErrDoubt) {
			t.Errorf("cut off at commit %d: %v", cut, err)
		}
	}
}

func FuzzRestore(f *testing.F) {
	f.Add([]byte("tillbak1\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		disk := storetest.NewDisk()
		if _, err := limiter.Restore(limiter.Offline{Store: disk.Open(), Anchor: t.TempDir() + "/anchor", Now: newClock().time()}, limiter.Operator, bytes.NewReader(b), false); err == nil {
			t.Skip("a whole one")
		}
	})
}

// TestATokenThatWasRevokedDoesNotComeBackWithAnOlderStore is about who left after
// the backup, or whose token's end a rollback has lost.
func TestATokenThatWasRevokedDoesNotComeBackWithAnOlderStore(t *testing.T) {
	t.Parallel()
	w := newTeam(t)
	text, anna := w.hire(limiter.Operator, "anna", "lead")
	backup, old := w.backup(false), w.disk.Snapshot()
	if _, err := w.RevokeToken(limiter.Operator, anna.Token); err != nil {
		t.Fatal(err)
	}
	next, done := w.restored(backup, false)
	if _, err := next.Authenticate(text, ""); !errors.Is(err, limiter.ErrToken) || done.Tokens != 1 {
		t.Errorf("after a restore: %v, %+v", err, done)
	}
	if _, err := next.AuditVerify(ctx, limiter.Operator); err != nil {
		t.Error(err)
	}
	trusted, done := w.restored(backup, true)
	if _, err := trusted.Authenticate(text, ""); err != nil || done.Tokens != 0 {
		t.Errorf("after a restore of a trusted backup: %v, %+v", err, done)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w.disk = old
	if err := w.reopen(); !errors.Is(err, store.ErrDoubt) {
		t.Fatalf("an older store: %v", err)
	}
	repaired, err := limiter.Forfeit(limiter.Offline{Store: rehearsed{w.disk.Open()}, Anchor: w.anchor, Now: w.clock.time()}, limiter.Operator, w.roles)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.reopen(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Authenticate(text, ""); !errors.Is(err, limiter.ErrToken) || repaired.Tokens != 1 {
		t.Errorf("after a repair: %v, %+v", err, repaired)
	}
	w.agree(t)
}

// TestABackupOfAnotherVersionIsNotRestored: no server would open it.
func TestABackupOfAnotherVersionIsNotRestored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mint(activations(100)).use()
	b := w.backup(true)
	at := bytes.Index(b, []byte("till/"))
	b[at+len("till/")] = '0'
	sum := sha256.Sum256(b[:len(b)-sha256.Size])
	copy(b[len(b)-sha256.Size:], sum[:])
	if n, err := limiter.CheckBackup(bytes.NewReader(b)); n != 1 || err != nil {
		t.Fatalf("it is whole: %d keys, %v", n, err)
	}
	disk := storetest.NewDisk()
	_, err := limiter.Restore(limiter.Offline{Store: disk.Open(), Anchor: w.anchor + ".restored", Now: w.clock.time()}, limiter.Operator, bytes.NewReader(b), false)
	if !errors.Is(err, store.ErrFormat) || !strings.Contains(err.Error(), "use the version that wrote it") || disk.Commits() != 0 {
		t.Errorf("%v, %d commits", err, disk.Commits())
	}
}
