package limiter

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// A job that ends keys proceeds in steps, each a commit of its own, so that it never
// delays other commits and a crash between two steps costs nothing.

// These bound the keys that one commit of a job ends, and those that it examines.
const (
	bulkKeys   = 256
	bulkBytes  = 256 << 10 // of their records
	bulkLooked = 2048
	bulkRetry  = time.Second
	bulkUnread = 256         // keys that a job remembers by id because their records cannot be read
	bulkAgain  = time.Minute // until a job goes through all keys again, if more cannot be read
)

// errUnread says that a key's record cannot be read, and that nothing was written to it.
var errUnread = errors.New("it is not known what is to be done with a key")

// endIn revokes a key in a batch. It returns nil if the key is revoked already.
// since says that this happened after the job's record was written, by a change to
// a key with a pending revocation.
func (b *batch) endIn(s *Job, id string) (key *record.Key, since bool, err error) {
	old, acct, err := record.ReadKey(b, id)
	if isDamaged(err) {
		err = fmt.Errorf("%w: %w", errUnread, err)
	}
	if err != nil || old.EndedStatus == record.Revoked {
		return nil, err == nil && old.Judged >= s.Number, err
	}
	key = old.Clone()
	key.Judged = max(key.Judged, s.Number) // though the job's record may not be written yet
	return key, false, b.endKey(old, key, &acct, s.ending(b.clock.Now()))
}

func (l *Limiter) followEnded(ended []*record.Key) {
	for _, key := range ended {
		l.follow(key, func(k *Live) { k.revocation = nil })
	}
}

// jobsLoop works on one job after another. It ends between two commits.
func (l *Limiter) jobsLoop() {
	defer close(l.jobs.stopped)
	defer func() {
		for _, j := range l.jobs.running() {
			if j.ahead != nil {
				<-j.ahead
			}
		}
	}()
	for {
		j, again := l.jobs.next(l.leads)
		if j == nil {
			select {
			case <-l.stop:
				return
			case <-l.jobs.wake:
			case <-again:
			}
			continue
		}
		select {
		case <-l.stop:
			return
		default:
		}
		err := l.step(j)
		if errors.Is(err, store.ErrClosed) {
			return
		}
		news := j.fail(err)
		if err == nil {
			continue
		}
		l.jobs.delay(j)
		if news {
			l.log.Error("a job cannot go on now", "job", j.number.Load(), "error", err)
		}
		if j.ready.Load() {
			l.jobs.pause(j, bulkRetry) // the others go on meanwhile
		}
	}
}

