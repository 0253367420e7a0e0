package upstream

import (
	"container/list"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"time"
)

// Memory remembers how many tokens the prefixes of conversations counted. An agent
// sends its whole conversation with every request, so most of a request was answered
// before, and its upstream reported the count of that: only the new part has to be
// bounded by its bytes.
//
// The count of a prefix applies to a longer request on these conditions: everything
// else that a model reads is the same, byte for byte; every element of the prefix's
// list is there, in the same order; and a vendor that leaves out thoughts of earlier
// turns, or tool results, leaves out more as a conversation grows, and not less.
// (Anthropic's and OpenAI's documentation says so of thoughts, and the templates of
// open models look for the last question. Requests with edits that clear tool
// results, and those that a server may shorten, are not remembered.) Where the
// template is not known, a prefix is used only for a request that ends with the same
// speaker: Mistral's older templates print the system prompt only when a user speaks
// last. A longer prefix never counts less than a shorter one of it, even if thoughts
// were left out meanwhile.
//
// The count needs a margin, because tokens merge across the boundary, and because the
// words that ask for the answer move to the end of the longer request.
//
// What an upstream reports affects only the key that sent the request. An answer that
// counts more than its bound ends the memory of its key, and of that model, for good.
type Memory struct {
	excess func(Excess)
	now    func() time.Time
	secret *secret
	seed   maphash.Seed

	mu         sync.Mutex
	keys       map[string]*list.Element // of *keyPrefixes, by the key's id
	used       *list.List               // the most recently used one is in front
	total      int                      // prefixes of all keys
	answers    answerMemory
	distrusted map[served]time.Time // when the distrust ends
	off        time.Time            // when the distrust of all models ends, after more were distrusted than can be kept
}

// Excess is an answer that reports more input than is possible if the remembered
// count of its conversation is right.
type Excess struct {
	Key, Upstream, Model string
	Reported, Bound      int64 // tokens
}

type served struct{ upstream, model string }

// keyPrefixes are the prefixes of one key, the most recently used one last.
type keyPrefixes struct {
	key      string
	prefixes []prefix
}

// prefix is a request that was answered.
type prefix struct {
	rest, all digest // of everything but the messages, and of the messages
	turns     int    // how many messages
	tokens    int64  // what the request or a prefix of it counted, whichever is more
	model     uint64 // the model that answered
	learned   time.Time
	ends      byte
	continued bool // a longer prefix continues this one, and counts instead
}

const (
	// perKeyPrefixes is how many prefixes a key may have, and perKeyContinued how
	// many of them may be continued in another. An agent and each of its helpers have
	// one that counts, however many turns they have made; the earlier ones serve
	// clients that edit a message, or continue from there in another way.
	perKeyPrefixes  = 64
	perKeyContinued = perKeyPrefixes / 2
	// maxPrefixes bounds the prefixes of all keys. Each takes some 100 bytes, and as
	// much again if every one is another key's: 16 MB.
	maxPrefixes = 1 << 16
	// lifetime is how long counts are valid. A name may lead to another model, a
	// template may be changed, and some print the date; the caches of vendors are
	// cold by then.
	lifetime      = time.Hour
	maxDistrusted = 1024
	// boundary is more tokens than can be added by merging across the end of a
	// prefix, by the words that ask for an answer, and by a date.
	boundary = 128
	// credibleBytesPerToken is the most bytes of text per token, on average, at which a
	// count is remembered: a count that leaves out cached tokens must not be.
	credibleBytesPerToken = 16
)

// NewMemory returns an empty Memory. It calls excess for answers that it cannot
// explain, without holding a lock.
func NewMemory(excess func(Excess)) *Memory {
	m := &Memory{secret: newSecret(), excess: excess, now: time.Now, seed: maphash.MakeSeed(), keys: make(map[string]*list.Element), used: list.New(), distrusted: make(map[served]time.Time)}
	m.answers.keys, m.answers.used = make(map[string]*list.Element), list.New()
	return m
}

// Recall is what is remembered of a request, and what is needed to learn from its
// answer.
type Recall struct {
	Input int64 // the most tokens; negative: nothing is known

	key         string
	served      served
	rest, all   digest
	turns       int
	ends        byte
	from        prefix // the prefix that the request continues, if Input is known
	least, most int64  // the range of credible counts
	left        int64
	thinks      bool
}

