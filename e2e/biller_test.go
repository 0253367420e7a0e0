package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// rates are prices in nano-dollars a token. They are written down here and not
// taken from till's table, so that the two can differ.
type rates struct{ input, cached, write, output int64 }

// The vendors' pages as of 2026-11: Claude Opus 5.5, $4, $0.20, $5 and $20 a
// million; GPT-5.5, $5, $0.50, no fee for writing, and $30.
var billed = map[upstreamtest.Vendor]rates{
	upstreamtest.Anthropic: {4000, 200, 5000, 20_000},
	upstreamtest.OpenAI:    {5000, 500, 0, 30_000},
}

const (
	cacheFloor    = 1024            // tokens that are worth a cache
	cacheStep     = 128             // OpenAI's hits are whole steps of so many
	cacheLifetime = 5 * time.Minute // since the last use
	cacheLookback = 20              // blocks before a mark that Anthropic looks at
)

// biller is a stand-in for a vendor that bills as it does: it counts tokens
// with a real vocabulary, caches beginnings, and keeps books of its own.
type biller struct {
	*httptest.Server
	vendor upstreamtest.Vendor
	rates  rates
	words  *vocabulary

	requests atomic.Int64
	mu       sync.Mutex
	cache    map[[32]byte]time.Time // beginnings, and until when they are kept
	bill     int64
	errs     []string
}

// charges is how the input of one request is billed.
type charges struct{ plain, cached, written int64 }

func newBiller(t *testing.T, vendor upstreamtest.Vendor) *biller {
	words, err := newVocabulary()
	if err != nil {
		t.Fatal(err)
	}
	b := &biller{vendor: vendor, rates: billed[vendor], words: words, cache: map[[32]byte]time.Time{}}
	b.Server = httptest.NewServer(http.HandlerFunc(b.serve))
	t.Cleanup(func() {
		b.CloseClientConnections()
		b.Close()
		for _, e := range b.errs {
			t.Error("at the vendor: ", e)
		}
	})
	return b
}

// open begins new books, with nothing in the cache.
func (b *biller) open() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bill = 0
	b.requests.Store(0)
	clear(b.cache)
}

// forget drops the cache, as a vendor may at any time.
func (b *biller) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.cache)
}

func (b *biller) billed() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bill
}

func (b *biller) fault(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.errs = append(b.errs, err.Error())
}

// admit bills a request's input, and remembers its beginnings.
func (b *biller) admit(p *prompt, now time.Time) charges {
	b.mu.Lock()
	defer b.mu.Unlock()
	last, read := b.found(p, now)
	var c charges
	var sum int64
	for i, part := range p.pieces {
		sum += part.tokens
		switch {
		case i <= read:
			c.cached += part.tokens
		case i <= last && b.rates.write > 0:
			c.written += part.tokens
		default:
			c.plain += part.tokens
		}
		if i <= last && sum >= cacheFloor && (part.marked || b.rates.write == 0) {
			b.cache[part.prefix] = now.Add(cacheLifetime)
		}
	}
	if b.rates.write == 0 {
		over := c.cached % cacheStep
		if c.cached < cacheFloor {
			over = c.cached
		}
		c.cached, c.plain = c.cached-over, c.plain+over
	}
	b.bill += b.cost(c)
	return c
}

// found tells up to which piece a request may be cached, and up to which it is:
// with Anthropic up to its last mark, and as far as a mark has a beginning
// shortly before it that was marked; with OpenAI by any beginning.
func (b *biller) found(p *prompt, now time.Time) (last, read int) {
	last, read = len(p.pieces)-1, -1
	live := func(i int) bool { return b.cache[p.pieces[i].prefix].After(now) }
	if b.rates.write == 0 {
		for i := range p.pieces {
			if live(i) {
				read = i
			}
		}
		return last, read
	}
	for last >= 0 && !p.pieces[last].marked {
		last--
	}
	for i, part := range p.pieces {
		for j := i; part.marked && j >= 0 && j > i-cacheLookback; j-- {
			if live(j) {
				read = max(read, j)
				break
			}
		}
	}
	return last, read
}

func (b *biller) cost(c charges) int64 {
	return c.plain*b.rates.input + c.cached*b.rates.cached + c.written*b.rates.write
}

