package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// driver lives one life.
type driver struct {
	*state
	p       *pairs
	number  int
	name    string // for the upstream
	id, key string
	former  string   // the string before or behind it, that works as well
	above   []string // ids of the keys above, the topmost first
	token   string   // id of the admin token that minted it
	child   string   // id of its own child
	flight  *flight  // what is under way when the event comes
	born    bool

	childUsed int64 // by its own child, in activations
}

// wrong notes that something was not as it must be.
func (d *driver) wrong(format string, args ...any) {
	d.p.wrong(d, fmt.Sprintf(format, args...))
}

// must makes a management call that has to work.
func (d *driver) must(method, path string, body any) object {
	status, answer := d.p.s.api(method, path, body)
	if status/100 != 2 {
		d.wrong("%s %s: %d %v", method, strings.ReplaceAll(path, d.id, "{id}"), status, answer)
		return nil
	}
	return answer
}

// ask makes a request, holds it against the oracle, and books it.
func (d *driver) ask(when string, a asking) {
	o := d.judge(&a)
	r := d.send(a)
	if text := o.disagrees(r); text != "" {
		d.wrong("%s, a request %s: %s, got %s", when, a.what, text, r)
	}
	if len(o.reasons) > 0 && r.status/100 == 2 { // it was let through: its uses are there
		o = d.passed(&a, ownModel, false)
	} else if len(o.reasons) == 0 && r.code != "" {
		return // and this one was not
	}
	d.book(o)
	if left, said := d.left(), r.header.Get("Till-Activations-Remaining"); d.limit >= 0 && r.status == http.StatusOK && !d.free() && said != "" && said != strconv.FormatInt(left, 10) {
		d.wrong("%s, a request %s: says that %s are left, want %d", when, a.what, said, left)
	}
	if d.life.is("kind", "models") && r.status == http.StatusOK && !a.self && strings.Contains(r.body, foreignModel) == (d.has("models") || d.is("role", "scope")) {
		d.wrong("%s: the list of models is %s", when, r.body)
	}
}

// patiently tries until something is done, or it makes no sense to.
func (d *driver) patiently(done func() bool) {
	const tries = 200
	for range tries {
		if done() {
			return
		}
		time.Sleep(20 * time.Millisecond) // between two tries
	}
}

// probe makes every request that there is a rule about.
func (d *driver) probe(when string) {
	for _, a := range d.probes() {
		d.ask(when, a)
	}
	flipped := []byte(d.key)
	if flipped[20] == 'x' {
		flipped[20] = 'y'
	} else {
		flipped[20] = 'x'
	}
	d.ask(when, asking{what: "with a wrong string", key: string(flipped)})
	if first, _, sealed := strings.Cut(d.key, "."); sealed {
		d.ask(when, asking{what: "with a string without its box", key: first})
	}
	d.ask(when, asking{what: "about itself", self: true})
	if d.has("max_concurrency") && d.dead == nil && !d.life.is("kind", "self") && !d.life.is("through", "guard answer") {
		d.crowd(when)
	}
}

// crowd makes a request beside one that runs, where only one may.
func (d *driver) crowd(when string) {
	first := d.launch("before", "crowd "+when)
	if first == nil {
		return
	}
	if r := d.send(asking{}); (verdict{r.status, r.code}) != tooMany {
		d.wrong("%s, a second request at a time: want it refused with %v, got %s", when, tooMany, r)
	}
	d.land(when, first, nil)
}

// flight is a request that is under way.
type flight struct {
	where     string
	hold      *hold
	there     chan struct{} // in the middle: closed once the client has read something
	done      chan reply
	judgement judgement
}

// launch has a request under way that stops before its answer, or in the middle of it.
func (d *driver) launch(where, name string) (f *flight) {
	d.patiently(func() bool {
		f = d.sendOff(where, name)
		if f.wait() {
			return true
		}
		r := <-f.done
		f = nil
		if r.unread() {
			return false
		}
		d.wrong("a request that is to be under way (%s): %s", where, r)
		return true
	})
	return f
}

func (d *driver) sendOff(where, name string) *flight {
	h, header := d.p.vendors.holdAt(where, d.name+" "+name)
	f := &flight{where: where, hold: h, there: h.arrived, done: make(chan reply, 1)}
	began := func() {}
	if where == "mid" {
		f.there = make(chan struct{})
		began = func() { close(f.there) }
	}
	a := asking{hold: header}
	f.judgement = d.judge(&a)
	d.p.sent.Add(1)
	go func() {
		r, err := d.request(context.Background(), &a)
		if err != nil {
			f.done <- reply{err: err}
			return
		}
		if d.life.is("kind", "websocket") {
			conn, answer := d.dial(r, "")
			if conn != nil {
				defer conn.Close()
			}
			if answer.status == http.StatusSwitchingProtocols {
				if answer.err = conn.echo(); answer.err == nil {
					began()
					if answer.err = conn.talk(h.released); answer.err == nil {
						answer.err = conn.finish()
					}
				}
			}
			f.done <- answer
			return
		}
		res, err := d.p.client(d.life, "").Do(r)
		if err != nil {
			f.done <- reply{err: err}
			return
		}
		defer res.Body.Close()
		first := make([]byte, 1)
		n, err := io.ReadFull(res.Body, first)
		if err == nil {
			began()
		}
		b, err := io.ReadAll(res.Body)
		f.done <- reply{res.StatusCode, res.Header.Get("Till-Refusal"), res.Header, string(first[:n]) + string(b), err}
	}()
	return f
}

// talk speaks through a connection until it is ended from the other side, or by us.
func (c *upgradedConn) talk(until <-chan struct{}) error {
	for {
		select {
		case <-until:
			return nil
		default:
		}
		if err := c.echo(); err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond) // between two words
	}
}

// wait waits until the request is where it stops.
func (f *flight) wait() bool {
	select {
	case <-f.there:
		return true
	case r := <-f.done:
		f.done <- r
		return false
	case <-time.After(patience):
		return false
	}
}

// land ends a flight: by itself, or as what cut it says.
func (d *driver) land(when string, f *flight, cut *verdict) {
	if cut == nil {
		close(f.hold.released)
	}
	var r reply
	select {
	case r = <-f.done:
	case <-time.After(patience):
		r.err = fmt.Errorf("nothing for %s", patience)
	}
	o := f.judgement
	switch {
	case cut == nil && f.where == "mid" && d.life.is("kind", "websocket") && eventOf(d.life).endsUpgrades:
	case cut == nil:
		if text := o.disagrees(r); text != "" {
			d.wrong("%s, a request that was under way (%s): %s, got %s", when, f.where, text, r)
		}
	case f.where == "before":
		if (verdict{r.status, r.code}) != *cut || r.err != nil {
			d.wrong("%s, a request whose answer had not begun: want it refused with %v, got %s", when, *cut, r)
		}
		if d.is("charge", "success") {
			o.activations = 0
		}
	case d.life.is("kind", "websocket"):
		if r.status != http.StatusSwitchingProtocols || r.err == nil {
			d.wrong("%s, an upgraded connection: want it cut, got %s", when, r)
		}
	default:
		if r.status != http.StatusOK || !strings.Contains(strings.ToLower(r.body), cut.code) {
			d.wrong("%s, a stream: want it to end with %s, got %s", when, cut.code, r)
		}
	}
	if cut != nil {
		o.inexact = o.inexact || d.metered()
		o.tokens, o.nano = 0, 0
	}
	d.book(o)
}
