package limiter_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// damage makes a key's record one that cannot be read, of which no node hears, and returns
// what was there, for mend.
func (c *nodes) damage(id string) (was map[string][]byte) {
	c.t.Helper()
	row := record.RecordKey(id)
	was = map[string][]byte{string(row): c.row(row)}
	c.Write(c.t, func(tx store.Tx) error { return tx.Set(row, []byte("{")) })
	return was
}

// TestAJobEndsAllKeysButThoseWhoseRecordsAreDamaged: it is not done before those are ended,
// too, as they may be read again.
func TestAJobEndsAllKeysButThoseWhoseRecordsAreDamaged(t *testing.T) {
	for which, rows := range rowsOf(t, "key_01M86CH3M0D7699WF51GHGBEE1") {
		if len(rows) > 1 {
			continue // a revocation does without parts
		}
		t.Run(which, func(t *testing.T) {
			withNodes(t, 2, func(t *testing.T, c *nodes) {
				w, others := c.leader()
				before := w.mint(ownedBy("anna"))
				bad := w.mint(ownedBy("anna"))
				var good []*key
				for range 300 {
					good = append(good, w.mint(ownedBy("anna")))
				}
				before.revoke()
				row := rowsOf(t, bad.id)[which][0]
				was := c.row(row)
				c.spoil(record.RecordKey(bad.id), row)
				j := others[0].revokeAll("anna")
				c.pass(5 * time.Second)
				time.Sleep(5 * time.Second)
				if acts := w.acts(good[len(good)-1].id); !strings.Contains(acts, audit.ActKeyRevoke) {
					t.Errorf("a key is not revoked because the record of another is damaged: %s", acts)
				}
				now, err := w.JobOf(limiter.Operator, fmt.Sprint(j.Number))
				if err != nil || now.Done() || now.Revoked != 300 || !strings.Contains(now.Failure, bad.id) {
					t.Errorf("the job says %+v, %v", now, err)
				}
				c.mend(map[string][]byte{string(row): was})
				if code := bad.on(w).use(); code != record.CodeKeyRevoked {
					t.Errorf("the key whose record can be read again: %q", code)
				}
				done, err := w.mended(j.Number)
				if err != nil || !done.Done() || done.Revoked != 301 || done.Matched != 302 || done.Already != 1 {
					t.Errorf("at the end it says %+v, %v", done, err)
				}
				if acts := w.acts(bad.id); !strings.Contains(acts, audit.ActKeyRevoke) {
					t.Errorf("the key whose record can be read again: %s", acts)
				}
			})
		})
	}
}

// TestAJobCountsWhatWasDamagedOnce and does not pass over a key whose account is lost, which
// a repair makes anew.
func TestAJobCountsWhatWasDamagedOnce(t *testing.T) {
	for _, which := range []string{"the record", "the account"} {
		for _, lost := range []bool{false, true} {
			if lost && which == "the record" {
				continue // then there is no such key
			}
			for _, before := range []bool{false, true} {
				t.Run(fmt.Sprint(which, ", lost ", lost, ", revoked before ", before), func(t *testing.T) {
					withNodes(t, 2, func(t *testing.T, c *nodes) {
						w, others := c.leader()
						w.mint(ownedBy("anna"))
						bad := w.mint(ownedBy("anna"))
						if before {
							bad.revoke()
						}
						row := rowsOf(t, bad.id)[which][0]
						was := c.row(row)
						if lost {
							c.Write(t, func(tx store.Tx) error { return tx.Delete(row) })
						} else {
							c.spoil(record.RecordKey(bad.id), row)
						}
						j := others[0].revokeAll("anna")
						c.pass(5 * time.Second)
						time.Sleep(5 * time.Second)
						if now, err := w.JobOf(limiter.Operator, fmt.Sprint(j.Number)); err != nil || now.Done() && !before {
							t.Errorf("the job says %+v, %v", now, err)
						}
						c.mend(map[string][]byte{string(row): was})
						done, err := w.mended(j.Number)
						already := int64(0)
						if before {
							already = 1
						}
						if err != nil || done.Matched != 2 || done.Already != already || done.Revoked != 2-already {
							t.Errorf("at the end it says %+v, %v", done, err)
						}
						if code := bad.on(w).use(); code != record.CodeKeyRevoked {
							t.Errorf("the key whose record can be read again: %q", code)
						}
					})
				})
			}
		}
	}
}