// uncached is what a request costs when nothing of it is in the cache, with the
// answer that it would get.
func (b *biller) uncached(body []byte) (int64, error) {
	p, err := b.words.parse(body)
	if err != nil {
		return 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	last, _ := b.found(p, time.Time{}.Add(1))
	var c charges
	for i, part := range p.pieces {
		if i <= last && b.rates.write > 0 {
			c.written += part.tokens
		} else {
			c.plain += part.tokens
		}
	}
	return b.cost(c) + int64(thoughtLength)*b.rates.output + b.words.count(remark)*b.rates.output + callLength*b.rates.output, nil
}

// What the model says each time: a thought, a remark, and a call.
const (
	thoughtLength = 120
	callLength    = 40 // tokens, about
	remark        = "The next part belongs to it as well; I read it before I change anything."
	paragraph     = "So far the order is clear: what is held is written down first, then the request goes out, and what it used is settled. "

	longHeader = "X-Share-Long" // asks for a long, slow answer, of so many paragraphs
	longPause  = 5 * time.Millisecond
)

var errBound = errors.New("the answer is as long as it may be")

// answer is an answer that is on its way.
type answer struct {
	b      *biller
	p      *prompt
	w      http.ResponseWriter
	r      *http.Request
	n      int64 // which request it is
	output int64 // tokens that are billed so far
	events int
}

func (b *biller) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // who asks went away before it had asked
	}
	if r.Header.Get("X-Api-Key") != realKey && r.Header.Get("Authorization") != "Bearer "+realKey {
		http.Error(w, "no such key", http.StatusUnauthorized)
		b.fault(fmt.Errorf("%s %s came without the real key", r.Method, r.URL.Path))
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"object":"list","data":[]}`)
		return
	}
	p, err := b.words.parse(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		b.fault(err)
		return
	}
	switch path.Base(r.URL.Path) {
	case "count_tokens", "input_tokens":
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"object":"response.input_tokens","input_tokens":%d}`, p.tokens())
		return
	case "messages", "responses":
	default:
		http.NotFound(w, r)
		return
	}
	a := &answer{b: b, p: p, w: w, r: r, n: b.requests.Add(1)}
	charged := b.admit(p, time.Now())
	w.Header().Set("Content-Type", "text/event-stream")
	if b.vendor == upstreamtest.Anthropic {
		err = a.messages(charged)
	} else {
		err = a.responses(charged)
	}
	if err != nil && r.Context().Err() == nil {
		b.fault(err)
	}
}

// say bills tokens and then sends them: a client that goes pays for what was
// made until then. It fails when the client is gone, and says no more than the
// request allows.
func (a *answer) say(tokens int64, event string, data object) error {
	if a.r.Context().Err() != nil {
		return a.r.Context().Err()
	}
	if a.p.most > 0 && a.output+tokens > a.p.most {
		return errBound
	}
	a.output += tokens
	a.b.mu.Lock()
	a.b.bill += tokens * a.b.rates.output
	a.b.mu.Unlock()
	if err := sendEvent(a.w, event, data); err != nil {
		return err
	}
	a.events++
	return http.NewResponseController(a.w).Flush()
}

// paragraphs are what a long answer says, one after the other, slowly.
func (a *answer) paragraphs(one func(text string, tokens int64) error) error {
	_, n, err := a.script()
	if err != nil {
		return err
	}
	if text := a.r.Header.Get(longHeader); text != "" {
		if _, err := fmt.Sscan(text, &n); err != nil {
			return err
		}
	}
	tokens := a.b.words.count(paragraph)
	for range n {
		if err := one(paragraph, tokens); err != nil {
			return err
		}
		select {
		case <-time.After(longPause):
		case <-a.r.Context().Done():
			return a.r.Context().Err()
		}
	}
	return nil
}

// script is what the prompt says that the model is to do next: have a file read,
// or "" when it is done, and say so many paragraphs before.
func (a *answer) script() (file string, long int, err error) {
	if a.p.script == "" {
		return "", 0, nil
	}
	var e errand
	if _, err := fmt.Sscanf(a.p.script, scriptForm, &e.parts, &e.turns, &e.long, &e.dir); err != nil {
		return "", 0, fmt.Errorf("the script %q: %w", a.p.script, err)
	}
	switch n := a.p.calls; {
	case n < e.parts:
		file = path.Join(e.dir, fmt.Sprintf("part%07d.txt", n))
	case n < e.parts+e.turns:
		file = path.Join(e.dir, fmt.Sprintf("turn%07d.txt", n))
	}
	return file, e.long, nil
}

