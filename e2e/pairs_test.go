package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	pairsVariable = "TILL_PAIRS"      // how many arrays to try, for `make pairs`
	pairsSeed     = "TILL_PAIRS_SEED" // of the first of them, instead of 1
	pairsLife     = "TILL_PAIRS_LIFE" // the number of one life, to live that alone
	abreast       = 16                // lives at a time
	// What a life says that is wrong, beyond which the rest only follows from it.
	toldOfALife = 4
)

// pairs is a run: one server, one stand-in, and all lives.
type pairs struct {
	t       *testing.T
	s       *server
	vendors *standIns
	seed    int
	renewal string // a window that does not end while this runs
	console string
	guards  map[string]string // addresses of the sites with a guard, by factor through
	sent    atomic.Int64
	clients map[string]*http.Client

	mu     sync.Mutex
	wrongs int
	failed map[int]int // how often a life was wrong
}

func (p *pairs) wrong(d *driver, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wrongs++
	if p.failed[d.number]++; p.failed[d.number] == 1 {
		p.t.Errorf("life %d: %s\n\talone: %s=%d %s=%d go test -count 1 -v -run 'TestPairs$' ./e2e", d.number, d.life, pairsSeed, p.seed, pairsLife, d.number)
	}
	if p.failed[d.number] <= toldOfALife {
		p.t.Errorf("life %d: %s", d.number, text)
	}
}

// TestPairs runs lives: a key with some options, requests of some kind, and something
// that happens meanwhile. Together they cover every possible pair of two such
// choices. An oracle which shares no code with till says what must become of each
// request; the stand-in and the management API must have counted the same.
func TestPairs(t *testing.T) {
	t.Parallel()
	weighs(t, middleWeight)
	setting := func(name string, unless int) int {
		text := os.Getenv(name)
		if text == "" {
			return unless
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			t.Fatalf("%s must be a number, got %q", name, text)
		}
		return n
	}
	var lives, requests, wrongs, covered, wanted int
	first := setting(pairsSeed, 1)
	for seed := first; seed < first+setting(pairsVariable, 1); seed++ {
		a := newArray(factors, forbidden(), uint64(seed))
		rows := a.rows()
		p := newPairs(t, seed)
		if seed == first {
			for _, pair := range a.never {
				t.Logf("in no life: %s", a.String(pair))
			}
			tied(t, p.s)
			p.refusedMints()
		}
		began := time.Now()
		lived := p.run(rows, setting(pairsLife, -1))
		t.Logf("seed %d: %d lives in %s; %d pairs are excluded by the table of exclusions, and %d follow from it",
			seed, len(lived), time.Since(began).Round(time.Second), len(forbidden()), len(a.never))
		lives, requests, wrongs = lives+len(lived), requests+int(p.sent.Load()), wrongs+p.wrongs
		covered, wanted = max(covered, a.covered(lived)), a.wanted
		p.s.stop()
	}
	t.Logf("pairs: %d lives, %d pairs of %d covered, %d requests, %d wrong", lives, covered, wanted, requests, wrongs)
}

// run lives the lives of the rows, or one of them.
func (p *pairs) run(rows [][]int, number int) (lived [][]int) {
	var lives []*driver
	for i, row := range rows {
		if number < 0 || number == i {
			lives = append(lives, &driver{state: newState(row), p: p, number: i, name: fmt.Sprint("life-", i)})
			lived = append(lived, row)
		}
	}
	if len(lives) == 0 {
		p.t.Fatalf("there is no life %d: %s must be less than %d", number, pairsLife, len(rows))
	}
	each(lives, func(d *driver) {
		if e := eventOf(d.life); !e.global {
			p.live(e, []*driver{d})
		}
	})
	for _, e := range happenings {
		if e.global {
			p.live(e, slices.DeleteFunc(slices.Clone(lives), func(d *driver) bool { return !d.life.is("event", e.name) }))
		}
	}
	for _, v := range p.vendors.violations() {
		p.t.Error("at the upstream: ", v)
		p.wrongs++
	}
	if _, verdict := p.s.api("GET", "/audit/verify", nil); verdict["ok"] != true {
		p.t.Errorf("the audit log: %v", verdict)
		p.wrongs++
	}
	return lived
}

func eventOf(l life) happening {
	return happenings[slices.IndexFunc(happenings, func(e happening) bool { return l.is("event", e.name) })]
}

// live starts lives, lets one event happen to all of them, and runs them to their
// end.
func (p *pairs) live(e happening, lives []*driver) {
	if len(lives) == 0 {
		return
	}
	each(lives, (*driver).begin)
	lives = slices.DeleteFunc(lives, func(d *driver) bool { return !d.born })
	e.happen(p, func(do func(d *driver)) { each(lives, do) })
	each(lives, (*driver).end)
}