// TestAJobGoesOnBesideAnyNumberOfDamagedKeys, more than it remembers by their ids, and says
// how many there are.
func TestAJobGoesOnBesideAnyNumberOfDamagedKeys(t *testing.T) {
	for which, inMemory := range map[string]bool{"in memory": true, "not in memory": false} {
		t.Run(which, func(t *testing.T) { goesOnBesideDamagedKeys(t, inMemory) })
	}
}

func goesOnBesideDamagedKeys(t *testing.T, inMemory bool) {
	var log bytes.Buffer
	withNodes(t, 1, func(t *testing.T, c *nodes) {
		w := c.w[0]
		was, broken := make(map[string][]byte), make(map[string][]byte)
		var bad []*key
		damage := func(k *key, row []byte) {
			was[string(row)], broken[string(row)] = c.row(row), []byte("{")
			bad = append(bad, k)
		}
		const records, accounts, revoked = limiter.BulkUnread + 40, 30, 3
		for i := range records + accounts {
			k := w.mint(ownedBy("anna"))
			if i%100 == 0 && i < records { // which the job finds revoked, once it can be read
				k.revoke()
			}
			which := "the record"
			if i >= records {
				which = "the account"
			}
			damage(k, rowsOf(t, k.id)[which][0])
		}
		stays := w.mint(ownedBy("ben"))
		var good []*key
		for range 3 {
			good = append(good, w.mint(ownedBy("anna")))
		}
		left := int64(len(bad))
		if c.restartClean(w); inMemory {
			left -= revoked // this node knows that they are
			for _, k := range bad {
				k.use()
			}
		}
		c.Write(t, func(tx store.Tx) (err error) { // which no node hears of
			for row, value := range broken {
				err = errors.Join(err, tx.Set([]byte(row), value))
			}
			return err
		})
		j := w.revokeAll("anna")
		now, err := w.Await(ctx, limiter.Operator, j.Number)
		if err != nil || now.Done() || now.Left != left || now.Revoked != int64(len(good)) || !strings.Contains(now.Failure, fmt.Sprint(left)) {
			t.Fatalf("the job says %+v, %v", now, err)
		}
		time.Sleep(3 * time.Minute) // in which it looks again
		if again, err := w.Await(ctx, limiter.Operator, j.Number); err != nil || again.Left != now.Left || again.Matched != now.Matched {
			t.Errorf("later it says %+v, %v", again, err)
		}
		for _, k := range good {
			if acts := w.acts(k.id); !strings.Contains(acts, audit.ActKeyRevoke) {
				t.Errorf("not revoked because the records of others are damaged: %s", acts)
			}
		}
		for _, k := range bad {
			if code := k.use(); code == "" {
				t.Error("a key that cannot be read is used")
			}
		}
		if code := stays.use(); code != "" {
			t.Errorf("another key: %q", code)
		}
		synctest.Wait()
		if n := strings.Count(log.String(), "a job cannot go on now"); n != 1 {
			t.Errorf("it is logged %d times", n)
		}
		c.mend(was)
		done, err := w.mended(j.Number)
		if all := int64(len(bad) + len(good)); err != nil || done.Matched != all || done.Already != revoked || done.Revoked != all-revoked || done.Left != 0 || done.Failure != "" {
			t.Errorf("at the end it says %+v, %v", done, err)
		}
		for _, k := range bad {
			if code := k.use(); code != record.CodeKeyRevoked {
				t.Errorf("a key that can be read again: %q", code)
			}
		}
	}, func(w *world) { w.log = slog.New(slog.NewTextHandler(&log, nil)) })
}

