package till

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/till-proxy/till/limiter/store"
)

// A limit in tokens or dollars holds only as long as an upstream obeys what is written
// into its requests, and adds no more to them than is held. An answer that shows
// otherwise is charged in full and recorded as a contradiction: from then on keys with
// such a limit are refused at that upstream, until the operator has set the option that
// fixes it.
//
// Answers are trusted in this: an upstream has the credential anyway, and by
// reporting false use it could end every key already.

// contradiction is what one answer showed.
type contradiction struct {
	Upstream  string   `json:"upstream"`
	Addresses []string `json:"addresses"`
	// Option is the option that fixes it, and Setting its value then; empty if it
	// was not set.
	Option  string    `json:"option"`
	Setting string    `json:"setting,omitempty"`
	Held    int64     `json:"held,omitempty"` // tokens
	Seen    int64     `json:"seen,omitempty"`
	KeyID   string    `json:"key_id"`
	At      time.Time `json:"at"`
}

// The options with which an operator resolves a contradiction.
const (
	outputFieldOption = "output_field"
	inputExtraOption  = "input_extra"
	askUsageOption    = "ask_usage"
)

// applies reports whether the contradiction concerns an upstream as it is configured
// now: the option is not set, or has the same value as then.
func (c *contradiction) applies(t *target, option string) bool {
	if c.Option != option || c.Upstream != t.name || !slices.ContainsFunc(c.Addresses, func(a string) bool { return slices.Contains(t.declared, a) }) {
		return false
	}
	set := t.settings[option]
	if option == inputExtraOption && set != "" {
		now, _ := strconv.ParseInt(set, 10, 64) // valid: the configuration was accepted
		then, err := strconv.ParseInt(c.Setting, 10, 64)
		return err == nil && now <= then
	}
	return set == "" || set == c.Setting
}

// String explains the contradiction to a client.
func (c *contradiction) String() string {
	if c == unreadableFile {
		return "the record of what upstreams contradicted cannot be read: the operator of this server must look into its log"
	}
	if c.Option == inputExtraOption {
		return fmt.Sprintf("upstream %s counted an input of %d tokens where %d were held: the operator of this server must set input_extra %d for it",
			c.Upstream, c.Seen, c.Held, c.sufficientExtra())
	}
	return fmt.Sprintf("upstream %s answered with %d tokens where %d were allowed: the operator of this server must set output_field for it",
		c.Upstream, c.Seen, c.Held)
}

// sufficientExtra returns an input_extra that would have been enough, with some room
// for other requests.
func (c *contradiction) sufficientExtra() int64 {
	extra, _ := strconv.ParseInt(c.Setting, 10, 64) // 0 if there is none
	return (extra+c.Seen-c.Held)/100*100 + 200
}

// contradictions are the contradictions of one store's upstreams. They are kept in a
// file beside the store, so that neither a reload nor a restart forgets them.
type contradictions struct {
	path  string
	disk  store.Disk
	log   *slog.Logger
	total *prometheus.CounterVec // by upstream, option

	list atomic.Pointer[[]contradiction] // nil until the file has been read
	mu   sync.Mutex                      // held while list is changed
	turn chan struct{}                   // held while the file is written

	reading sync.Mutex
	nextTry time.Time // to read the file; guarded by reading
}

const (
	// maxContradictions is how many are kept; the oldest is dropped.
	maxContradictions = 256
	// maxContradictionsFile is the longest file that is read, in bytes.
	maxContradictionsFile = 1 << 20
)

func newContradictions(path string, total *prometheus.CounterVec, log *slog.Logger) *contradictions {
	return &contradictions{path: path, disk: store.Files{}, log: log, total: total, turn: make(chan struct{}, 1)}
}

// unreadableFile applies to every upstream while the file cannot be read, because
// any of them may be in it.
var unreadableFile = new(contradiction)

// load reads the file unless that was done already, and returns the contradictions,
// or nil if they cannot be read.
func (c *contradictions) load() *[]contradiction {
	if list := c.list.Load(); list != nil {
		return list
	}
	c.reading.Lock()
	defer c.reading.Unlock()
	if list := c.list.Load(); list != nil || time.Now().Before(c.nextTry) {
		return list
	}
	b, err := c.disk.ReadFile(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		b, err = []byte("[]"), nil
	}
	var list []contradiction
	if err == nil && len(b) > maxContradictionsFile {
		err = fmt.Errorf("it has %d bytes", len(b))
	}
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil {
		c.nextTry = time.Now().Add(reopenDamagedAfter)
		c.log.Error("the record of what upstreams contradicted cannot be read, so keys with a limit in tokens or dollars are refused; put the file back, or remove it", "file", c.path, "error", err)
		return nil
	}
	c.list.Store(&list)
	return &list
}

