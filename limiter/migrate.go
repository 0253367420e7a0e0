package limiter

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/integrity"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// A migration copies everything a store holds into another one, while no server uses
// either: from the store of one server into the database of several, or back. The
// source is only read. Records that belong only to a server or a commit stay behind: the
// digest and its commit, sessions, the parts of nodes, whose sums are in the accounts,
// and the records that nodes have in common because no single memory holds them.

// Migration is what to copy.
type Migration struct {
	From, To store.Store
	By       Caller
	Disk     store.Disk
	// Clock is the clock of the database: nodes go by it, and a server that takes over
	// from them must not fall behind it.
	Clock commit.Clock
	// Dir and Anchor are the paths of the directory and the anchor of the store that is
	// not shared.
	Dir, Anchor string
	// Shadow is the path of the source's shadow counter, if there is one.
	Shadow string
	// Copied is called with how many records have been copied. Default: none.
	Copied func(n int64)
}

// Migrated is what was copied.
type Migrated struct {
	Records int64          `json:"records"`
	Keys    int64          `json:"keys"`
	Entries int64          `json:"audit_entries"`
	Used    record.Amounts `json:"-"` // by all keys that are not forgotten
	Resumed bool           `json:"resumed"`
}

// migrationKey holds the record after which a migration goes on, and allEqual once all were
// copied and compared, because the last step of a migration changes some of them.
var (
	migrationKey = []byte("m/migration")
	allEqual     = []byte{0xff} // no record comes after it
)

// Migrate copies a store. It may be cut off at any point and run again.
func Migrate(m Migration) (Migrated, error) {
	var done Migrated
	if err := onlyOperator(m.By); err != nil {
		return done, err
	}
	if err := m.checkSource(); err != nil {
		return done, fmt.Errorf("the source: %w", err)
	}
	after, err := m.begin(&done)
	if err != nil {
		return done, fmt.Errorf("the target: %w", err)
	}
	if err := m.copy(after, &done); err != nil {
		return done, fmt.Errorf("copying: %w", err)
	}
	if err := m.compare(bytes.Equal(after, allEqual), &done); err != nil {
		return done, fmt.Errorf("comparing: %w", err)
	}
	if err := m.finish(&done); err != nil {
		return done, fmt.Errorf("finishing: %w", err)
	}
	return done, nil
}

func isShared(s store.Store) bool {
	_, ok := s.(store.Shared)
	return ok
}

// checkSource refuses a store that has not been closed, or that is not as it was left.
func (m *Migration) checkSource() error {
	if shared, ok := m.From.(store.Shared); ok {
		if err := unused(shared); err != nil {
			return err
		}
	}
	return m.From.View(func(r store.Reader) error {
		switch _, err := r.Get(store.FormatKey); {
		case errors.Is(err, store.ErrNotFound):
			return errors.New("it is empty")
		case err != nil:
			return err
		}
		if err := store.CheckFormat(r); err != nil {
			return err
		}
		if isShared(m.From) {
			locked, err := readLockdown(r)
			if err == nil && locked != nil {
				err = errLocked
			}
			return err
		}
		if err := integrity.Compare(m.Disk, m.Anchor, r); err != nil {
			return err
		}
		if err := m.checkClock(r); err != nil {
			return err
		}
		return m.checkClosed(r)
	})
}

