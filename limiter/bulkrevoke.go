package limiter

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

// bounded restricts a filter to what the caller sees, even while the job goes on without
// the caller.
func (a *authority) bounded(by Caller, f Filter) (Filter, error) {
	f.Sort, f.Cursor, f.Limit = "created", "", 0
	if by.Role == record.OperatorRole {
		return f, nil
	}
	role := a.policy(by.Role)
	if role == nil || by.Token == "" {
		return f, a.noted(by, a.forbidden(by, record.KeysRevoke))
	}
	switch role.Sees {
	case record.SeesAll:
	case record.SeesRole:
		f.Within = &Within{Token: by.Token, Role: by.Role}
	default:
		f.Within = &Within{Token: by.Token}
	}
	return f, nil
}

// RevokeMany ends every key that the filter picks and the caller sees. When it
// returns, they are refused in memory and their running requests are cut, on every
// node that shares the store and is not listed as pending. A job ends them durably; see
// [Limiter.Await]. Unless all is set, the filter must not pick every key.
func (l *Limiter) RevokeMany(by Caller, f Filter, all bool, reason string) (Job, error) {
	if err := l.authorise(by, record.KeysRevoke, nil); err != nil {
		return Job{}, err
	}
	if err := errors.Join(f.validate(), record.ValidText("reason", reason)); err != nil {
		return Job{}, err
	}
	if f.empty() && !all {
		return Job{}, record.Invalid("filter", `picks every key: name at least one of %s, or say "all": true`, BulkNames())
	}
	f, err := l.bounded(by, f)
	if err != nil {
		return Job{}, err
	}
	if reason = token.Scrub(reason); reason == "" {
		reason = "revoked by " + by.Name
	}
	j := newJob(Job{
		Action: audit.ActKeyRevoke, At: l.clock.Now().UTC(), By: by.Name, From: by.From, Token: by.Token, Reason: reason, Filter: f,
	})
	j.once = by.once
	if err := l.jobs.add(j); err != nil {
		return Job{}, err
	}
	stopped, cut := l.stopMatching(j, l.clock.Now())
	j.mu.Lock()
	j.stopped, j.state.Cut = stopped, cut
	j.mu.Unlock()
	err = l.recordJob(j)
	j.ready.Store(true)
	l.jobs.nudge()
	if err != nil {
		return j.snapshot(), fmt.Errorf("the keys are stopped in memory, but that is not yet durable: %w", err)
	}
	s := j.snapshot()
	s.Pending = l.Pending()
	l.log.Info("keys are being revoked", "job", s.Number, "requests_cut", s.Cut, "by", by.Name)
	return s, nil
}

// stopMatching stops the keys in memory that match a job, and cuts their requests.
func (c *cache) stopMatching(j *job, now time.Time) (all []stoppedKey, cut int) {
	jobs := []*job{j}
	keys := c.everyLive()
	if j.filter.Status != "" { // a child counts as revoked once its parent is stopped
		slices.SortFunc(keys, deeperFirst)
	}
	for _, k := range keys {
		k.mu.Lock()
		hit := k.stopIfMatched(jobs) != nil
		var refusal *record.Refusal
		if hit {
			refusal = k.stopped(now)
			all = append(all, stoppedKey{k, k.key})
		}
		k.mu.Unlock()
		if hit {
			cut += k.cut(refusal)
		}
	}
	return all, cut
}

// deeperFirst puts children before their parents.
func deeperFirst(a, b *Live) int { return cmp.Compare(b.Key().Depth, a.Key().Depth) }

// recordJob makes a job's record durable, with its number. A key with a pending revocation
// that changed before the record was written ends in the same commit or, where such keys are
// too many for one, before it: once the record is there, nothing else says that it is to end.
func (l *Limiter) recordJob(j *job) error {
	for {
		if whole, err := l.recordSome(j); whole || err != nil {
			return err
		}
	}
}

