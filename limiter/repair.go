package limiter

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/integrity"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// Offline is a store that nothing else has open.
type Offline struct {
	Store  store.Store
	Anchor string       // the path of its anchor
	Disk   store.Disk   // holds the anchor. Default: Files.
	Now    time.Time    // the time at which it is worked on
	Logger *slog.Logger // Default: discarded.
}

func (o *Offline) complete() {
	o.Disk, o.Logger = cmp.Or[store.Disk](o.Disk, store.Files{}), cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
}

// Repaired is what Forfeit did.
type Repaired struct {
	Keys      int64 // keys looked at
	Forfeited int64 // keys and roles whose remaining budgets now count as spent
	Suspended int64 // keys without such a budget, which nothing but suspension stops
	Tokens    int64 // admin tokens that were revoked, because they may have been before
}

// One commit of a repair looks at this many records, and at this many bytes of them.
const (
	repairStep  = 1000
	repairBytes = 256 << 10
)

// Forfeit makes a store that does not agree with its anchor usable again. Anything that
// may have been spent since the last commit that the store still has counts as spent:
// every remaining budget, including those of roles, even where the store has lost every
// trace of their use. Keys that only time limits are suspended, and admin tokens are revoked.
// Then a new anchor is written. Forfeit may be cut off at any point and run again.
func Forfeit(o Offline, by Caller, roles map[string]record.Role) (Repaired, error) {
	if err := onlyOperator(by); err != nil {
		return Repaired{}, err
	}
	o.complete()
	r := rebuild{store: o.Store, disk: o.Disk, now: o.Now, by: by, action: audit.ActStoreRepair, forfeit: true, roles: roles, log: o.Logger}
	err := r.run(o.Anchor)
	if err == nil {
		o.Logger.Warn("the store was repaired: remaining budgets count as spent",
			"keys", r.done.Keys, "forfeited", r.done.Forfeited, "suspended", r.done.Suspended, "tokens_revoked", r.done.Tokens)
	}
	return r.done.Repaired, err
}

// rebuild makes new sums, a new digest and a new anchor for a store from its records.
type rebuild struct {
	store   store.Store
	disk    store.Disk
	now     time.Time
	by      Caller
	action  string // for the audit log
	forfeit bool   // remaining budgets count as spent
	suspend bool   // every living key is suspended
	shared  bool   // several nodes share the store
	imagine bool   // nothing is written
	roles   map[string]record.Role
	last    func(store.Tx) error // what the last commit does besides; nil: nothing
	why     string               // why the store was doubted, for the audit log

	log    *slog.Logger // for its progress; nil: none
	logged int64        // how many records it has named

	digest *integrity.Rebuild // nil if several nodes share the store
	done   rebuilt
}

// rebuilt is what a rebuild has counted so far.
type rebuilt struct {
	Repaired
	sums             commit.Tally
	seen             int64 // records
	sealed, unsalted int64 // sealed keys that were not revoked
}

// update runs a transaction. If the store runs it again, it still counts everything once.
func (r *rebuild) update(fn func(tx store.Tx) error) error {
	before := r.done
	err := r.store.Update(func(tx store.Tx) error {
		r.done = before
		r.done.sums.Keys = maps.Clone(before.sums.Keys)
		r.digest.Begin()
		return fn(tx)
	})
	if err == nil {
		r.digest.Committed()
	}
	return err
}

func (r *rebuild) run(anchorPath string) (err error) {
	// Until the last commit, which has the new sums, the store stays in doubt.
	if r.digest, err = integrity.NewRebuild(r.store, r.disk, anchorPath); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.digest.Close()) }()
	if err := errors.Join(r.begin(), r.records()); err != nil {
		return err
	}
	err = r.update(func(tx store.Tx) error {
		b, err := offline(tx, stopped(r.now))
		if err != nil {
			return err
		}
		if err := r.finish(b); err != nil {
			return err
		}
		if r.last != nil {
			if err := r.last(tx); err != nil {
				return err
			}
		}
		// No shadow is believed.
		return errors.Join(tx.Delete(record.MetaSession), r.digest.Finish(tx))
	})
	if err != nil {
		return err
	}
	return r.digest.Seal()
}

// begin reads what cannot be worked out from the records.
func (r *rebuild) begin() (err error) {
	r.done.sums, err = store.Read(r.store, commit.ReadTally)
	r.done.sums.Keys, r.done.sums.Counted = make(map[record.Status]int64), record.Amounts{}
	return err
}

