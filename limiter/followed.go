package limiter

import (
	"errors"
	"slices"

	"github.com/till-proxy/till/limiter/store"
)

// followTokens lets memory follow the admin tokens with these ids; nil: all of them.
func (l *Limiter) followTokens(ids []string) error {
	var found []*AdminToken
	var gone []string
	looked := make(chan error, 1)
	l.committer.Look(func(r store.Reader) error {
		found, gone = nil, nil
		known := ids
		if ids == nil {
			known = l.tokens.ids()
			err := r.Scan(tokenKey(""), nil, false, func(at, _ []byte) (bool, error) {
				if id := string(at[len(tokenKey("")):]); !slices.Contains(known, id) {
					known = append(known, id)
				}
				return true, nil
			})
			if err != nil {
				return err
			}
		}
		for _, id := range known {
			rec, err := readToken(r, id)
			switch {
			case errors.Is(err, store.ErrNotFound):
				gone = append(gone, id)
			case err != nil:
				return err
			default:
				found = append(found, rec)
			}
		}
		return nil
	}, func(err error) {
		if err == nil {
			for _, rec := range found {
				l.tokens.put(rec)
			}
			for _, id := range gone {
				if rec, ok := l.tokens.get(id); ok {
					l.tokens.drop(&rec)
				}
			}
		}
		looked <- err
	})
	return <-looked
}

func (t *tokens) ids() []string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	ids := make([]string, 0, len(t.byID))
	for id := range t.byID {
		ids = append(ids, id)
	}
	return ids
}

// followJobs lets memory follow the jobs that other nodes have begun or ended.
func (l *Limiter) followJobs() error {
	var jobs []Job
	looked := make(chan error, 1)
	l.committer.Look(func(r store.Reader) (err error) {
		jobs, err = readJobs(r)
		return err
	}, func(err error) {
		if err == nil {
			l.takeOverJobs(jobs)
		}
		looked <- err
	})
	return <-looked
}

func (l *Limiter) takeOverJobs(jobs []Job) {
	var begun []*job
	l.jobsMu.Lock()
	for i := range jobs {
		at := slices.IndexFunc(l.jobs, func(j *job) bool { return j.number.Load() == jobs[i].Number })
		switch {
		case at < 0 && !jobs[i].Done():
			j := newJob(jobs[i])
			l.jobs = append(l.jobs, j)
			begun = append(begun, j)
		case at >= 0 && !l.jobs[at].ready.Load() && jobs[i].Done():
			close(l.jobs[at].done)
			l.jobs = slices.Delete(l.jobs, at, at+1)
		}
	}
	l.jobsMu.Unlock()
	for _, j := range begun {
		l.stopMatching(j)
	}
}