// TestJobsThatWaitForDamagedKeysHoldUpNoOthers: they may wait for ever.
func TestJobsThatWaitForDamagedKeysHoldUpNoOthers(t *testing.T) {
	withNodes(t, 1, func(t *testing.T, c *nodes) {
		w := c.w[0]
		bad := w.mint(ownedBy("anna"))
		c.restartClean(w)
		was := c.damage(bad.id)
		var waiting []limiter.Job
		for range limiter.MostJobs - 1 {
			j := w.revokeAll("anna")
			if now, err := w.Await(ctx, limiter.Operator, j.Number); err != nil || now.Left != 1 {
				t.Fatalf("a job says %+v, %v", now, err)
			}
			waiting = append(waiting, j)
		}
		good := w.mint(ownedBy("ben"))
		began := time.Now()
		j := w.revokeAll("ben")
		if now, err := w.Await(ctx, limiter.Operator, j.Number); err != nil || !now.Done() || now.Revoked != 1 {
			t.Errorf("another job says %+v, %v", now, err)
		}
		if d := time.Since(began); d > time.Second { // of the bubble's time
			t.Errorf("it took %s", d)
		}
		if code := good.use(); code != record.CodeKeyRevoked {
			t.Errorf("its key: %q", code)
		}
		waiting = append(waiting, w.revokeAll("anna"))
		if _, err := w.RevokeMany(limiter.Operator, limiter.Filter{Owner: "anna"}, false, ""); !errors.Is(err, limiter.ErrJobs) {
			t.Errorf("with %d that wait: %v", len(waiting), err)
		}
		c.mend(was)
		var revoked int64
		for _, j := range waiting {
			done, err := w.mended(j.Number)
			if err != nil || done.Matched != done.Revoked+done.Already {
				t.Errorf("at the end a job says %+v, %v", done, err)
			}
			revoked += done.Revoked
		}
		if revoked != 1 {
			t.Errorf("%d keys were revoked", revoked)
		}
	})
}

// TestAJobNamesADamagedKeyOnlyToWhoSeesAll: nobody knows whose that key is.
func TestAJobNamesADamagedKeyOnlyToWhoSeesAll(t *testing.T) {
	roles := map[string]record.Role{"maker": {Permissions: []record.Permission{record.KeysCreate, record.KeysRevoke}}}
	withNodes(t, 1, func(t *testing.T, c *nodes) {
		w := c.w[0]
		bad := w.mint(ownedBy("anna"))
		_, by := w.hire(limiter.Operator, "maker", "maker")
		c.restartClean(w)
		c.damage(bad.id)
		j, err := w.RevokeMany(by, limiter.Filter{Owner: "anna"}, false, "")
		if err != nil {
			t.Fatal(err)
		}
		for caller, names := range map[*limiter.Caller]bool{&by: false, &limiter.Operator: true} {
			now, err := w.Await(ctx, *caller, j.Number)
			if err != nil || now.Left != 1 || now.Failure == "" || strings.Contains(now.Failure, bad.id) != names {
				t.Errorf("to %s the job says %+v, %v", caller.Name, now, err)
			}
		}
	}, func(w *world) { w.roles = roles })
}

// TestAJobThatIsDoneLateIsKept: what became of it can be asked as long as of others.
func TestAJobThatIsDoneLateIsKept(t *testing.T) {
	withNodes(t, 1, func(t *testing.T, c *nodes) {
		w := c.w[0]
		bad := w.mint(ownedBy("anna"))
		c.restartClean(w)
		was := c.damage(bad.id)
		end := func(owner string) limiter.Job {
			t.Helper()
			now, err := w.Await(ctx, limiter.Operator, w.revokeAll(owner).Number)
			if err != nil {
				t.Fatal(err)
			}
			return now
		}
		late := end("anna")
		for range limiter.KeepJobs + 1 {
			end("ben")
		}
		c.mend(was)
		if done, err := w.mended(late.Number); err != nil || done.Revoked != 1 {
			t.Errorf("at the end it says %+v, %v", done, err)
		}
		for range limiter.KeepJobs - 1 {
			end("ben")
		}
		if _, err := w.JobOf(limiter.Operator, fmt.Sprint(late.Number)); err != nil {
			t.Errorf("later: %v", err)
		}
	})
}
