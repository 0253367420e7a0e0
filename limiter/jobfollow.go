package limiter

import (
	"errors"
	"fmt"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// Where several nodes share a store, a job is recorded by the node that was asked, and
// carried out by the one that leads. Once it is recorded, each node refuses the keys
// that match: those in memory once it has followed, others as they are loaded; and a
// change by a node that has not followed yet ends a matching key, too. A node may judge a
// key differently from the node that leads, because of use that only its own memory knows.
// So at the end each node ends the keys that it has stopped but the node that leads has
// not found.

// followJobs lets memory follow the jobs that other nodes have begun or ended.
func (l *Limiter) followJobs() error {
	var added []*job
	over := false // whether a job has ended that this node had not heard of
	err := l.committer.LookPatiently(func(r store.Reader) error {
		stored, err := readJobs(r)
		if err != nil {
			return err
		}
		over = l.jobs.heardOf(stored)
		added = l.jobs.adopt(stored)
		l.jobs.follow(stored)
		return nil
	}, nil)
	if err != nil {
		return fmt.Errorf("following jobs: %w", err)
	}
	for _, j := range added {
		_, cut := l.stopMatching(j, l.clock.Now())
		j.cut.Store(int64(cut))
		j.ready.Store(true)
		l.log.Info("keys are being revoked by another node", "job", j.number.Load(), "requests_cut", cut, "by", j.snapshot().By)
	}
	l.jobs.nudge()
	if over { // this read may be ahead of the news of the keys that the job has ended
		return l.refreshKeys(l.everyID(), nil)
	}
	return nil
}

// finishJob ends the keys that this node has stopped for a job, but that the node which
// carried it out has not found.
func (l *Limiter) finishJob(j *job) error {
	j.skipped = nil
	ids, _ := l.unended(j, nil)
	s := j.snapshot()
	cut := int(j.cut.Load())
	for first := true; len(ids) > 0 || first && cut > 0; first = false {
		step := ids[:min(len(ids), bulkKeys)]
		var ended []*record.Key
		err := l.committer.DoPatiently(func(b *batch) error {
			ended = nil
			if err := l.fetchKeys(b, step); err != nil {
				return err
			}
			for _, id := range step {
				key, _, err := b.endIn(&s, id)
				if err != nil && !errors.Is(err, store.ErrNotFound) && !(errors.Is(err, errUnread) && l.leaveOut("ending a job", id, err)) {
					return err
				}
				if key != nil {
					ended = append(ended, key)
				}
			}
			after, err := readJob(b, s.Number)
			if errors.Is(err, store.ErrNotFound) {
				return nil
			}
			if err != nil || len(ended) == 0 && cut == 0 {
				return err
			}
			after.Revoked += int64(len(ended))
			after.Matched += int64(len(ended))
			after.Cut += cut
			return b.setJob(&after)
		}, func() { l.followEnded(ended) })
		if err != nil {
			return err
		}
		ids, cut = ids[len(step):], 0
		j.cut.Store(0)
	}
	l.jobs.remove(j)
	return nil
}

// readJob reads the record of a job.
func readJob(r store.Reader, number int64) (j Job, err error) {
	there, err := record.FindJSON(r, jobKey(number), &j, fmt.Sprintf("job %d", number))
	if err == nil && !there {
		err = store.ErrNotFound
	}
	return j, err
}

// picksStored reports whether a job matches a key, as a transaction reads it.
func (l *Limiter) picksStored(r store.Reader, key *record.Key, s *Job) (bool, error) {
	if !s.Filter.byUse() {
		return s.Filter.picks(&View{Key: *key}, s.At), nil
	}
	k, err := l.stored(r, key)
	if err != nil {
		return false, err
	}
	v := k.view(s.At)
	return s.Filter.picks(&v, s.At), nil
}
