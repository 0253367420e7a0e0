package upstream

import (
	"container/list"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"time"
)

// Memory remembers how many tokens the beginnings of conversations were. An
// agent sends its whole conversation with every request, so most of a request
// is one that was answered before, and its upstream has said what that counted:
// what is new is all that has to be bounded by its bytes.
//
// That what a beginning counted holds for a longer request rests on this: all
// else that a model reads is the same, byte for byte; every element of the list
// is, in its order; and a vendor that leaves out thoughts of earlier turns, or
// tools' answers, leaves out more as a conversation grows, and not less.
// (Anthropic's and OpenAI's documents say so of thoughts, the templates of open
// models look for the last question. Requests with edits that clear what tools
// answered, and those that a server may shorten, are not remembered.) Where
// nobody knows the template, a beginning is used only for a request that ends
// with the same speaker: Mistral's older ones print the system prompt only when a
// user speaks last. A longer beginning is never taken for less than a shorter
// one of it, also where thoughts were left out meanwhile.
//
// It must come with a margin, because tokens merge over the boundary, and what
// asks for the answer stands after the last element and not there any more.
//
// What an upstream reports decides nothing but for the key that sent it. An
// answer that counts more than was foretold ends the memory of its key, and of
// that model, for good.
type Memory struct {
	excess func(Excess)
	now    func() time.Time
	secret *secret
	seed   maphash.Seed

	mu         sync.Mutex
	keys       map[string]*list.Element // of *past, by the key's id
	used       *list.List               // the one used last is in front
	total      int                      // beginnings of all keys
	answers    answerMemory
	distrusted map[served]time.Time // until when
	off        time.Time            // until when all is in doubt, because more is than can be kept
}

// Excess is an answer that reports more input than there can be, if what was
// remembered of its conversation holds.
type Excess struct {
	Key, Upstream, Model string
	Reported, Bound      int64 // tokens
}

type served struct{ upstream, model string }

// past is what is remembered for one key. The beginning used last comes last.
type keyPrefixes struct {
	key      string
	prefixes []prefix
}

// beginning is a request that was answered.
type prefix struct {
	rest, all digest // of what is not its messages, and of those
	turns     int    // messages
	tokens    int64  // that it counted, or a beginning of it
	model     uint64 // that answered
	learned   time.Time
	ends      byte
	continued bool // in another of them, which counts instead
}

const (
	// perKey is how many beginnings a key may have, and perKeyOn how many of them
	// may be such that go on in another. Of an agent and each of its helpers one
	// counts, however many turns it has made; those before it are for who edits
	// what was said, or goes another way from there.
	perKeyPrefixes  = 64
	perKeyContinued = perKeyPrefixes / 2
	// maxBeginnings bounds all of them, which are some 100 bytes each, and as
	// much again where every one is another key's: 16 MB.
	maxPrefixes = 1 << 16
	// lifetime is how long they hold. A name may lead to another model, a template
	// may be mended, and the day is in some; the caches of vendors are cold by then.
	lifetime      = time.Hour
	maxDistrusted = 1024
	// boundary is more than what tokens over the end of a beginning, the words
	// that ask for an answer, and a date can add.
	boundary = 128
	// sparse is how many bytes of text a token may be on average, for a report to
	// be remembered: one that leaves cached tokens out must not be.
	credibleBytesPerToken = 16
)

// NewMemory returns an empty one. excess is told of answers that it cannot
// explain, without any lock.
func NewMemory(excess func(Excess)) *Memory {
	m := &Memory{secret: newSecret(), excess: excess, now: time.Now, seed: maphash.MakeSeed(), keys: make(map[string]*list.Element), used: list.New(), distrusted: make(map[served]time.Time)}
	m.answers.keys, m.answers.used = make(map[string]*list.Element), list.New()
	return m
}

// Recall is what is remembered of a request, and what its answer will teach.
type Recall struct {
	Input int64 // tokens, at most; below 0: nothing is known

	key         string
	served      served
	rest, all   digest
	turns       int
	ends        byte
	from        prefix // that it goes on from, if Input is known
	least, most int64  // tokens that are credible
	left        int64
	thinks      bool
}

// Known is how many tokens of Input are of the beginning that is remembered.
func (r *Recall) Known() int64 {
	if r.Input < 0 {
		return 0
	}
	return r.from.tokens
}

// Recall looks for the longest beginning of a request that is remembered for
// the key. It returns nil for requests that nothing can be learned by. upstream
// is where it goes, and what is known of p.
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
	var found [endsTool + 1]*prefix // by who speaks last
	var after [endsTool + 1]int     // where what is new begins
	var last []byte
	hashed := false // r.all is that of all turns so far
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
		m.boundContinuation(r, p, e, found[best], t.turns[after[best]:])
		m.refresh(r)
	}
	return r
}

// foretell bounds a request that goes on from a beginning.
func (m *Memory) boundContinuation(r *Recall, p *Preset, e *Estimate, from *prefix, rest []byte) {
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
		fresh.references = e.refs // those of before may be of what is defined here
	}
	fresh.defined = e.reader.defined
	r.from = *from
	stored := &Earlier{key: r.key, served: r.served}
	m.boundStored(stored, fresh.stored, p)
	if fresh.window || fresh.err != nil || stored.Window || stored.Unseen > 0 {
		return
	}
	r.Input = add(from.tokens, add(stored.Tokens, fresh.tokens()+r.left+boundary))
}

// known are the beginnings that a request may go on from. It reports false where
// memory is not to be trusted.
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

// trusts reports whether what such a model counts is believed. Callers hold m.mu.
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

// Learn takes what an answer reported of its input, cached or not, and the model
// that it names. What is not final teaches nothing but that more was used than
// was foretold.
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
		m.distrust(r.key, r.served, now.Add(lifetime)) // several may answer, and count as they please
		return
	case input < max(r.least, 1), input > r.most, r.ends == endsOther:
		// It makes no sense, or it ends with words that the model is to go on with,
		// which are closed in the next request.
		return
	case goesOn && input+r.left+boundary < r.from.tokens && !r.thinks:
		m.distrust(r.key, r.served, now.Add(lifetime)) // longer, and less: something was left out
		return
	}
	b := prefix{rest: r.rest, all: r.all, turns: r.turns, tokens: input, model: answered, learned: now, ends: r.ends}
	if goesOn {
		b.tokens = max(b.tokens, r.from.tokens)
	}
	m.keep(r, b)
}

// doubt forgets a key, and trusts no report of that model for some time.
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

// forget drops all of a key. Callers hold m.mu.
func (m *Memory) forget(at *list.Element) {
	p := m.used.Remove(at).(*keyPrefixes)
	delete(m.keys, p.key)
	m.total -= len(p.prefixes)
}

// refresh notes that a beginning was used.
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

// keep notes a beginning, in place of the one that was used longest ago if there
// are too many.
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

// find is where a beginning stands; below 0 where it does not.
func (p *keyPrefixes) find(b *prefix) int {
	return slices.IndexFunc(p.prefixes, func(old prefix) bool { return old.rest == b.rest && old.all == b.all })
}

// shorten drops one beginning if there are too many, and returns how many it
// dropped.
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
