package upstream

import (
	"container/list"
	"hash/maphash"
	"slices"
	"strings"
	"time"
)

// A Responses request may name what its vendor has stored of earlier answers. If those
// answers passed through here, they said how many tokens that is at most: the parts of
// an answer together have no more than its output, and continuing an answer adds no
// more than its input and its output. So the ids of answers are kept for the key that
// received them; requests of any other key are bounded as if the ids did not exist.
//
// A model's words count again as input, together with what a template puts around
// them; a margin is added for that. The next request may read again input that a
// vendor left out (thoughts of earlier turns), so what may have been left out is added
// to what an answer reported. Another model has another vocabulary and counts pictures
// differently, so an id is valid only for the model that it was learned from.

// Earlier is the stored content that a request names, as far as its key has seen it,
// and what is needed to learn from the answer.
type Earlier struct {
	Tokens int64 // the most tokens of what the key has seen
	Unseen int64 // how many thoughts the key has not seen; each is a part of some model's answer
	Window bool  // only the context window bounds some of it

	key         string
	served      served
	answered    uint64 // the model of the answers that the bound rests on; 0: none, or several
	mixed       bool   // the answers are of several models
	worst       stored
	weight      int64 // the tokens of worst
	names       bool
	teaches     bool  // the ids of the answer are worth keeping
	continuable bool  // the answer's own id is worth keeping
	pictures    bool  // a request that continues the answer has pictures
	media       bool  // it has, or may have, sound, films or files
	thoughts    int64 // tokens that the vendor may have left out of the input
	least       int64 // the fewest tokens of input that are credible
}

// Given are the ids that an answer gives itself and its items.
type Given struct {
	response string
	items    []string
	opened   int  // how many items began
	named    int  // how many ids of items were read
	strange  bool // it holds, or may hold, content that its output does not bound
}

// Outcome is what an answer reported, and what was held for it.
type Outcome struct {
	Model  string
	Input  int64 // tokens; negative: not known
	Output int64 // the most tokens
	Held   int64 // tokens of input
	Final  bool  // the whole answer came, and reported its usage
}

// answer is what is remembered of one answer that a key received. It is immutable.
type answer struct {
	ids      []string
	served   served
	model    uint64 // the model that answered
	output   int64  // tokens of all items together
	context  int64  // tokens that continuing it adds; negative: not known
	thoughts int64  // see Earlier
	pictures bool
	media    bool
	restated bool // the key has sent something under this id
	given    time.Time
}

// keyAnswers are the answers that one key received, the oldest first.
type keyAnswers struct {
	key  string
	byID map[string]*answer
	all  []*answer
}

// answerMemory is the part of a Memory about answers. The Memory's mutex guards it.
type answerMemory struct {
	keys  map[string]*list.Element // of *keyAnswers, by the key's id
	used  *list.List               // the most recently used one is in front
	total int                      // how many ids all keys have
}

const (
	// perKeyIDs is how many ids are kept per key. A step of an agent produces some
	// four, so these are the last 500 steps.
	perKeyIDs = 2048
	// maxIDs bounds the ids of all keys. Each takes some 200 bytes: 26 MB.
	maxIDs = 1 << 17
	// maxGiven is how many ids are read from one answer.
	maxGiven = 256
	// answerLifetime is how long ids are valid. Vendors keep answers for 30 days, but
	// a model's name may lead to another model meanwhile.
	answerLifetime = 24 * time.Hour
	// itemMargin is more tokens than a template puts around an item.
	itemMargin = 32
)

// ownItems are the prefixes of the ids of items that are a model's own words, and so
// are bounded by the output of their answer: reasoning, messages, and calls of tools
// that the client runs. (See the descriptions of the items in openai-openapi, and the
// ids in its examples.) What a vendor's own tools found is not among them.
var ownItems = []string{"rs_", "msg_", "fc_", "ctc_", "lsh_", "sh_", "apc_", "cu_"}

// answerID returns the map key of an answer's own id, which no item's id equals.
func answerID(id string) string { return "\x00" + id }

// Earlier looks up what a request names. It returns nil for requests that cannot name
// anything. upstream is where the request goes, and p describes it.
func (m *Memory) Earlier(key, upstream string, p *Preset, e *Estimate) *Earlier {
	if !e.responses() {
		return nil
	}
	own := p.OwnModels && !p.Routes // elsewhere the model and its template may be someone else's
	r := &Earlier{key: key, served: served{upstream, e.Model}, names: len(e.stored) > 0, teaches: own, continuable: own && !e.shortened && !e.remote, thoughts: e.thoughts, least: max(e.text/credibleBytesPerToken, 1)}
	m.restate(key, e.sent)
	e.unsure = m.boundStored(r, e.stored, p)
	e.Pictures, e.Media = e.Pictures || r.pictures || r.Window, e.Media || r.media || r.Window
	r.pictures, r.media = e.Pictures, e.Media
	return r
}

