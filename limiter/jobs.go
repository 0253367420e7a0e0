package limiter

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// jobs are the jobs that this node knows of and that are not done.
type jobs struct {
	mu      sync.Mutex
	list    []*job
	last    atomic.Int64  // the number of the last job that this node has heard of
	wake    chan struct{} // holds one token when there may be something to do
	stopped chan struct{} // closed when no job goes on any more
}

// running returns the jobs that are on the list now.
func (s *jobs) running() []*job {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

// add takes a new job on, unless too many run. Keys that are loaded from here on are judged by it.
func (s *jobs) add(j *job) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	going := 0
	for _, o := range s.list {
		if o.snapshot().Left == 0 {
			going++
		}
	}
	if going >= maxJobs || len(s.list) >= mostJobs {
		return ErrJobs
	}
	s.list = append(s.list, j)
	return nil
}

// adopt adds the running jobs of the store that memory does not know, and returns
// them. Keys that are loaded from here on are judged by them.
func (s *jobs) adopt(stored []Job) (added []*job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range stored {
		known := func(j *job) bool { return j.number.Load() == stored[i].Number }
		if stored[i].Done() || slices.ContainsFunc(s.list, known) {
			continue
		}
		j := newJob(stored[i])
		s.list, added = append(s.list, j), append(added, j)
	}
	return added
}

// nudge says that there may be something to do.
func (s *jobs) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// leadAgain is how often a node that knows of jobs checks whether it leads.
const leadAgain = time.Second

// next is the job to go on with. Where several nodes share the store, one of them leads
// and does all jobs, and each does the part that only its own memory knows of; again says
// when to check whether this node leads.
func (s *jobs) next(leads func() bool) (_ *job, again <-chan time.Time) {
	ready := slices.DeleteFunc(s.running(), func(j *job) bool { return !j.ready.Load() })
	if len(ready) > 0 && !leads() {
		again = time.After(leadAgain)
		ready = slices.DeleteFunc(ready, func(j *job) bool { return j.number.Load() != 0 && !j.over.Load() })
	}
	if len(ready) == 0 {
		return nil, again
	}
	return ready[0], nil
}

// delay puts a job behind the others.
func (s *jobs) delay(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.list, j); i >= 0 {
		s.list = append(slices.Delete(s.list, i, i+1), j)
	}
}

// pause has a job wait before it goes on.
func (s *jobs) pause(j *job, d time.Duration) {
	j.ready.Store(false)
	time.AfterFunc(d, func() {
		j.ready.Store(true)
		s.nudge()
	})
}

// remove takes a job that is done off the list.
func (s *jobs) remove(j *job) {
	if j.ahead != nil {
		<-j.ahead
		j.ahead = nil
	}
	s.mu.Lock()
	s.list = slices.DeleteFunc(s.list, func(o *job) bool { return o == j })
	s.mu.Unlock()
	close(j.done)
}

// heardOf notes the jobs that were begun, and reports whether one that this node had
// not heard of has ended.
func (s *jobs) heardOf(stored []Job) (over bool) {
	last := s.last.Load()
	for i := range stored {
		if n := stored[i].Number; n > last {
			over = over || stored[i].Done()
			s.last.Store(max(s.last.Load(), n))
		}
	}
	return over
}

// follow notes how far the jobs in memory have come, and which of them are over:
// another node has ended them, or they are so old that the store no longer has them.
func (s *jobs) follow(stored []Job) {
	known := make(map[int64]Job, len(stored))
	for _, state := range stored {
		known[state.Number] = state
	}
	for _, j := range s.running() {
		number := j.number.Load()
		if number == 0 {
			continue
		}
		state, is := known[number]
		if is {
			j.set(state)
		}
		if !is || state.Done() {
			j.over.Store(true)
		}
	}
}