// records goes through all records.
func (r *rebuild) records() error {
	if !r.imagine { // otherwise the indexes, which are most of the records, would be read for nothing
		if err := r.each(spaceIndexes, nothingBeside, wipe); err != nil {
			return fmt.Errorf("rebuilding the store: %w", err)
		}
	}
	for _, space := range []struct {
		prefix string
		beside func(key []byte) [][]byte
		each   func(tx store.Tx, key, value []byte) error
	}{
		{record.SpaceAccounts, besideAccount, r.account}, {record.SpaceKeys, besideKey, r.key},
		{string(record.TokenKey("")), nothingBeside, r.token},
	} {
		if err := r.each(space.prefix, space.beside, space.each); err != nil {
			return fmt.Errorf("rebuilding the store: %w", err)
		}
	}
	if err := r.update(r.forfeitRoles); err != nil {
		return fmt.Errorf("rebuilding the store: %w", err)
	}
	return nil
}

// finish writes the new sums, and an entry in the audit log.
func (r *rebuild) finish(b *batch) error {
	sums, err := b.sums.Change(b.Transaction)
	if err != nil {
		return err
	}
	*sums = r.done.sums
	return errors.Join(r.audit(b), b.log.Finish(b.Transaction), b.sums.Finish(b.Transaction))
}

// audit continues the audit log from the last entry present, and records it if that
// is not the one that should be last.
func (r *rebuild) audit(b *batch) error {
	changes := map[string]record.Delta{
		"keys": {Before: nil, After: r.done.Keys}, "forfeited": {Before: nil, After: r.done.Forfeited}, "suspended": {Before: nil, After: r.done.Suspended},
		"tokens_revoked": {Before: nil, After: r.done.Tokens},
	}
	known, end, err := b.log.Repair(b.Transaction)
	if err != nil {
		return err
	}
	if r.why != "" {
		changes["doubt"] = record.Delta{Before: r.why, After: nil}
	}
	if end != known {
		changes["audit_head"] = record.Delta{
			Before: fmt.Sprintf("%d %s", known.Seq, known.Hash), After: fmt.Sprintf("%d %s", end.Seq, end.Hash)}
	}
	return b.audit(r.by.entry(r.action, "", changes))
}

// stopped is a clock that stands still.
type stopped time.Time

func (s stopped) Now() time.Time { return time.Time(s) }

// progressEvery is how many records lie between two progress lines in the log.
const progressEvery = 100_000

// each calls fn for the records of a space, a page of them in each transaction. The rows
// beside the records of a page are read in one go: a store may have far to go for them.
func (r *rebuild) each(space string, beside func(key []byte) [][]byte, fn func(tx store.Tx, key, value []byte) error) error {
	var after []byte
	for {
		var last []byte
		err := r.update(func(tx store.Tx) error {
			keys, values, err := pageOf(tx, space, after)
			if err != nil {
				return err
			}
			last = nil
			var rows [][]byte
			for _, key := range keys {
				rows = append(rows, beside(key)...)
			}
			if err := store.Fetch(tx, rows...); err != nil {
				return err
			}
			for i, key := range keys {
				last = key
				if err := fn(tx, key, values[i]); err != nil {
					return err
				}
			}
			r.done.seen += int64(len(keys))
			return nil
		})
		if err != nil || last == nil {
			return err
		}
		after = last
		if r.log != nil && r.done.seen-r.logged >= progressEvery {
			r.logged = r.done.seen
			r.log.Info("the store is being repaired", "records", r.logged)
		}
	}
}

// nothingBeside is for records that can be judged on their own.
func nothingBeside([]byte) [][]byte { return nil }

// besideAccount names the rows that account reads.
func besideAccount(at []byte) [][]byte {
	id, _ := record.AccountOf(at)
	return [][]byte{record.RecordKey(id.KeyID())}
}

// besideKey names the rows that key reads.
func besideKey(at []byte) [][]byte {
	id := string(at[len(record.SpaceKeys):])
	rows := [][]byte{record.SaltKey(id)}
	if account, err := record.KeyAccount(id); err == nil {
		rows = append(rows, record.AccountKey(account))
	}
	return rows
}

func wipe(tx store.Tx, key, _ []byte) error { return tx.Delete(key) }

// pageOf reads some records of a space. An empty page is the last one.
func pageOf(r store.Reader, space string, after []byte) (keys, values [][]byte, err error) {
	size := 0
	err = r.Scan([]byte(space), after, false, func(key, value []byte) (bool, error) {
		keys, values = append(keys, key), append(values, value)
		size += len(key) + len(value)
		return len(keys) < repairStep && size < repairBytes, nil
	})
	return keys, values, err
}

func (r *rebuild) account(tx store.Tx, at, value []byte) error {
	id, ok := record.AccountOf(at)
	rec, err := record.DecodeAccount(value)
	if err != nil || !ok {
		return fmt.Errorf("account %x: %w", at, errors.Join(record.ErrRecord, err))
	}
	if r.forfeit && r.spend(&rec, rec.Kept()) {
		r.done.Forfeited++
	}
	v := rec.Encode()
	if err := tx.Set(at, v); err != nil {
		return err
	}
	r.digest.Add(id, v)
	_, ofKey, err := store.Find(tx, record.RecordKey(id.KeyID()))
	if ofKey {
		r.done.sums.Counted.Add(rec.Counted())
	}
	return err
}

