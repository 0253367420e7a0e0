package e2e

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// begin mints a life's key, tries it, and leaves a request under way where the life
// is about that.
func (d *driver) begin() {
	if d.born = d.birth(); !d.born {
		return
	}
	d.probe("before")
	d.bear()
	d.compare("before")
	if during := d.life.of("during"); during != "idle" {
		d.flight = d.launch(during, "event")
	}
}

// landAll ends what is under way, as the event does.
func (d *driver) landAll() {
	if d.flight == nil {
		return
	}
	d.land("at the event", d.flight, eventOf(d.life).cut)
	d.flight = nil
}

// end lives a life to its end after the event.
func (d *driver) end() {
	d.landAll()
	if d.dead != nil || d.gone != nil {
		d.ask("after", asking{what: "its own"})
		d.ask("after", asking{what: "about itself", self: true})
		d.ask("after", asking{what: "with a wrong string", key: "till_sk_nothing"})
	} else {
		d.probe("after")
		d.drain()
		d.lastWords()
	}
	if d.gone == nil {
		d.compare("at the end")
	}
	if saw := d.p.vendors.requests(d.name); saw != d.forwarded {
		d.wrong("the upstream saw %d requests of it, want %d", saw, d.forwarded)
	}
}

// drain uses a key up to its last activation.
func (d *driver) drain() {
	if d.limit < 0 || d.limit > 3*fewActivations || d.free() {
		return
	}
	for d.left() > 0 {
		before := d.used
		d.ask("draining", asking{what: "its own"})
		if d.used == before {
			return // it said what is wrong
		}
	}
	d.mustBeRefused("with no activation left", usedUp)
}

// lastWords tries what ends or bounds a key for good.
func (d *driver) lastWords() {
	if d.dead == nil && d.has("rate") && !d.life.is("kind", "self") && (d.limit < 0 || d.left() > 4) {
		d.slowDown()
	}
	if d.has("self_revoke") {
		if status, _ := d.p.asHolder("DELETE", "/till/self", d.key, nil); status != wrongMethod.status {
			d.wrong("its holder may not revoke it, and gets %d", status)
		}
	} else if d.number%4 == 0 {
		if status, answer := d.p.asHolder("DELETE", "/till/self", d.key, nil); status != http.StatusOK {
			d.wrong("its holder revokes it: %d %v", status, answer)
			return
		}
		d.dead = &revoked
		d.ask("revoked by its holder", asking{what: "its own"})
	}
}

// slowDown lowers the rate to one in an hour, and waits for the confirmation.
func (d *driver) slowDown() {
	if d.must("PATCH", "/keys/"+d.id, object{"rate": "1/h"}) == nil {
		return
	}
	const most = 3
	for range most {
		a := asking{what: "its own"}
		o := d.judge(&a)
		r := d.send(a)
		if (verdict{r.status, r.code}) == tooOften {
			return
		}
		if text := o.disagrees(r); text != "" {
			d.wrong("with a rate of one an hour: %s, got %s", text, r)
			return
		}
		d.book(o)
	}
	d.wrong("with a rate of one an hour: %d requests passed", most)
}

// settled waits until nothing of the key is held.
func (d *driver) settled() object {
	var k object
	d.p.s.eventually("nothing is held by "+d.id, func() bool {
		k = d.p.s.show(d.id)
		return k["held_activations"] == 0.0
	})
	return k
}

// compare holds what the management API says against the oracle.
func (d *driver) compare(when string) {
	k := d.settled()
	number := func(field string) int64 {
		n, _ := k[field].(float64)
		return int64(n)
	}
	if n := number("used_activations"); n != d.used {
		d.wrong("%s: used_activations is %d, want %d", when, n, d.used)
	}
	if n := number("remaining_activations"); d.limit >= 0 && d.dead == nil && n != d.left() {
		d.wrong("%s: remaining_activations is %d, want %d", when, n, d.left())
	}
	if when == "at the end" {
		for _, id := range d.above {
			d.hasUsed("a key above, which minted one child and did nothing else", id, 1)
		}
		if d.child != "" {
			d.hasUsed("its child", d.child, d.childUsed)
		}
	}
	if !d.metered() {
		return
	}
	text, _ := k["used_spend_usd"].(string)
	spent, err := nano(text)
	tokens := number("used_tokens")
	switch {
	case err != nil:
		d.wrong("%s: used_spend_usd is %q", when, text)
	case d.inexact && (tokens < d.tokens || d.priced() && spent < d.nano):
		d.wrong("%s: used are %d tokens and $%s, want at least %d and $%s", when, tokens, text, d.tokens, dollars(d.nano))
	case !d.inexact && (tokens != d.tokens || d.priced() && spent != d.nano):
		d.wrong("%s: used are %d tokens and $%s, want %d and $%s", when, tokens, text, d.tokens, dollars(d.nano))
	}
}