func newPairs(t *testing.T, seed int) *pairs {
	switch l, err := net.Listen("tcp", stranger+":0"); {
	case err == nil:
		l.Close()
	case runtime.GOOS == "linux":
		t.Fatal("all of 127.0.0.0/8 is this machine on Linux, and yet: ", err)
	default:
		t.Skip("this machine has no second address of its own: ", err)
	}
	p := &pairs{t: t, vendors: newVendors(t), seed: seed, renewal: farRenewal(time.Now().UTC()),
		console: freePort(t), guards: map[string]string{"guard proxy": freePort(t), "guard answer": freePort(t)}, failed: make(map[int]int)}
	to := strings.TrimPrefix(p.vendors.URL, "http://")
	const permits = "permissions keys:create keys:read\n"
	var more strings.Builder
	for _, u := range []string{"ant anthropic", "gem gemini"} {
		fmt.Fprintf(&more, "upstream %s {\n\tto %s\n\tcredential {env.MOCK_KEY}\n}\n", u, p.vendors.URL)
	}
	fmt.Fprintf(&more, "upstream any %s {\n\tcredential {env.MOCK_KEY}\n\tupgrades /ws/*\n}\n", p.vendors.URL)
	for _, vendor := range []string{"openai", "anthropic", "gemini"} {
		fmt.Fprintf(&more, "price %s/%s 1.00 2.00\n", vendor, ownModel)
	}
	fmt.Fprintf(&more, "role ceilings {\n%smax_activations %d\nmax_lifetime 24h\nips 127.0.0.0/31\n}\n", permits, ceilingOfRole)
	more.WriteString("role amounts {\n" + permits + "max_tokens 50M\nmax_spend $100\n}\n")
	more.WriteString("role scope {\n" + permits + "models pairs-*\nmethods GET POST\npaths /v1/* /v1beta/* /api/* /ws/*\n}\n")
	more.WriteString("role budget {\n" + permits + "budget activations 1M\n}\n")
	more.WriteString("role money {\n" + permits + "budget tokens 100G spend $1000000\n}\n")
	p.s = newServer(t, options{
		to: p.vendors.URL, more: more.String(), global: "servers {\n\t\tprotocols h1 h2c\n\t}",
		sites: fmt.Sprintf("http://:%s {\n\ttill_console\n}\nhttp://:%s {\n\troute {\n\t\ttill guard\n\t\treverse_proxy %s {\n\t\t\theader_up %s yes\n\t\t}\n\t}\n}\nhttp://:%s {\n\troute {\n\t\ttill guard\n\t\trespond \"for {http.till.key_id}\"\n\t}\n}\n",
			port(p.console), port(p.guards["guard proxy"]), to, guardHeader, port(p.guards["guard answer"])),
	})
	p.clients = make(map[string]*http.Client)
	for _, from := range []string{"", stranger} {
		for _, h2 := range []bool{false, true} {
			tr := &http.Transport{DialContext: dialerFrom(from).DialContext, DisableCompression: true, ExpectContinueTimeout: patience, MaxIdleConnsPerHost: 64, Protocols: new(http.Protocols)}
			tr.Protocols.SetHTTP1(!h2)
			tr.Protocols.SetUnencryptedHTTP2(h2)
			p.clients[fmt.Sprint(from, h2)] = &http.Client{Transport: tr, Timeout: patience}
		}
	}
	t.Cleanup(p.forgetConnections)
	return p
}

// farRenewal is a window that does not end within the next hour.
func farRenewal(now time.Time) string {
	later := now.Add(time.Hour)
	switch {
	case later.Month() == now.Month():
		return "month"
	case later.Weekday() != time.Monday:
		return "week"
	}
	return "day" // the first Monday of a month has just begun
}

func (p *pairs) forgetConnections() {
	for c := range maps.Values(p.clients) {
		c.CloseIdleConnections()
	}
}

func (p *pairs) client(l life, from string) *http.Client {
	return p.clients[fmt.Sprint(from, l.is("wire", "h2"))]
}

func (p *pairs) address(l life) string {
	if l.guarded() {
		return p.guards[l.of("through")]
	}
	return p.s.addr
}

// call makes a call with a key or token.
func (p *pairs) call(method, url, secret string, body any) (int, object) {
	b, err := json.Marshal(body)
	if err != nil {
		p.t.Error(err)
		return 0, nil
	}
	r, err := http.NewRequest(method, url, bytes.NewReader(b))
	if err != nil {
		p.t.Error(err)
		return 0, nil
	}
	r.Header.Set("Authorization", "Bearer "+secret)
	r.Header.Set("Content-Type", "application/json")
	r.Close = true
	res, err := p.clients["false"].Do(r)
	if err != nil {
		return 0, object{"error": err.Error()}
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	answer := object{}
	if err == nil {
		err = json.Unmarshal(text, &answer)
	}
	if err != nil {
		return res.StatusCode, object{"error": err.Error(), "text": string(text)}
	}
	return res.StatusCode, answer
}

func (p *pairs) asHolder(method, path, key string, body any) (int, object) {
	return p.call(method, "http://"+p.s.addr+path, key, body)
}

func (p *pairs) asToken(method, path, token string, body any) (int, object) {
	return p.call(method, "http://"+p.console+"/till/api"+path, token, body)
}

func (p *pairs) must(method, path string, body any) {
	if status, answer := p.s.api(method, path, body); status/100 != 2 {
		p.t.Errorf("%s %s: %d %v", method, path, status, answer)
		p.wrongs++
	}
}

// each does something with lives, some at a time.
func each(lives []*driver, do func(d *driver)) {
	places := make(chan struct{}, abreast)
	var all sync.WaitGroup
	for _, d := range lives {
		all.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			do(d)
		})
	}
	all.Wait()
}