// checkClock refuses a store that has seen a later time than the database: a key that has
// expired could live again.
func (m *Migration) checkClock(r store.Reader) error {
	mark, err := readMark(r)
	if now := m.now(); err == nil && mark.After(now) {
		err = fmt.Errorf("it has seen %s, and the clock of the database says %s: set that right, or, if the server's clock had run ahead, start it once more and run: caddy till repair --clock",
			mark.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return err
}

func (m *Migration) now() time.Time {
	now, _ := m.Clock.Now()
	return now
}

var errLocked = errors.New("a lockdown is in force, and does not go with it: lift it (caddy till lockdown --lift), and suspend keys that must not work")

// unused refuses a database that other nodes use.
func unused(shared store.Shared) error {
	nodes, err := shared.Nodes()
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if n.Live && n.Name != shared.Node() {
			return fmt.Errorf("node %s uses it: stop all servers first", n.Name)
		}
	}
	return nil
}

// checkClosed refuses a store whose server was killed: only the shadow knows what was
// reserved and not used, and only a server that opens it brings that into the records.
func (m *Migration) checkClosed(r store.Reader) error {
	if _, err := m.Disk.ReadFile(filepath.Join(m.Dir, "lockdown")); err == nil {
		return errLocked
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("looking for a lockdown: %w", err)
	}
	if m.Shadow == "" {
		return nil
	}
	b, _, err := store.Find(r, record.MetaSession)
	if err != nil || len(b) != integrity.SessionLen {
		return err
	}
	shadow, err := integrity.OpenShadow(m.Disk, m.Shadow)
	if err != nil {
		return err
	}
	remembered := shadow.Recall(integrity.Session(b), store.BootID())
	if err := shadow.Close(); err != nil {
		return err
	}
	for _, seen := range remembered {
		rec, there, err := record.FindAccount(r, seen.ID)
		if err != nil {
			return err
		}
		if there && rec.Lineage == seen.Lineage && rec.Reserved != seen.Used {
			return errors.New("its server was killed, and has not yet counted what was in use: start it once more, and stop it")
		}
	}
	return nil
}

// copied reports whether a migration copies a record.
func (m *Migration) copied(key []byte) bool {
	for _, own := range [][]byte{record.MetaCommit, record.MetaSession, record.MetaClock, store.FormatKey, migrationKey} {
		if bytes.Equal(key, own) {
			return false
		}
	}
	for _, space := range []string{record.SpaceBuckets, record.SpaceParts, record.SpaceNodes} {
		if bytes.HasPrefix(key, []byte(space)) {
			return false
		}
	}
	return true
}

// moved is a record as the target has it. A single server keeps in the account how much of
// its use is in the key's history; nodes keep that in their parts. The parts stay behind,
// so an account that comes from nodes says that all of its use is in the history.
func (m *Migration) moved(key, value []byte) ([]byte, error) {
	if !bytes.HasPrefix(key, []byte(record.SpaceAccounts)) {
		return value, nil
	}
	rec, err := record.DecodeAccount(value)
	if err != nil {
		return nil, fmt.Errorf("account %x: %w", key, err)
	}
	rec.Settled = rec.Reserved // there is no node left that could give anything back
	if isShared(m.From) {
		rec.Booked = rec.Counted()
	}
	return rec.Encode(), nil
}

// name identifies the source as it stands: if it is used again, its name changes.
func (m *Migration) name() (string, error) {
	sum := sha256.New()
	err := m.From.View(func(r store.Reader) error {
		for _, space := range []string{"m/", record.SpaceNodes} {
			err := r.Scan([]byte(space), nil, false, func(key, value []byte) (bool, error) {
				_, err := fmt.Fprintf(sum, "%q %q\n", key, value)
				return true, err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return hex.EncodeToString(sum.Sum(nil)[:16]), err
}

// begin claims the target for this migration, or finds out where to go on.
func (m *Migration) begin(done *Migrated) (after []byte, err error) {
	name, err := m.name()
	if err != nil {
		return nil, err
	}
	mark := []byte(store.Unfinished + name)
	if shared, ok := m.To.(store.Shared); ok {
		if err := unused(shared); err != nil {
			return nil, err
		}
	} else if _, err := m.Disk.ReadFile(filepath.Join(m.Dir, "lockdown")); err == nil {
		return nil, errors.New("its directory has the lockdown of another store: name an empty one")
	}
	err = m.To.Update(func(tx store.Tx) error {
		format, err := tx.Get(store.FormatKey)
		switch {
		case err == nil && bytes.Equal(format, mark):
			after, done.Resumed, err = store.Find(tx, migrationKey)
			return err
		case err == nil && bytes.HasPrefix(format, []byte(store.Unfinished)):
			return errors.New("it holds an unfinished migration of another store, or of this one before it was used again: empty it first")
		case err != nil && !errors.Is(err, store.ErrNotFound):
			return err
		}
		err = tx.Scan(nil, nil, false, func([]byte, []byte) (bool, error) {
			return false, errors.New("it is not empty: name an empty directory, or another schema")
		})
		if err != nil {
			return err
		}
		return tx.Set(store.FormatKey, mark)
	})
	return after, err
}

// copy copies the records after a given one, page by page. One commit writes a page and
// the position where it ends.
func (m *Migration) copy(after []byte, done *Migrated) error {
	for {
		keys, values, err := m.page(m.From, after)
		if err != nil || len(keys) == 0 {
			return err
		}
		after = keys[len(keys)-1]
		err = m.To.Update(func(tx store.Tx) error {
			for i, key := range keys {
				if !m.copied(key) {
					continue
				}
				value, err := m.moved(key, values[i])
				if err == nil {
					err = tx.Set(key, value)
				}
				if err != nil {
					return err
				}
			}
			return tx.Set(migrationKey, after)
		})
		if err != nil {
			return err
		}
		done.Records += int64(len(keys))
		if m.Copied != nil {
			m.Copied(done.Records)
		}
	}
}

// page reads some records after a given one, in the order of their keys.
func (m *Migration) page(s store.Store, after []byte) (keys, values [][]byte, err error) {
	err = s.View(func(r store.Reader) error {
		keys, values, err = pageOf(r, "", after)
		for i := range keys { // they outlive the view
			keys[i], values[i] = bytes.Clone(keys[i]), bytes.Clone(values[i])
		}
		return err
	})
	return keys, values, err
}

// finish makes the target a store that servers open.
func (m *Migration) finish(done *Migrated) error {
	now := m.now()
	last := func(tx store.Tx) error {
		return errors.Join(tx.Delete(migrationKey), tx.Set(store.FormatKey, []byte(store.Format)))
	}
	if !isShared(m.To) {
		r := rebuild{store: m.To, disk: m.Disk, now: now, by: m.By, action: audit.ActStoreMigrate, last: func(tx store.Tx) error {
			return errors.Join(writeMark(tx, now), last(tx))
		}}
		return r.run(m.Anchor)
	}
	return m.To.Update(func(tx store.Tx) error {
		b, err := offline(tx, stopped(now))
		if err != nil {
			return err
		}
		r := rebuild{by: m.By, action: audit.ActStoreMigrate, done: rebuilt{Repaired: Repaired{Keys: done.Keys}}}
		return errors.Join(r.audit(b), b.log.Finish(b.Transaction), last(tx))
	})
}
