package limiter

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/till-proxy/till/limiter/audit"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// A job is an act on many keys that takes some seconds: it ends all that match a
// filter at one moment. Its record is durable before it is acknowledged, and
// says how far it has come, so it goes on after a crash.
//
// From the call on, each key that matched then has a pending revocation: it is
// refused, at once if it is in memory, otherwise as soon as it is loaded. Keys
// that are minted or changed later must not be mistaken for these, and none of
// these may be missed because it changed. So jobs are numbered, and each record
// has the number of the last job before it was written (Key.Judged): a record
// with the job's own number was judged before it was written, and if the
// revocation was pending then, the same write has ended the key.
//
//	j/<number, 8 bytes>   Job, as JSON

// Job is how far a job has come.
type Job struct {
	Number int64     `json:"number"`
	Action string    `json:"action"` // ActKeyRevoke
	At     time.Time `json:"at"`     // the moment whose matches end
	By     string    `json:"by"`
	From   string    `json:"from,omitempty"`
	Token  string    `json:"token,omitempty"`
	Reason string    `json:"reason"`
	Filter Filter    `json:"filter"`

	// Matched counts the keys found so far, Revoked those of them that the job
	// has ended, Already those that had been revoked before.
	Matched int64 `json:"matched"`
	Revoked int64 `json:"revoked"`
	Already int64 `json:"already"`
	// Cut is how many running requests were ended.
	Cut    int    `json:"cut"`
	Cursor string `json:"cursor,omitempty"` // where to go on
	// Unread are keys whose records could not be read, bulkUnread of them at most. They
	// are tried again at the end, and until then the job is not done.
	Unread []string `json:"unread,omitempty"`
	// More counts such keys beyond bulkUnread. They are found again by going through all
	// keys, which Again says is due.
	More  int64 `json:"more,omitempty"`
	Again bool  `json:"again,omitempty"`
	// Left is how many could not be read, once all other keys are ended; 0 before.
	Left   int64     `json:"left,omitempty"`
	DoneAt time.Time `json:"done_at,omitzero"`
	// Failure is why the job cannot go on now. It is tried again.
	Failure string `json:"-"`
	// Pending names the nodes that have not yet heard of it; see [Limiter.Pending].
	Pending []string `json:"-"`
}

// Done reports whether nothing is left to do.
func (j *Job) Done() bool { return !j.DoneAt.IsZero() }

// unreadable says that only keys are left whose records cannot be read. It names one of them
// only to callers who see all keys, because nobody knows whose they are.
func (j *Job) unreadable(named bool) error {
	among := ""
	if named && len(j.Unread) > 0 {
		among = ", among them " + slices.Min(j.Unread) // the same each time
	}
	return fmt.Errorf("all other keys are revoked, but the records of %d cannot be read%s: these are refused, and end once they can be read", j.Left, among)
}

const (
	maxJobs  = 16 // jobs that go on at a time
	mostJobs = 32 // including those with only unreadable keys left
	keepJobs = 32 // records of finished jobs that are kept
)

// ErrJobs says that too many jobs run.
var ErrJobs = fmt.Errorf("%d jobs are running, or %d with those that wait for keys which cannot be read: wait until one is done, or repair the records; GET jobs lists them", maxJobs, mostJobs)

// job is a job that runs.
type job struct {
	at     time.Time // at, filter and once never change
	filter Filter
	once   *Once

	number  atomic.Int64 // 0 until its record is durable
	mu      sync.Mutex
	state   Job
	stopped []stoppedKey  // keys that were in memory at the call, while number is 0
	done    chan struct{} // closed at the end
	stands  chan struct{} // closed, by standing, once only unreadable keys are left
	ready   atomic.Bool   // jobsLoop may go on with it
	ahead   chan found    // what the next step ends; only jobsLoop uses it
	over    atomic.Bool   // another node has ended the keys it knew of; see finishJob
	cut     atomic.Int64  // requests that this node cut when it followed the job

	// Only jobsLoop uses these: the keys that could not be read in this pass, so that those
	// in memory are not tried again in it, and the failure that was logged last.
	skipped map[string]bool
	logged  string

	standing sync.Once
}

// stoppedKey is a key that matched a job, and the record that was judged.
type stoppedKey struct {
	k   *Live
	key *record.Key
}