// hasUsed compares what another key of the family used. Of one that was restored more
// may count as used.
func (d *driver) hasUsed(whose, id string, want int64) {
	n, _ := d.p.s.show(id)["used_activations"].(float64)
	if used := int64(n); used < want || used > want && !d.life.is("event", "restored") {
		d.wrong("used_activations of %s is %d, want %d", whose, used, want)
	}
}

// dollars and nano write and read amounts as the API does.
func dollars(nano int64) string { return fmt.Sprintf("%d.%09d", nano/1e9, nano%1e9) }

func nano(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	whole, part, _ := strings.Cut(text, ".")
	return strconv.ParseInt(whole+(part + "000000000")[:9], 10, 64)
}

// refusedMints tries what the table of exclusions calls refused, through a token, a
// holder and the operator.
func (p *pairs) refusedMints() {
	tokens := make(map[string]string)
	for _, role := range []string{"ceilings", "amounts", "money"} {
		status, made := p.s.api("POST", "/tokens", object{"name": role, "role": role})
		if status != http.StatusCreated {
			p.t.Fatalf("a token of role %s: %d %v", role, status, made)
		}
		tokens[role] = made["token"].(string)
	}
	parent := object{"upstream": "mock", "max_activations": 100, "max_spend_usd": "1", "delegate": true, "max_request_spend_usd": "0.5"}
	_, key := p.s.mint(parent)
	for _, test := range []struct {
		by     string // "", a role, or "holder"
		fields object
		status int
	}{
		{"", object{"upstream": "any", "max_tokens": 10}, 400},
		{"", object{"upstream": "any", "max_spend_usd": "1"}, 400},
		{"", object{"upstream": "any", "role": "amounts"}, 400},
		{"", object{"upstream": "any", "role": "money", "max_activations": 1}, 400},
		{"money", object{"upstream": "any", "max_activations": 1}, 400},
		{"", object{"upstream": "mock", "max_activations": 1, "max_request_spend_usd": "1"}, 400},
		{"", object{"upstream": "mock", "max_activations": 1, "renews": "month", "role": "ceilings"}, 403},
		{"ceilings", object{"upstream": "mock", "max_activations": 1, "renews": "month"}, 403},
		{"ceilings", object{"upstream": "mock", "max_activations": ceilingOfRole + 1}, 403},
		{"ceilings", object{"upstream": "mock", "unlimited": true, "expires_in": "48h"}, 403},
		{"ceilings", object{"upstream": "mock", "max_activations": 1, "ips": []string{"10.0.0.1"}}, 403},
		{"amounts", object{"upstream": "mock", "unknown_price": "count_only"}, 403},
		{"amounts", object{"upstream": "mock", "max_tokens": 60_000_000}, 403},
		{"amounts", object{"upstream": "mock", "max_request_spend_usd": "0.1"}, 201},
		{"", object{"upstream": "mock", "models": []string{}, "max_activations": 1}, 400},
		{"", object{"upstream": "mock", "max_tokens": 10, "charge": "success"}, 400},
		{"holder", object{"max_activations": 1}, 400},
		{"holder", object{"max_activations": 1, "max_spend_usd": "0.1", "renews": "month"}, 400},
		{"holder", object{"max_activations": 1, "max_spend_usd": "0.1", "fit": false}, 400},
		{"holder", object{"max_activations": 1, "max_spend_usd": "0.1", "charge": "success"}, 400},
		{"holder", object{"max_activations": 1, "max_spend_usd": "0.1", "max_request_spend_usd": "0.6"}, 400},
		{"holder", object{"max_activations": 101, "max_spend_usd": "0.1"}, 402},
	} {
		p.sent.Add(1)
		var status int
		var answer object
		switch test.by {
		case "":
			status, answer = p.s.api("POST", "/keys", test.fields)
		case "holder":
			status, answer = p.asHolder("POST", "/till/self/keys", key, test.fields)
		default:
			status, answer = p.asToken("POST", "/keys", tokens[test.by], test.fields)
		}
		if status != test.status {
			p.wrongs++
			delete(answer, "scoped_key")
			p.t.Errorf("a mint by %q of %v: want %d, got %d %v", test.by, test.fields, test.status, status, answer)
		}
	}
}