// Known returns how many tokens of Input belong to the remembered prefix.
func (r *Recall) Known() int64 {
	if r.Input < 0 {
		return 0
	}
	return r.from.tokens
}

// Recall looks up the longest remembered prefix of a request of the key. It returns nil
// for requests that nothing can be learned from. upstream is where the request goes,
// and p describes it.
func (m *Memory) Recall(key, upstream string, p *Preset, c *Call, e *Estimate) *Recall {
	d := spareDigesters.Get().(*digester)
	defer spareDigesters.Put(d)
	t, ok := e.conversation(d, m.secret, p, c, upstream)
	if !ok {
		return nil
	}
	r := &Recall{Input: -1, key: key, served: served{upstream, e.Model}, rest: t.rest, least: e.text / credibleBytesPerToken, most: e.Input}
	if e.Window || len(e.stored) > 0 {
		r.most = 1 << 40
	}
	known, ok := m.prefixesFor(r, d.room[:0])
	if !ok {
		return nil
	}
	var found [endsTool + 1]*prefix // by the last speaker
	var after [endsTool + 1]int     // where the new elements begin
	var last []byte
	hashed := false // r.all is the digest of all turns so far
	d.begin(m.secret)
	at := 1
	for {
		at += spaces(t.turns[at:])
		if t.turns[at] == ']' {
			break
		}
		last = t.turns[at:]
		n := c.outline.element(last)
		last = last[:n]
		d.mark(markList)
		d.outlined(last, c.outline)
		at += n
		r.turns++
		hashed = false
		for i := range known {
			b := &known[i]
			if b.turns != r.turns {
				continue
			}
			if !hashed {
				hashed, r.all = true, d.digest()
			}
			if b.all == r.all {
				found[b.ends], after[b.ends] = b, at
			}
		}
	}
	if r.turns == 0 {
		return nil
	}
	if !hashed {
		r.all = d.digest()
	}
	r.ends, r.left, r.thinks = speaker(last), d.left, d.thinks || len(e.stored) > 0
	best := r.ends
	if p.OwnModels {
		for ends := range found {
			if after[ends] > after[best] {
				best = byte(ends)
			}
		}
	}
	if found[best] != nil {
		m.boundContinuation(r, p, e, found[best], t.turns[:after[best]], t.turns[after[best]:])
		m.refresh(r)
	}
	return r
}

// boundContinuation bounds a request that continues a prefix: before is the part of
// its list that was counted, and rest what follows.
func (m *Memory) boundContinuation(r *Recall, p *Preset, e *Estimate, from *prefix, before, rest []byte) {
	fresh := e.reader
	i := 0
	for at := 0; ; at++ {
		i += spaces(rest[i:])
		if rest[i] == ']' {
			break
		}
		if e.responses() {
			i += fresh.item(rest[i:], at)
		} else {
			i += fresh.walk(rest[i:], "", inItem, 1)
		}
	}
	if fresh.defined > e.reader.defined {
		fresh.references = e.refs // earlier references may be to tools defined here
	}
	fresh.defined = e.reader.defined
	r.from = *from
	stored := &Earlier{key: r.key, served: r.served}
	m.boundStored(stored, fresh.stored, p)
	if fresh.window || fresh.err != nil || stored.Window || stored.Unseen > 0 {
		return
	}
	if fresh.encoded == 0 { // of what is not text, no letter was counted
		fresh.length -= excessBytes(before, rest, from.tokens, p.OwnModels)
	}
	r.Input = add(from.tokens, add(stored.Tokens, fresh.tokens()+r.left+boundary))
}

// prefixesFor returns the prefixes that a request may continue. It returns false
// where memory must not be trusted.
func (m *Memory) prefixesFor(r *Recall, into []prefix) ([]prefix, bool) {
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.trusts(r.served, now) {
		return nil, false
	}
	at := m.keys[r.key]
	if at == nil {
		return nil, true
	}
	m.used.MoveToFront(at)
	for _, b := range at.Value.(*keyPrefixes).prefixes {
		if b.rest == r.rest && now.Sub(b.learned) < lifetime {
			into = append(into, b)
		}
	}
	return into, true
}

// trusts reports whether the counts of a model are believed. Callers hold m.mu.
func (m *Memory) trusts(by served, now time.Time) bool {
	if now.Before(m.off) {
		return false
	}
	if until, ok := m.distrusted[by]; ok {
		if now.Before(until) {
			return false
		}
		delete(m.distrusted, by)
	}
	return true
}

