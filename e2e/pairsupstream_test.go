package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// By these headers, which go through till, a life's requests control the stand-in.
const (
	lifeHeader   = "X-Pairs-Life"   // whose request it is
	statusHeader = "X-Pairs-Status" // answer with an error of this status
	holdHeader   = "X-Pairs-Hold"   // "before NAME" or "mid NAME": stop there until the hold is released
	guardHeader  = "X-Pairs-Guard"  // it came by a guard, without a credential
)

// The models: one that the keys of lives may use, one that has no price, and one
// that no rule names.
const (
	ownModel      = "pairs-m"
	unpricedModel = "pairs-unpriced"
	foreignModel  = "elsewhere"
)

// standIns is a stand-in for all upstreams of the lives. It knows them by their
// paths, and keeps a book for each life.
type standIns struct {
	*httptest.Server
	as map[upstreamtest.Vendor]*upstreamtest.Server

	mu    sync.Mutex
	saw   map[string]int64 // requests, by life
	holds map[string]*hold
	wrong []string
}

// hold is where an answer stops.
type hold struct{ arrived, released chan struct{} }

func newVendors(t *testing.T) *standIns {
	v := &standIns{as: make(map[upstreamtest.Vendor]*upstreamtest.Server), saw: make(map[string]int64), holds: make(map[string]*hold)}
	for _, vendor := range []upstreamtest.Vendor{upstreamtest.OpenAI, upstreamtest.Anthropic, upstreamtest.Gemini, upstreamtest.Any} {
		v.as[vendor] = upstreamtest.Start(t, vendor, realKey)
		v.as[vendor].Accept(sealedReal)
	}
	v.Server = httptest.NewServer(v)
	t.Cleanup(func() {
		v.CloseClientConnections()
		v.Close()
	})
	return v
}

// requests is how many requests of a life came.
func (v *standIns) requests(life string) int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.saw[life]
}

// holdAt lets the answer to one request stop, which is sent with the returned header.
func (v *standIns) holdAt(where, name string) (*hold, string) {
	h := &hold{make(chan struct{}), make(chan struct{})}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.holds[name] = h
	return h, where + " " + name
}

func (h *hold) wait(ctx context.Context) {
	close(h.arrived)
	select {
	case <-h.released:
	case <-ctx.Done():
	case <-time.After(patience):
	}
}

// violations is what was wrong with any request.
func (v *standIns) violations() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	all := v.wrong
	for _, s := range v.as {
		all = append(all, s.Violations()...)
	}
	return all
}

// ServeHTTP implements http.Handler.
func (v *standIns) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	life := r.Header.Get(lifeHeader)
	v.mu.Lock()
	v.saw[life]++
	if life == "" {
		v.wrong = append(v.wrong, r.Method+" "+r.URL.Path+" is of no life")
	}
	v.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // it was cut
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	vendor := upstreamtest.OpenAI
	switch {
	case strings.HasPrefix(r.URL.Path, "/v1/messages"):
		vendor = upstreamtest.Anthropic
	case strings.HasPrefix(r.URL.Path, "/v1beta/"):
		vendor = upstreamtest.Gemini
	case strings.HasPrefix(r.URL.Path, "/api/"), strings.HasPrefix(r.URL.Path, "/ws/"):
		vendor = upstreamtest.Any
	}
	if r.Header.Get(guardHeader) != "" {
		v.unguard(r, vendor)
	}
	where, name, _ := strings.Cut(r.Header.Get(holdHeader), " ")
	v.mu.Lock()
	h := v.holds[name]
	v.mu.Unlock()
	switch {
	case h == nil:
	case where == "before":
		h.wait(r.Context())
	default:
		w = &midway{w, r, h, false}
	}
	if status := r.Header.Get(statusHeader); status != "" {
		r.Header.Set(upstreamtest.HeaderStatus, status)
	}
	v.answer(w, r, vendor, body)
}

// unguard makes a request that a guard let through what the vendors expect: Caddy's
// own reverse_proxy adds no credential, and says who asks.
func (v *standIns) unguard(r *http.Request, vendor upstreamtest.Vendor) {
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Via"} {
		r.Header.Del(name)
	}
	switch vendor {
	case upstreamtest.Anthropic:
		r.Header.Set("X-Api-Key", realKey)
	case upstreamtest.Gemini:
		r.Header.Set("X-Goog-Api-Key", realKey)
	default:
		r.Header.Set("Authorization", "Bearer "+realKey)
	}
}

func (v *standIns) answer(w http.ResponseWriter, r *http.Request, vendor upstreamtest.Vendor, body []byte) {
	if r.Header.Get(statusHeader) != "" {
		v.as[vendor].ServeHTTP(w, r)
		return
	}
	switch path := r.URL.Path; {
	case path == "/v1/embeddings":
		sayJSON(w, object{"object": "list", "model": ownModel, "data": []object{{"object": "embedding", "index": 0, "embedding": []float64{0.5}}},
			"usage": object{"prompt_tokens": 5, "total_tokens": 5}})
	case path == "/v1/models":
		sayJSON(w, object{"object": "list", "data": []object{{"id": ownModel, "object": "model"}, {"id": foreignModel, "object": "model"}}})
	case path == "/v1/audio/transcriptions":
		sayJSON(w, object{"text": "hello"})
	case strings.HasPrefix(path, "/ws/"):
		v.upgraded(w, r)
	case vendor == upstreamtest.Any && (r.Header.Get("Accept") == "text/event-stream" || bytes.Contains(body, []byte(`"stream":true`))):
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: {\"n\":%d}\n\n", i)
			if http.NewResponseController(w).Flush() != nil {
				return
			}
		}
	default:
		v.as[vendor].ServeHTTP(w, r)
	}
}

func sayJSON(w http.ResponseWriter, answer object) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // who asked may be gone
}

// upgraded echoes what it is sent.
func (v *standIns) upgraded(w http.ResponseWriter, r *http.Request) {
	if m, ok := w.(*midway); ok {
		w = m.ResponseWriter // its client says when to stop
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	if rw.Flush() == nil {
		_, _ = io.Copy(conn, rw) // until the other side goes
	}
}

// midway stops an answer behind what is flushed first.
type midway struct {
	http.ResponseWriter
	r       *http.Request
	h       *hold
	stopped bool
}

// FlushError is what http.ResponseController calls.
func (m *midway) FlushError() error {
	if err := http.NewResponseController(m.ResponseWriter).Flush(); err != nil {
		return err
	}
	if !m.stopped {
		m.stopped = true
		m.h.wait(m.r.Context())
	}
	return nil
}

func (m *midway) Unwrap() http.ResponseWriter { return m.ResponseWriter }