func newJob(s Job) *job {
	j := &job{at: s.At, filter: s.Filter, done: make(chan struct{}), stands: make(chan struct{})}
	j.number.Store(s.Number)
	j.set(s)
	return j
}

// set notes how far a job has come.
func (j *job) set(s Job) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if s.Left > 0 {
		j.standing.Do(func() { close(j.stands) })
	}
	if s.Failure = j.state.Failure; s.Done() {
		s.Failure = ""
	}
	j.state = s
}

// fail notes why a job cannot go on now, or that it can. It reports whether a failure is news.
func (j *job) fail(err error) (news bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.state.Failure = ""; err != nil {
		j.state.Failure = err.Error()
		news, j.logged = j.logged != j.state.Failure, j.state.Failure
	}
	return news
}

func (j *job) snapshot() Job {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.state
	s.Number = j.number.Load()
	return s
}

func jobKey(number int64) []byte {
	return binary.BigEndian.AppendUint64([]byte(record.SpaceJobs), uint64(max(number, 0)))
}

func readJobs(r store.Reader) (jobs []Job, err error) {
	err = r.Scan([]byte(record.SpaceJobs), nil, false, func(key, value []byte) (bool, error) {
		var j Job
		if err := json.Unmarshal(value, &j); err != nil || len(key) != len(jobKey(0)) || string(key) != string(jobKey(j.Number)) {
			return false, errors.Join(fmt.Errorf("job %x: %w", key, record.ErrRecord), err)
		}
		jobs = append(jobs, j)
		return true, nil
	})
	return jobs, err
}

func (b *batch) setJob(j *Job) error {
	b.revocations.wrote(j)
	return record.SetJSON(b, jobKey(j.Number), j)
}

// recallJobs resumes the jobs that a crash or a stop has interrupted, or that another
// node has begun. No key is in memory yet.
func (l *Limiter) recallJobs(jobs []Job) {
	for _, j := range l.jobs.adopt(jobs) {
		j.ready.Store(true)
		l.log.Info("a job goes on", "job", j.number.Load(), "matched", j.snapshot().Matched)
	}
}

// Jobs lists the jobs that run and the last ones that did, as far as the caller
// may see them, the newest first.
func (l *Limiter) Jobs(by Caller) ([]Job, error) {
	if err := l.authorise(by, record.KeysRevoke, nil); err != nil {
		return nil, err
	}
	stored, err := store.Read(l.store, readJobs)
	if err != nil {
		return nil, fmt.Errorf("reading jobs: %w", err)
	}
	running := make(map[int64]Job)
	for _, j := range l.jobs.running() {
		s := j.snapshot()
		running[s.Number] = s
	}
	jobs := []Job{}
	for i := len(stored) - 1; i >= 0; i-- {
		j := stored[i]
		if now, ok := running[j.Number]; ok {
			if l.shared == nil {
				j = now
			}
			j.Failure = now.Failure // in a shared store, the record knows the rest best
		}
		if all := l.seesAll(by); j.Left > 0 && (j.Failure == "" || !all) { // another node goes on with it, or it looks again
			j.Failure = j.unreadable(all).Error()
		}
		if by.Role == record.OperatorRole || by.Token != "" && by.Token == j.Token {
			jobs = append(jobs, j)
		}
	}
	return jobs, nil
}

// JobOf returns one of [Limiter.Jobs] by its number, as text.
func (l *Limiter) JobOf(by Caller, number string) (Job, error) {
	jobs, err := l.Jobs(by)
	if err != nil {
		return Job{}, err
	}
	n, err := strconv.ParseInt(number, 10, 64)
	for i := range jobs {
		if err == nil && jobs[i].Number == n {
			return jobs[i], nil
		}
	}
	return Job{}, store.ErrNotFound
}

// stopIfMatched stops a key that matches a job, and returns that job. Callers hold the key.
func (k *Live) stopIfMatched(jobs []*job) *job {
	for _, j := range jobs {
		if k.gone || k.revocation != nil && k.halt == record.CodeKeyRevoked || !j.matches(k.key, func(at time.Time) View { return k.view(at) }) {
			continue
		}
		k.revocation = j
		if k.key.EndedStatus != record.Revoked {
			k.halt = record.CodeKeyRevoked
			k.kept.Store(nil)
			return j
		}
	}
	return nil
}