func (a *answer) messages(c charges) error {
	usage := object{"input_tokens": c.plain, "cache_read_input_tokens": c.cached, "cache_creation_input_tokens": c.written,
		"cache_creation": object{"ephemeral_5m_input_tokens": c.written, "ephemeral_1h_input_tokens": 0}, "output_tokens": 1,
		"service_tier": "standard", "inference_geo": "global"}
	message := object{"id": fmt.Sprintf("msg_%024d", a.n), "type": "message", "role": "assistant", "model": "claude-opus-5-5", "content": []any{},
		"stop_reason": nil, "stop_sequence": nil, "usage": usage}
	if err := a.say(0, "message_start", object{"message": message}); err != nil {
		return err
	}
	file, _, err := a.script()
	if err != nil {
		return err
	}
	index := 0
	block := func(start object, tokens int64, deltas ...object) error {
		if err := a.say(0, "content_block_start", object{"index": index, "content_block": start}); err != nil {
			return err
		}
		for _, d := range deltas {
			if err := a.say(tokens, "content_block_delta", object{"index": index, "delta": d}); err != nil {
				return err
			}
			tokens = 0
		}
		index++
		return a.say(0, "content_block_stop", object{"index": index - 1})
	}
	text := func(text string, tokens int64) error {
		return block(object{"type": "text", "text": ""}, tokens, object{"type": "text_delta", "text": text})
	}
	stop := "end_turn"
	err = block(object{"type": "thinking", "thinking": "", "signature": ""}, thoughtLength,
		object{"type": "signature_delta", "signature": sealThought(thoughtLength)})
	if err == nil {
		err = text(remark, a.b.words.count(remark))
	}
	if err == nil {
		err = a.paragraphs(text)
	}
	if err == nil && file != "" {
		input := fmt.Sprintf(`{"file_path":%q}`, file)
		err = block(object{"type": "tool_use", "id": fmt.Sprintf("toolu_%024d", a.p.calls), "name": "Read", "input": object{}, "caller": object{"type": "direct"}},
			a.b.words.count(input)+framing, object{"type": "input_json_delta", "partial_json": input})
		stop = "tool_use"
	}
	if errors.Is(err, errBound) {
		stop, err = "max_tokens", nil
	}
	if err == nil {
		err = a.say(0, "message_delta", object{"delta": object{"stop_reason": stop, "stop_sequence": nil}, "usage": object{"output_tokens": a.output}})
	}
	if err == nil {
		err = a.say(0, "message_stop", object{})
	}
	return err
}

func (a *answer) responses(c charges) error {
	response := object{"id": fmt.Sprintf("resp_%024d", a.n), "object": "response", "created_at": 1_790_000_000, "status": "in_progress", "model": "gpt-5.5",
		"output": []any{}, "service_tier": "default", "store": false}
	send := func(tokens int64, event string, more object) error {
		more["sequence_number"] = a.events
		return a.say(tokens, event, more)
	}
	if err := send(0, "response.created", object{"response": response}); err != nil {
		return err
	}
	file, _, err := a.script()
	if err != nil {
		return err
	}
	var items []object
	item := func(tokens int64, item object) error {
		if err := send(tokens, "response.output_item.added", object{"output_index": len(items), "item": item}); err != nil {
			return err
		}
		items = append(items, item)
		return send(0, "response.output_item.done", object{"output_index": len(items) - 1, "item": item})
	}
	err = item(thoughtLength, object{"type": "reasoning", "id": fmt.Sprintf("rs_%024d", a.n), "summary": []any{}, "encrypted_content": sealThought(thoughtLength)})
	said := remark
	if err == nil {
		err = send(a.b.words.count(remark), "response.output_text.delta", object{"item_id": "msg", "output_index": 1, "content_index": 0, "delta": remark})
	}
	if err == nil {
		err = a.paragraphs(func(text string, tokens int64) error {
			said += " " + text
			return send(tokens, "response.output_text.delta", object{"item_id": "msg", "output_index": 1, "content_index": 0, "delta": text})
		})
	}
	if err == nil {
		err = item(0, object{"type": "message", "id": fmt.Sprintf("msg_%024d", a.n), "role": "assistant", "status": "completed",
			"content": []object{{"type": "output_text", "text": strings.TrimSpace(said), "annotations": []any{}}}})
	}
	if err == nil && file != "" {
		arguments := fmt.Sprintf(`{"cmd":%q,"max_output_tokens":20000}`, "cat "+file)
		err = item(a.b.words.count(arguments)+framing, object{"type": "function_call", "id": fmt.Sprintf("fc_%024d", a.n),
			"call_id": fmt.Sprintf("call_%024d", a.p.calls), "name": "exec_command", "arguments": arguments, "status": "completed"})
	}
	event, status := "response.completed", "completed"
	if errors.Is(err, errBound) {
		event, status, err = "response.incomplete", "incomplete", nil
		response["incomplete_details"] = object{"reason": "max_output_tokens"}
	}
	if err != nil {
		return err
	}
	input := c.plain + c.cached + c.written
	response["status"], response["output"] = status, items
	response["usage"] = object{"input_tokens": input, "input_tokens_details": object{"cached_tokens": c.cached}, "output_tokens": a.output,
		"output_tokens_details": object{"reasoning_tokens": thoughtLength}, "total_tokens": input + a.output}
	return send(0, event, object{"response": response})
}