// find returns the contradiction that applies to an upstream as it is configured, or
// nil.
func (c *contradictions) find(t *target, option string) *contradiction {
	if c == nil {
		return nil
	}
	list := c.load()
	if list == nil {
		return unreadableFile
	}
	for i := range *list {
		if (*list)[i].applies(t, option) {
			return &(*list)[i]
		}
	}
	return nil
}

// add records what an answer of an upstream showed, unless it is known already. It
// returns the complete record, and whether it is new.
func (c *contradictions) add(t *target, seen contradiction) (contradiction, bool) {
	if c == nil || c.find(t, seen.Option) != nil {
		return seen, false
	}
	seen.Upstream, seen.Addresses, seen.Setting, seen.At = t.name, t.declared, t.settings[seen.Option], time.Now().UTC()
	if seen.Option == inputExtraOption && seen.Setting == "" {
		seen.Setting = strconv.FormatInt(t.preset.ServerInput(), 10)
	}
	c.mu.Lock()
	if c.find(t, seen.Option) != nil {
		c.mu.Unlock()
		return seen, false
	}
	old := *c.list.Load()
	list := append(slices.Clone(old[max(0, len(old)+1-maxContradictions):]), seen)
	c.list.Store(&list)
	c.mu.Unlock()
	c.total.WithLabelValues(t.name, seen.Option).Inc()
	return seen, true
}

func (c *contradictions) save() {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	b, err := json.Marshal(c.list.Load())
	if err == nil {
		_, err = os.Stat(filepath.Dir(c.path)) // a directory that was moved away is not recreated
	}
	if err == nil {
		err = c.disk.Replace(c.path, b)
	}
	if err != nil {
		c.log.Error("what an upstream contradicted cannot be saved; a restart will forget it", "file", c.path, "error", err)
	}
}

// endMarks is how many tokens per answer a server may exceed a bound by although it
// obeys it: some count the token that ends the answer, or one token of lookahead.
const endMarks = 16

// contradicts returns what a complete answer shows, if it contradicts anything. Half
// of a report is enough.
func (u *usage) contradicts(status int) (c contradiction, ok bool) {
	if u.meter == nil || status >= 300 || u.unbounded {
		return c, false
	}
	output, seen := u.allowed(), u.reportedUsage()
	longest, widest := u.outputs(output), max(u.input, u.estimate.Input)
	switch {
	case output > 0 && seen.Output > longest+endMarks*u.estimate.Answers:
		c = contradiction{Option: outputFieldOption, Held: longest, Seen: seen.Output}
	case seen.Input > widest && !u.earlier.Seen(): // otherwise what was remembered is wrong
		c = contradiction{Option: inputExtraOption, Held: widest, Seen: seen.Input}
	default:
		return c, false
	}
	return c, u.meter.Final() && (u.readToEnd || u.meter.Ended())
}

// recordContradiction checks an answer after it was charged, and records what it
// contradicts.
func (x *exchange) recordContradiction() {
	if x.usage == nil || x.target.contradictions == nil {
		return
	}
	if x.stoppedAsking {
		x.target.contradictions.save()
	}
	c, ok := x.usage.contradicts(int(x.status.Load()))
	if !ok {
		return
	}
	c.KeyID = x.grant.Key().ID
	l := x.target.contradictions
	if c, ok = l.add(x.target, c); !ok {
		return
	}
	mend := fmt.Sprintf("set input_extra %d for this upstream", c.sufficientExtra())
	if c.Option == outputFieldOption {
		mend = "set output_field for this upstream to the field that the server reads: max_tokens, max_completion_tokens or both"
	}
	l.log.Error("an answer passed what was held for it: keys with a limit in tokens or dollars are refused at this upstream until that is fixed",
		"upstream", x.target.name, "key_id", c.KeyID, "model", fmt.Sprintf("%.64q", x.usage.estimate.Model),
		"option", c.Option, "held_tokens", c.Held, "reported_tokens", c.Seen, "mend", mend)
	l.save()
}