// recordSome is one commit of recordJob. It writes the record if it leaves no key for
// another commit.
func (l *Limiter) recordSome(j *job) (bool, error) {
	var number int64
	var ended []*record.Key
	var whole bool
	err := l.committer.Do(func(b *batch) error {
		ended, whole = nil, true
		if number = j.number.Load(); number != 0 {
			return nil // an attempt that was taken for lost has written it
		}
		latest, err := b.revocations.latest(b.Transaction)
		if err != nil {
			return err
		}
		s := j.snapshot()
		s.Number = latest + 1 // unless another job comes before the rest
		j.mu.Lock()
		stopped := j.stopped
		j.mu.Unlock()
		for _, d := range stopped {
			d.k.mu.Lock()
			changed := d.k.key != d.key && d.k.key.EndedStatus != record.Revoked && !d.k.gone
			d.k.mu.Unlock()
			if !changed {
				continue
			}
			if whole = len(ended) == 0 || !b.Full(); !whole {
				return nil
			}
			key, _, err := b.endIn(&s, d.key.ID)
			if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, errUnread) { // the last step ends it
				return err
			}
			if key != nil {
				ended = append(ended, key)
				s.Revoked, s.Matched = s.Revoked+1, s.Matched+1
			}
		}
		if number, err = b.revocations.number(b.Transaction); err != nil {
			return err
		}
		s.Number = number
		if err := b.onceIfFree(j.once, jobAbout(number)); err != nil {
			return err
		}
		return b.setJob(&s)
	}, func() {
		j.mu.Lock()
		if whole {
			j.number.Store(number)
			l.jobs.last.Store(max(l.jobs.last.Load(), number))
			j.stopped, j.state.Number = nil, number
		}
		j.state.Revoked += int64(len(ended))
		j.state.Matched += int64(len(ended))
		j.mu.Unlock()
		l.followEnded(ended)
	})
	if err != nil { // it may still be running
		return false, err
	}
	return whole, nil
}

// found are some of the keys that a job ends.
type found struct {
	cursor string // where these begin
	next   string // where to go on; empty at the end
	ids    []string
	// already counts the keys that had been revoked before the job.
	already int64
	// unread are those whose records cannot be read, so that it is not known whether they
	// match.
	unread []string
	bytes  int // of records that match
	err    error
}

// candidates are some of the keys that a job ends: those in memory that it has
// stopped, and others that match. They may have been looked up while the previous
// step, which is about other keys, was written.
func (l *Limiter) candidates(j *job, cursor string) (found, error) {
	if j.ahead != nil {
		p := <-j.ahead
		j.ahead = nil
		if p.cursor == cursor && p.err == nil {
			return p, nil
		}
	}
	p := l.lookUp(j, cursor)
	return p, p.err
}

// lookAhead begins to look up what comes after p.
func (l *Limiter) lookAhead(j *job, p found) {
	if p.next == "" || j.ahead != nil {
		return
	}
	ahead := make(chan found, 1)
	j.ahead = ahead
	go func() { ahead <- l.lookUp(j, p.next) }()
}

func (l *Limiter) lookUp(j *job, cursor string) found {
	f := j.filter
	f.Thorough = true
	f.Cursor = cursor
	p := found{cursor: cursor}
	unread := j.snapshot().Unread // lookAgain handles these
	p.err = store.Upkeep(l.store, func(r store.Reader) (err error) {
		p.next, err = l.scan(context.Background(), r, Operator, &f, bulkLooked, func(id string) (bool, error) {
			if slices.Contains(unread, id) {
				return true, nil
			}
			err := p.look(l, r, j, id)
			return len(p.ids) < bulkKeys && p.bytes < bulkBytes, err
		})
		return err
	})
	return p
}

// lookAgain looks up keys by their ids.
func (l *Limiter) lookAgain(j *job, ids []string) (p found) {
	if len(ids) == 0 {
		return p
	}
	p.err = store.Upkeep(l.store, func(r store.Reader) error {
		if err := l.fetchViews(r, ids); err != nil {
			return err
		}
		for _, id := range ids {
			if err := p.look(l, r, j, id); err != nil {
				return err
			}
		}
		return nil
	})
	return p
}

// look judges one key.
func (p *found) look(l *Limiter, r store.Reader, j *job, id string) error {
	err := p.judge(l, r, j, id)
	if isDamaged(err) {
		p.unread, err = append(p.unread, id), nil
	}
	return err
}

func (p *found) judge(l *Limiter, r store.Reader, j *job, id string) error {
	if k := l.loaded(id); k != nil {
		k.mu.Lock()
		hit, revoked := k.revocation == j, k.key.EndedStatus == record.Revoked
		judged := k.key.Judged >= j.number.Load()
		k.mu.Unlock()
		switch {
		case hit && revoked && judged: // ended by a change, and counted at the end
		case hit && revoked:
			p.already++
		case hit:
			p.ids = append(p.ids, id)
		}
		return nil
	}
	value, there, err := store.Find(r, record.RecordKey(id))
	if err != nil || !there { // the index entry belongs to no key, or the key was forgotten
		return err
	}
	key, err := record.DecodeKey(value)
	if err != nil {
		return fmt.Errorf("key %s: %w", id, err)
	}
	var failed error
	hit := j.matches(key, func(at time.Time) View {
		if !j.filter.byUse() {
			return View{Key: *key}
		}
		v, err := l.viewStored(r, key, at)
		failed = err
		return v
	})
	switch {
	case failed != nil:
		return failed
	case hit && key.EndedStatus == record.Revoked:
		p.already++
	case hit:
		p.ids = append(p.ids, id)
		p.bytes += len(value)
	}
	return nil
}

