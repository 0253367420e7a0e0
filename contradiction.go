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

// A limit in tokens or dollars holds as long as an upstream does what is written
// into its requests, and adds no more to them than is held. An answer that shows
// otherwise is charged in full and remembered: from then on such keys are refused
// there, until the operator has set the option that mends it.
//
// What an answer says is believed: an upstream has the credential, and one that
// lies about its use can end every key already by saying that it used much.

// contradiction is what one answer showed.
type contradiction struct {
	Upstream  string   `json:"upstream"`
	Addresses []string `json:"addresses"`
	// Option is the one that mends it, and Setting what it was set to; empty: not.
	Option  string    `json:"option"`
	Setting string    `json:"setting,omitempty"`
	Held    int64     `json:"held,omitempty"` // tokens
	Seen    int64     `json:"seen,omitempty"`
	KeyID   string    `json:"key_id"`
	At      time.Time `json:"at"`
}

// The options by which an operator mends what an upstream contradicts.
const (
	outputFieldOption = "output_field"
	inputExtraOption  = "input_extra"
	askUsageOption    = "ask_usage"
)

// applies reports whether it is about an upstream as it is configured: the option
// is not set, or as it was.
func (c *contradiction) applies(t *target, option string) bool {
	if c.Option != option || c.Upstream != t.name || !slices.ContainsFunc(c.Addresses, func(a string) bool { return slices.Contains(t.declared, a) }) {
		return false
	}
	set := t.settings[option]
	if option == inputExtraOption && set != "" {
		now, _ := strconv.ParseInt(set, 10, 64) // what a configuration said that was accepted
		then, err := strconv.ParseInt(c.Setting, 10, 64)
		return err == nil && now <= then
	}
	return set == "" || set == c.Setting
}

// String says it to whoever asks with a key.
func (c *contradiction) String() string {
	if c == unreadableFile {
		return "what upstreams contradicted before cannot be read here: whoever runs this server must look into its log"
	}
	if c.Option == inputExtraOption {
		return fmt.Sprintf("upstream %s counted an input of %d tokens where %d were held: whoever runs this server must set input_extra %d for it",
			c.Upstream, c.Seen, c.Held, c.sufficientExtra())
	}
	return fmt.Sprintf("upstream %s answered with %d tokens where %d were allowed: whoever runs this server must set output_field for it",
		c.Upstream, c.Seen, c.Held)
}

// sufficientExtra is an input_extra that would have been enough, and something for others.
func (c *contradiction) sufficientExtra() int64 {
	extra, _ := strconv.ParseInt(c.Setting, 10, 64) // none: 0
	return (extra+c.Seen-c.Held)/100*100 + 200
}

// contradictions are what the upstreams of one store were seen to contradict.
// They live with the store, and in a file beside it, so that neither a reload nor
// a restart forgets them.
type contradictions struct {
	path  string
	disk  store.Disk
	log   *slog.Logger
	total *prometheus.CounterVec // by upstream, option

	list atomic.Pointer[[]contradiction] // nil until the file was read
	mu   sync.Mutex                      // guards changes of list
	turn chan struct{}                   // held by whoever writes the file

	reading sync.Mutex
	nextTry time.Time // to read it, guarded by reading
}

const (
	// maxContradictions bounds those that are kept: the oldest goes.
	maxContradictions = 256
	// maxContradictionsFile bounds what is read of the file, in bytes.
	maxContradictionsFile = 1 << 20
)

func newContradictions(dir string, total *prometheus.CounterVec, log *slog.Logger) *contradictions {
	return &contradictions{path: filepath.Join(dir, "contradictions"), disk: store.Files{}, log: log, total: total, turn: make(chan struct{}, 1)}
}

// unreadableFile stands against every upstream while the file cannot be read: one of them
// may be in it.
var unreadableFile = new(contradiction)

// load reads the file, unless that was done, and returns what is known; nil while
// that is nothing.
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
		c.log.Error("what upstreams contradicted before cannot be read, so keys with a limit in tokens or dollars are refused; put the file back, or remove it", "file", c.path, "error", err)
		return nil
	}
	c.list.Store(&list)
	return &list
}

// find returns what stands against an upstream as it is configured, or nil.
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

// add remembers what an answer of an upstream showed, unless it is known, and
// returns it whole, and whether it was news.
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

// save makes what was learnt outlive a restart.
func (c *contradictions) save() {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	b, err := json.Marshal(c.list.Load())
	if err == nil {
		_, err = os.Stat(filepath.Dir(c.path)) // one that was moved away is not made anew
	}
	if err == nil {
		err = c.disk.Replace(c.path, b)
	}
	if err != nil {
		c.log.Error("what an upstream contradicted cannot be written down; a restart will forget it", "file", c.path, "error", err)
	}
}

// endMarks are tokens by which servers pass a bound that they do read, an answer:
// they count the token that ends it, or the one that they looked ahead.
const endMarks = 16

// contradicts returns what an answer that came to its end shows, if it does. Half of
// a report is enough.
func (u *usage) contradicts(status int) (c contradiction, ok bool) {
	if u.meter == nil || status >= 300 || u.unbounded {
		return c, false
	}
	output, seen := u.allowed(), u.reportedUsage()
	longest, widest := u.outputs(output), max(u.input, u.estimate.Input)
	switch {
	case output > 0 && seen.Output > longest+endMarks*u.estimate.Answers:
		c = contradiction{Option: outputFieldOption, Held: longest, Seen: seen.Output}
	case seen.Input > widest && !u.earlier.Seen(): // else what was remembered is wrong
		c = contradiction{Option: inputExtraOption, Held: widest, Seen: seen.Input}
	default:
		return c, false
	}
	return c, u.meter.Final() && (u.readToEnd || u.meter.Ended())
}

// recordContradiction learns from an answer, after it was charged.
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
	l.log.Error("an answer passed what was held for it: keys with a limit in tokens or dollars are refused at this upstream until that is mended",
		"upstream", x.target.name, "key_id", c.KeyID, "model", fmt.Sprintf("%.64q", x.usage.estimate.Model),
		"option", c.Option, "held_tokens", c.Held, "reported_tokens", c.Seen, "mend", mend)
	l.save()
}