// matches reports whether a key matched at the moment of the call. The fields that
// a job's filter compares must not change while it runs.
func (j *job) matches(key *record.Key, view func(at time.Time) View) bool {
	if n := j.number.Load(); n != 0 && key.Judged >= n {
		return false // it was judged before it was written
	}
	v := view(j.at)
	return j.filter.picks(&v, j.at)
}

// ending is how a job ends a key.
func (j *Job) ending(at time.Time) ending {
	return ending{
		by: Caller{Name: j.By, From: j.From, Token: j.Token}, action: audit.ActKeyRevoke,
		status: record.Revoked, code: record.CodeKeyRevoked, reason: j.Reason, at: at,
	}
}

// revocations are what every change has to know about the jobs. Where several nodes share
// the store, a job may have been begun elsewhere and not be known to memory, so the
// jobs are read in the transaction.
type revocations struct {
	last, next int64                // the number of the last job, durably and after this batch
	ofLive     func(id string) *job // the job that is to end the key, or nil
	// picked reports whether a job matches a key, as the transaction reads it.
	picked func(r store.Reader, key *record.Key, j *Job) (bool, error)

	read    bool
	running []Job // of a shared store, after this batch
}

// Begin implements commit.Participant.
func (r *revocations) Begin(t *commit.Transaction) error {
	r.next, r.read, r.running = r.last, false, nil
	return nil
}

// Finish implements commit.Participant.
func (r *revocations) Finish(*commit.Transaction) error { return nil }

// Committed implements commit.Participant.
func (r *revocations) Committed() { r.last = r.next }

// latest is the number of the last job.
func (r *revocations) latest(t *commit.Transaction) (int64, error) {
	if r.read || !t.Shared() {
		return r.next, nil
	}
	jobs, err := readJobs(t)
	if err != nil {
		return 0, err
	}
	for _, j := range jobs {
		r.next = max(r.next, j.Number)
		if !j.Done() {
			r.running = append(r.running, j)
		}
	}
	r.read = true
	return r.next, nil
}

// number gives the next job its number.
func (r *revocations) number(t *commit.Transaction) (int64, error) {
	if _, err := r.latest(t); err != nil {
		return 0, err
	}
	t.Touch()
	r.next++
	return r.next, nil
}

// wrote notes that a job was written in this batch.
func (r *revocations) wrote(j *Job) {
	r.running = slices.DeleteFunc(r.running, func(o Job) bool { return o.Number == j.Number })
	if !j.Done() {
		r.running = append(r.running, *j)
	}
}

// pending is the job that is to end a key, or nil. old is the record in the store, which
// is what the job judges. In a shared store, pending counts the end that follows in the
// job's record.
func (b *batch) pending(old, key *record.Key) (*Job, error) {
	r := b.revocations
	if old == nil || old.EndedStatus == record.Revoked || key.EndedStatus == record.Revoked {
		return nil, nil
	}
	var known *job
	if r.ofLive != nil {
		known = r.ofLive(key.ID)
	}
	if known != nil && (!b.Shared() || known.number.Load() == 0) {
		s := known.snapshot()
		return &s, nil
	}
	if !b.Shared() {
		return nil, nil
	}
	if _, err := r.latest(b.Transaction); err != nil {
		return nil, err
	}
	for _, s := range r.running {
		hit := known != nil && known.number.Load() == s.Number
		if !hit && old.Judged < s.Number {
			var err error
			if hit, err = r.picked(b, old, &s); err != nil {
				return nil, err
			}
		}
		if hit {
			s.Revoked, s.Matched = s.Revoked+1, s.Matched+1
			return &s, b.setJob(&s)
		}
	}
	if known != nil { // the others are done with it
		s := known.snapshot()
		return &s, nil
	}
	return nil, nil
}

// liveRevocation is the job that is to end a key in memory, or nil.
func (c *cache) liveRevocation(id string) *job {
	k := c.loaded(id)
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.halt != record.CodeKeyRevoked {
		return nil
	}
	return k.revocation
}

// Interface guards
var _ commit.Participant = (*revocations)(nil)