// boundStored bounds what is stored. unsure says that some of it may have changed
// since an earlier request: items that the key did not receive, or that it has sent
// again.
func (m *Memory) boundStored(r *Earlier, all []stored, p *Preset) (unsure bool) {
	if len(all) == 0 {
		return false
	}
	found := m.seenAnswers(r, all)
	times := make(map[string]int, len(all)) // how often an id is in the request
	counted := make(map[*answer]int)        // how often an answer was counted
	for i, s := range all {
		weight := int64(1) << 60
		a := found[i]
		own := p.OwnModels && s.kind == storedThoughts || p.Name == "openai" && s.kind == storedItem && strings.HasPrefix(s.id, "rs_")
		unsure = unsure || s.kind == storedItem && (a == nil && !own || a != nil && a.restated)
		switch {
		case a == nil && own:
			r.Unseen++
			r.continuable = false
			weight = 1 << 50
		case a == nil, s.kind == storedAnswer && a.context < 0:
			r.Window, r.continuable = true, false
		default:
			weight = itemMargin
			if s.kind == storedAnswer {
				weight = a.context
				r.thoughts = add(r.thoughts, a.thoughts)
				r.pictures, r.media = r.pictures || a.pictures, r.media || a.media
			} else if times[s.id]++; times[s.id] > counted[a] {
				counted[a]++
				weight = add(a.output, a.output/16+itemMargin)
				if a.restated {
					r.pictures, r.media = r.pictures || a.pictures, r.media || a.media
				}
				r.thoughts = add(r.thoughts, weight)
			}
			r.Tokens = add(r.Tokens, weight)
			r.mixed = r.mixed || r.answered != 0 && r.answered != a.model
			r.answered = a.model
		}
		if weight > r.weight {
			r.worst, r.weight = s, weight
		}
	}
	if r.worst.id != "" {
		r.worst.id = strings.Clone(r.worst.id) // so that the request's text can be freed
	}
	return unsure
}

// restate records the items that a key sends under ids that it received: from now on
// those ids may mean these items.
func (m *Memory) restate(key string, all []sent) {
	if len(all) == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.answers.keys[key]
	if at == nil {
		return
	}
	known := at.Value.(*keyAnswers)
	for _, s := range all {
		a := known.byID[s.id]
		if a == nil || s.tokens <= a.output && (!s.media || a.restated && a.media) {
			continue
		}
		changed := *a
		changed.ids, changed.output, changed.restated = []string{strings.Clone(s.id)}, max(a.output, s.tokens), true
		changed.media = s.media || a.restated && a.media
		changed.pictures = changed.media
		known.byID[changed.ids[0]] = &changed
		known.all = append(known.all, &changed)
	}
	m.shorten(known)
}

// shorten drops the oldest answers of a key that has too many. Callers hold m.mu.
func (m *Memory) shorten(known *keyAnswers) {
	for len(known.byID) > perKeyIDs || len(known.all) > perKeyIDs {
		m.answers.total -= known.dropOldest()
	}
}

// seenAnswers returns the answers that the key received for each stored item; nil for
// one that it has not seen.
func (m *Memory) seenAnswers(r *Earlier, all []stored) []*answer {
	found := make([]*answer, len(all))
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.answers.keys[r.key]
	if at == nil || !m.trusts(r.served, now) {
		return found
	}
	m.answers.used.MoveToFront(at)
	known := at.Value.(*keyAnswers)
	for i, s := range all {
		id := s.id
		if s.kind == storedAnswer {
			id = answerID(id)
		}
		if s.kind == storedConversation {
			continue
		}
		if a := known.byID[id]; a != nil && a.served == r.served && now.Sub(a.given) < answerLifetime {
			found[i] = a
		}
	}
	return found
}

// Names reports whether the request names anything that is stored.
func (r *Earlier) Names() bool { return r != nil && r.names }

// Seen reports whether the request's bound rests on what answers reported.
func (r *Earlier) Seen() bool { return r != nil && r.Tokens > 0 }

// Worst returns what makes the request largest, and what the client can do about it.
func (r *Earlier) Worst() (what, help string) { return r.worst.String(), r.worst.help() }

// Bound returns the most tokens of a request with everything that it names, if it holds
// so many itself; false where that is not known. price is that of its model, or nil,
// and longest the longest answer of any model of its vendor, or 0.
func (r *Earlier) Bound(holds int64, price *Price, longest int64) (int64, bool) {
	if !r.Names() {
		return holds, true
	}
	var context int64
	if price != nil {
		context = price.Context
	}
	window := r.Window || r.Unseen > 0 && longest == 0
	if window && context == 0 {
		return 0, false
	}
	if window {
		return max(holds, context), true
	}
	n := add(r.Tokens, r.Unseen*(longest+longest/16+itemMargin))
	if context > 0 {
		n = max(min(n, context-holds), 0)
	}
	return add(holds, n), true
}