// Learn takes the input that an answer reported, cached or not, and the model that it
// names. A report that is not final teaches nothing, except that more was used than
// the bound.
func (m *Memory) Learn(r *Recall, input int64, model string, final bool) {
	now := m.now()
	answered := maphash.String(m.seed, model)
	goesOn := r.from.turns > 0
	switch {
	case r.Input >= 0 && input > r.Input:
		m.distrust(r.key, r.served, now.AddDate(100, 0, 0))
		m.excess(Excess{r.key, r.served.upstream, r.served.model, input, r.Input})
		return
	case !final:
		return
	case goesOn && answered != r.from.model:
		m.distrust(r.key, r.served, now.Add(lifetime)) // several models may answer, and each counts differently
		return
	case input < max(r.least, 1), input > r.most, r.ends == endsOther:
		// The count makes no sense, or the request ends with words that the model is
		// to complete, which the next request closes.
		return
	case goesOn && input+r.left+boundary < r.from.tokens && !r.thinks:
		m.distrust(r.key, r.served, now.Add(lifetime)) // a longer request counted less: something was left out
		return
	}
	b := prefix{rest: r.rest, all: r.all, turns: r.turns, tokens: input, model: answered, learned: now, ends: r.ends}
	if goesOn {
		b.tokens = max(b.tokens, r.from.tokens)
	}
	m.keep(r, b)
}

// distrust forgets a key, and ignores the reports of that model until a given time.
func (m *Memory) distrust(key string, by served, until time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at := m.keys[key]; at != nil {
		m.forget(at)
	}
	m.forgetAnswers(key)
	if len(m.distrusted) >= maxDistrusted {
		now := m.now()
		maps.DeleteFunc(m.distrusted, func(_ served, until time.Time) bool { return !now.Before(until) })
	}
	former, known := m.distrusted[by]
	switch {
	case !known && len(m.distrusted) >= maxDistrusted:
		if until.After(m.off) {
			m.off = until
		}
	case until.After(former):
		m.distrusted[by] = until
	}
}

// forget drops all prefixes of a key. Callers hold m.mu.
func (m *Memory) forget(at *list.Element) {
	p := m.used.Remove(at).(*keyPrefixes)
	delete(m.keys, p.key)
	m.total -= len(p.prefixes)
}

func (m *Memory) refresh(r *Recall) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.keys[r.key]
	if at == nil {
		return
	}
	p := at.Value.(*keyPrefixes)
	if i := p.find(&r.from); i >= 0 {
		b := p.prefixes[i]
		p.prefixes = append(slices.Delete(p.prefixes, i, i+1), b)
	}
}

// keep adds a prefix. If there are too many, it replaces the least recently used one.
func (m *Memory) keep(r *Recall, b prefix) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.keys[r.key]
	if at == nil {
		at = m.used.PushFront(&keyPrefixes{key: r.key})
		m.keys[r.key] = at
	}
	m.used.MoveToFront(at)
	p := at.Value.(*keyPrefixes)
	if i := p.find(&b); i >= 0 {
		old := &p.prefixes[i]
		if b.learned.Sub(old.learned) < lifetime {
			b.tokens = max(b.tokens, old.tokens)
		}
		b.continued = old.continued
		*old = b
		return
	}
	if i := p.find(&r.from); i >= 0 {
		p.prefixes[i].continued = true
	}
	p.prefixes = append(p.prefixes, b)
	m.total++
	m.total -= p.shorten()
	for m.total > maxPrefixes {
		m.forget(m.used.Back())
	}
}

func (p *keyPrefixes) find(b *prefix) int {
	return slices.IndexFunc(p.prefixes, func(old prefix) bool { return old.rest == b.rest && old.all == b.all })
}

// shorten drops one prefix if there are too many, and returns how many it dropped.
func (p *keyPrefixes) shorten() int {
	on, first := 0, 0
	for i := range p.prefixes {
		if p.prefixes[i].continued {
			if on++; on == 1 {
				first = i
			}
		}
	}
	if on <= perKeyContinued && len(p.prefixes) <= perKeyPrefixes {
		return 0
	}
	p.prefixes = slices.Delete(p.prefixes, first, first+1)
	return 1
}