// scan calls fn with the keys that a filter's index leads to, until fn returns
// false or most keys were examined. It returns where to go on; empty at the end.
func (l *Limiter) scan(ctx context.Context, r store.Reader, by Caller, f *Filter, most int, fn func(id string) (bool, error)) (next string, err error) {
	q, err := l.query(r, by, f, l.clock.Now())
	if err != nil {
		return "", err
	}
	if err := q.start(f.Cursor); err != nil {
		return "", err
	}
	var last []byte
	var ahead []position
	step := firstStep
	for looked, more := 0, true; ; looked++ {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		over := !more || looked == most
		if len(ahead) == 0 {
			ahead, err = q.take(r, step)
			if err == nil && !over {
				err = l.fetchViews(r, idsOf(ahead))
			}
			if err != nil || len(ahead) == 0 {
				return "", err
			}
			step = sourceChunk
		}
		if over {
			return base64.RawURLEncoding.EncodeToString(last), nil
		}
		id := ahead[0].id
		last, ahead = ahead[0].at, ahead[1:]
		if more, err = fn(id); err != nil {
			return "", err
		}
	}
}

// Counted is how many keys RevokeMany would find, and how many of them it would end.
type Counted struct {
	Matched, Revocable int64
	// Before is the moment up to which keys count. With it as the filter's
	// CreatedBefore, RevokeMany ends no key that is minted after the count.
	Before time.Time
}

// mintsSettle is how old a key has to be, where several nodes share the store, for a
// count to include it. Each node follows the database's clock for itself, and another
// may already have stamped a key that it has yet to commit. With this margin, no key
// committed after a count is older than the count says. The newest keys that match are
// neither counted nor ended, because an end is for ever.
const mintsSettle = 2 * time.Second

// CountMatches counts the keys that RevokeMany would find.
func (l *Limiter) CountMatches(ctx context.Context, by Caller, f Filter) (Counted, error) {
	var n Counted
	if err := errors.Join(l.authorise(by, record.KeysRevoke, nil), f.validate()); err != nil {
		return n, err
	}
	f, err := l.bounded(by, f)
	if err != nil {
		return n, err
	}
	n.Before = l.clock.Now().UTC().Add(1)                // keys minted until now count
	if began := l.committer.Running(); !began.IsZero() { // keys stamped since then may not be visible yet
		n.Before = n.Before.Add(-time.Since(began) - 1)
	}
	if l.shared != nil {
		n.Before = n.Before.Add(-mintsSettle)
	}
	if !f.CreatedBefore.IsZero() && f.CreatedBefore.Before(n.Before) {
		n.Before = f.CreatedBefore
	}
	f.CreatedBefore, f.Thorough = n.Before, true
	for {
		err := store.Browse(l.store, func(r store.Reader) (err error) {
			f.Cursor, err = l.walk(ctx, r, Operator, &f, func(v View) bool {
				n.Matched++
				if v.Status != record.Revoked {
					n.Revocable++
				}
				return true
			})
			return err
		})
		if err != nil || f.Cursor == "" {
			return n, err
		}
	}
}

// Await waits until a job is done, has ended all keys but those that cannot be read, or
// the context is done. Where several nodes share the store, it waits for this node's part
// in the job, too.
func (l *Limiter) Await(ctx context.Context, by Caller, number int64) (Job, error) {
	s, err := l.JobOf(by, fmt.Sprint(number))
	if err != nil || s.Done() && l.shared == nil {
		return s, err
	}
	// The job's record can be read a moment before the committer gives the job in
	// memory its number, or another node may have begun it just now.
	if l.shared != nil {
		err = l.followJobs()
	} else {
		err = l.Ping(ctx)
	}
	if err != nil {
		return s, err
	}
	for _, j := range l.jobs.running() {
		if j.number.Load() != number {
			continue
		}
		select {
		case <-j.done:
			if l.shared == nil {
				return j.snapshot(), nil
			}
		case <-j.stands:
		case <-ctx.Done():
		case <-l.jobs.stopped:
			return j.snapshot(), store.ErrClosed
		}
	}
	return l.JobOf(by, fmt.Sprint(number))
}