// step is one commit of a job.
func (l *Limiter) step(j *job) error {
	if j.number.Load() == 0 {
		return l.recordJob(j)
	}
	if j.over.Load() {
		return l.finishJob(j)
	}
	s := j.snapshot()
	p, err := l.candidates(j, s.Cursor)
	if err != nil {
		return err
	}
	l.lookAhead(j, p)
	ids, already, next := p.ids, p.already, p.next
	unread, late := unite(s.Unread, p.unread), int64(0)
	whole := next == ""
	elsewhere := int64(0)
	if whole { // now the keys in memory that no index led to
		var rest []string
		rest, elsewhere = l.unended(j, ids)
		if len(rest) > bulkKeys {
			ids, already, next, whole, unread = rest[:bulkKeys], 0, s.Cursor, false, s.Unread
		} else {
			again := l.lookAgain(j, unread)
			if again.err != nil {
				return again.err
			}
			ids, unread, late = unite(again.ids, append(ids, rest...)), again.unread, again.already
		}
	}
	var ended []*record.Key
	var after Job
	var over bool        // another node has done the last step
	var cut int64        // how much of j.cut this commit counts
	var skipped []string // keys that could not be read when they were to end
	var part bool        // some are left to the next step, which begins where this one did
	err = l.committer.DoPatiently(func(b *batch) error {
		ended, after, over, cut, skipped, part = nil, s, false, 0, nil, false
		next, whole, already, late := next, whole, already, late
		changed := elsewhere // counted at the end
		before := after
		if b.Shared() {
			// Other nodes count in the record what they end, and one that led
			// before may have come further.
			stored, err := readJob(b, s.Number)
			if err != nil {
				return err
			}
			if after, over = stored, stored.Done(); over || stored.Cursor != s.Cursor || stored.Again != s.Again || stored.More != s.More || !slices.Equal(stored.Unread, s.Unread) {
				return nil
			}
			before, changed, cut = after, 0, j.cut.Load()
			after.Cut += int(cut)
		}
		if after.Again { // keys revoked before the job are counted again
			after.Matched -= after.Already
			after.Already, after.More, after.Again = 0, 0, false
		}
		left := unread
		if err := l.fetchKeys(b, ids); err != nil {
			return err
		}
		for _, id := range ids {
			if part = len(ended) > 0 && b.Full(); part {
				break
			}
			key, since, err := b.endIn(&s, id)
			switch {
			case errors.Is(err, errUnread):
				left, skipped = unite(left, []string{id}), append(skipped, id)
			case err != nil && !errors.Is(err, store.ErrNotFound):
				return err
			case key != nil:
				ended = append(ended, key)
			case since && !b.Shared(): // a change ended it before this step was written
				changed++
			}
		}
		if part {
			next, whole, already, late, left = s.Cursor, false, 0, 0, unite(s.Unread, skipped)
		}
		named := min(len(left), bulkUnread)
		after.Cursor, after.Unread, after.More = next, left[:named], after.More+int64(len(left)-named)
		rest, counted := int64(named)+after.More, already+late
		done := whole && rest == 0
		switch {
		case done:
			after.Left = 0
			after.Revoked += changed
			after.Matched += changed
		case whole && after.More > 0: // only a pass over all keys finds them again
			after.Cursor, after.Again, after.Left = "", true, rest
		case whole: // this step is repeated
			after.Cursor, after.Left, counted = s.Cursor, rest, late
		}
		after.Already += counted
		after.Revoked += int64(len(ended))
		after.Matched += int64(len(ended)) + counted
		if !done && reflect.DeepEqual(after, before) {
			return nil
		}
		if done {
			after.DoneAt = l.clock.Now().UTC()
			if err := forgetJobs(b); err != nil {
				return err
			}
		}
		return b.setJob(&after)
	}, func() {
		l.followEnded(ended)
		j.set(after)
		j.cut.Add(-cut)
	})
	if err != nil {
		return err
	}
	whole = whole && !part
	if j.skip(skipped); whole {
		j.skipped = nil
	}
	switch {
	case over:
		j.over.Store(true) // the keys that this node has stopped are still to be ended
	case after.Done():
		l.jobs.remove(j)
		l.log.Info("keys were revoked", "job", after.Number, "matched", after.Matched, "revoked", after.Revoked, "by", after.By)
	case whole && after.Left > 0:
		if after.Again {
			l.jobs.pause(j, bulkAgain)
		}
		return after.unreadable(true)
	}
	return nil
}

// skip notes keys that could not be read in this pass.
func (j *job) skip(ids []string) {
	if j.skipped == nil {
		j.skipped = make(map[string]bool)
	}
	for _, id := range ids {
		j.skipped[id] = true
	}
}

// unite returns the ids in either list, each once.
func unite(all, more []string) []string {
	all = slices.Clone(all)
	for _, id := range more {
		if !slices.Contains(all, id) {
			all = append(all, id)
		}
	}
	return all
}

// unended returns the keys in memory that a job has stopped and not yet ended, without those
// in but and those that could not be read. elsewhere counts the job's other keys that a change
// has ended.
func (c *cache) unended(j *job, but []string) (ids []string, elsewhere int64) {
	for _, k := range c.everyLive() {
		k.mu.Lock()
		switch {
		case k.revocation != j || k.gone || slices.Contains(but, k.key.ID):
		case k.halt == record.CodeKeyRevoked && !j.skipped[k.key.ID]:
			ids = append(ids, k.key.ID)
		case k.key.EndedStatus == record.Revoked && k.key.Judged >= j.number.Load():
			elsewhere++
		}
		k.mu.Unlock()
	}
	return ids, elsewhere
}

// forgetJobs removes the records of the jobs that are done, except the keepJobs done last. It
// does not go by number: a job may have waited until hundreds of others were done.
func forgetJobs(b *batch) error {
	jobs, err := readJobs(b)
	if err != nil {
		return err
	}
	done := slices.DeleteFunc(jobs[:max(len(jobs)-1, 0)], func(j Job) bool { return !j.Done() }) // the last one's number is needed
	slices.SortStableFunc(done, func(a, b Job) int { return a.DoneAt.Compare(b.DoneAt) })
	for i := range max(len(done)-keepJobs, 0) {
		if err := b.Delete(jobKey(done[i].Number)); err != nil {
			return err
		}
	}
	return nil
}