// Teach learns from an answer. It must be called before the client can send its next
// request, that is, as soon as the last byte of the answer is known. An answer that
// was cut short teaches only that its items are not longer than it was allowed to be.
func (m *Memory) Teach(r *Earlier, g *Given, o Outcome) {
	now := m.now()
	model := maphash.String(m.seed, o.Model)
	switch {
	case r.Seen() && o.Input > o.Held:
		m.distrust(r.key, r.served, now.AddDate(100, 0, 0))
		m.excess(Excess{r.key, r.served.upstream, r.served.model, o.Input, o.Held})
		return
	case o.Final && r.Seen() && (r.mixed || r.answered != model):
		m.distrust(r.key, r.served, now.Add(lifetime)) // several models may answer, and each counts differently
		return
	case g == nil, !r.teaches, o.Output < 0, !o.Final && o.Model == "":
		return
	}
	a := &answer{served: r.served, model: model, output: o.Output, context: -1, pictures: r.pictures, media: r.media, given: now}
	for _, id := range g.items {
		if slices.ContainsFunc(ownItems, func(begin string) bool { return strings.HasPrefix(id, begin) }) {
			a.ids = append(a.ids, id)
		} else {
			g.strange = true
		}
	}
	if o.Final && r.continuable && g.response != "" && !g.strange && g.opened == g.named && o.Input >= r.least {
		again := add(o.Output, o.Output/16+int64(len(g.items))*itemMargin)
		a.context = add(add(o.Input, again), add(r.thoughts, boundary))
		a.thoughts = add(r.thoughts, again)
		a.ids = append(a.ids, answerID(g.response))
	}
	if len(a.ids) > 0 {
		m.note(r.key, a)
	}
}

// note keeps an answer. If there are too many, it replaces the oldest answer of the
// least recently used key.
func (m *Memory) note(key string, a *answer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.answers.keys[key]
	if at == nil {
		at = m.answers.used.PushFront(&keyAnswers{key: key, byID: make(map[string]*answer)})
		m.answers.keys[key] = at
	}
	m.answers.used.MoveToFront(at)
	known := at.Value.(*keyAnswers)
	var replaced []*answer // answers that lose ids to this one: no vendor issues an id twice, but self-hosted servers do
	for _, id := range a.ids {
		old := known.byID[id]
		if old != nil && old.served == a.served {
			a.output, a.context, a.thoughts = max(a.output, old.output), max(a.context, old.context), max(a.thoughts, old.thoughts)
		}
		if old != nil && !slices.Contains(replaced, old) {
			replaced = append(replaced, old)
		}
	}
	before := len(known.byID)
	for _, id := range a.ids {
		known.byID[id] = a
	}
	known.all = append(known.all, a)
	known.forget(replaced)
	m.answers.total += len(known.byID) - before
	m.shorten(known)
	for m.answers.total > maxIDs {
		last := m.answers.used.Back()
		known := last.Value.(*keyAnswers)
		m.answers.total -= known.dropOldest()
		if len(known.all) == 0 {
			m.forgetAnswers(known.key)
		}
	}
}

// dropOldest forgets the oldest answer, and returns how many ids went with it.
func (k *keyAnswers) dropOldest() int {
	before := len(k.byID)
	for _, id := range k.all[0].ids {
		if k.byID[id] == k.all[0] {
			delete(k.byID, id)
		}
	}
	k.all[0] = nil
	k.all = k.all[1:]
	return before - len(k.byID)
}

// forget drops those of the answers that have no id left.
func (k *keyAnswers) forget(some []*answer) {
	for _, a := range some {
		if i := slices.Index(k.all, a); i >= 0 && !slices.ContainsFunc(a.ids, func(id string) bool { return k.byID[id] == a }) {
			k.all = slices.Delete(k.all, i, i+1)
		}
	}
}

// forgetAnswers drops all answers of a key. Callers hold m.mu.
func (m *Memory) forgetAnswers(key string) {
	if at := m.answers.keys[key]; at != nil {
		m.answers.total -= len(m.answers.used.Remove(at).(*keyAnswers).byID)
		delete(m.answers.keys, key)
	}
}

func (g *Given) open() {
	if g != nil {
		g.opened++
	}
}

// name records an id. A stream repeats the ids of items.
func (g *Given) name(at place, id string) {
	if g == nil {
		return
	}
	switch {
	case at == inOutputItem:
		g.named++
		if slices.Contains(g.items, id) {
			return
		}
		if len(id) == 0 || len(id) > maxStoredID || len(g.items) == maxGiven {
			g.strange = true
			return
		}
		g.items = append(g.items, id)
	case g.response != "" && g.response != id, len(id) > maxStoredID:
		g.strange = true
	default:
		g.response = id
	}
}