// spend counts what is left of a budget as spent.
func (r *rebuild) spend(rec *record.Account, limit record.Amounts) (changed bool) {
	changed = rec.Forfeit(limit)
	if r.shared { // no parts are left from which anything could come back
		rec.Settled = rec.Reserved
	}
	return changed
}

// forfeitRoles spends the budgets of the roles that are configured: a limit may
// be newer than the record, and there may be none.
func (r *rebuild) forfeitRoles(tx store.Tx) error {
	for name, role := range r.roles {
		id := record.RoleAccount(name)
		at := record.AccountKey(id)
		var rec record.Account
		before, there, err := store.Find(tx, at)
		if err != nil {
			return err
		}
		if there {
			if rec, err = record.DecodeAccount(before); err != nil {
				return fmt.Errorf("role %s: %w", name, err)
			}
			r.digest.Take(id, before)
		}
		rec.Limit = role.Budget.Limit
		if epoch := role.Budget.Renews.Epoch(r.now); r.forfeit && rec.Epoch < epoch {
			// The store may have lost the beginning of a window, with its use.
			own := record.Part{Past: rec.Past, Settled: rec.Settled}
			endWindow(&rec, &own, epoch)
			rec.Past = own.Past
		}
		if r.spend(&rec, rec.Limit) {
			r.done.Forfeited++
		}
		v := rec.Encode()
		if err := tx.Set(at, v); err != nil {
			return err
		}
		r.digest.Add(id, v)
	}
	return nil
}

// token revokes a living admin token, because its revocation may have been lost:
// people who have left would otherwise regain access, and could resume keys.
func (r *rebuild) token(tx store.Tx, at, value []byte) error {
	if !r.suspend && !r.forfeit {
		return nil
	}
	rec, err := record.DecodeToken(at, value)
	if err != nil {
		return err
	}
	if rec.Status(r.now) != record.Active {
		return nil
	}
	rec.RevokedAt = r.now.UTC()
	r.done.Tokens++
	return rec.Write(tx)
}

// unused is a lineage that no account has had: each begins at 1 or here, and grows by 1 with
// each window, which is always longer than a second. Children may have been carved out of any.
func (r *rebuild) unused() uint64 { return uint64(max(r.now.Unix(), 1)) }

func (r *rebuild) key(tx store.Tx, at, value []byte) error {
	old, err := record.DecodeKey(value)
	if err != nil {
		return fmt.Errorf("key %s: %w", at, err)
	}
	key := old.Clone()
	id, err := record.KeyAccount(key.ID)
	if err != nil {
		return fmt.Errorf("key %s: %w", at, errors.Join(record.ErrRecord, err))
	}
	r.done.Keys++
	if key.Custody == record.CustodySealed && key.EndedStatus != record.Revoked {
		switch _, err := tx.Get(record.SaltKey(key.ID)); {
		case err == nil:
			r.done.sealed++
		case errors.Is(err, store.ErrNotFound):
			r.done.unsalted++
		default:
			return err
		}
	}
	var rec record.Account
	before, err := tx.Get(record.AccountKey(id))
	switch {
	case errors.Is(err, store.ErrNotFound): // lost, so nothing is left of it
		rec = record.Account{Lineage: r.unused(), Epoch: key.Renews.Epoch(r.now)}
		r.spend(&rec, key.Limit)
		r.done.Forfeited++
	case err != nil:
		return err
	default:
		if rec, err = record.DecodeAccount(before); err != nil {
			return fmt.Errorf("key %s: %w", at, err)
		}
		r.digest.Take(id, before)
		r.done.sums.Counted = r.done.sums.Counted.Minus(rec.Counted())
	}
	if r.forfeit {
		r.spend(&rec, record.Kept(key.Limit, rec.Given))
	}
	r.done.sums.Counted.Add(rec.Counted())
	// With a budget that renews, or none, a key could live again whose revocation
	// was lost.
	unstopped := r.forfeit && (key.Limit == record.NoLimits() || key.Renews != "")
	if (r.suspend || unstopped) && key.EndedStatus == "" {
		// This includes keys that another caller had suspended: their use since
		// is in doubt, which is for the operator to decide.
		key.SuspendedBy = record.Stopper{Name: itself.Name}
		if key.SuspendedAt.IsZero() {
			key.SuspendedAt = r.now.UTC()
			r.done.Suspended++
		}
	}
	key.Version = max(key.Version, rec.Version) + 1
	rec.Limit = key.Limit
	if key.Attached() {
		if err := tx.Set(record.ChildKey(key.Parent, key.ID), nil); err != nil {
			return err
		}
	}
	b, err := offline(tx, stopped(r.now))
	if err != nil {
		return err
	}
	b.reindex = true
	if err := writeKey(b, old, key, &rec, nil); err != nil {
		return err
	}
	r.digest.Add(id, rec.Encode())
	r.done.sums.Keys[key.Recorded()]++
	return nil
}
