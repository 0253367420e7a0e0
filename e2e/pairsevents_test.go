package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// happening is what comes in the middle of lives.
type happening struct {
	name   string
	calls  []string // of the management API
	global bool     // it comes over all keys at once
	cut    *verdict // what runs ends so; nil: it goes on
	// endsUpgrades says that Caddy closes upgraded connections then, unless
	// stream_close_delay says otherwise.
	endsUpgrades bool
	// happen lets it come over the lives, and says what they are afterwards.
	happen func(p *pairs, each func(func(d *driver)))
}

// one is an event that is about a single key.
func one(f func(d *driver)) func(*pairs, func(func(*driver))) {
	return func(_ *pairs, each func(func(*driver))) { each(f) }
}

// happenings are all of them; those over all keys come in this order. They speak of
// factors, and factors of them, so they are made when those are there.
var happenings []happening

func init() {
	happenings = []happening{
		{name: "none", happen: one(func(*driver) {})},
		{name: "suspended", calls: []string{"POST /keys/{id}/suspend", "POST /keys/{id}/resume"}, cut: &suspended, happen: one(func(d *driver) { d.suspend(d.id) })},
		{name: "parent suspended", cut: &suspended, happen: one(func(d *driver) { d.suspend(d.above[0]) })},
		{name: "granted", calls: []string{"POST /keys/{id}/grant"}, happen: one(func(d *driver) { d.grant(3) })},
		{name: "patched", calls: []string{"PATCH /keys/{id}"}, happen: one(func(d *driver) {
			d.must("PATCH", "/keys/"+d.id, object{"name": "another name", "labels": object{"now": "patched"}})
		})},
		{name: "narrowed", happen: one(func(d *driver) { d.narrow(d.id) })},
		{name: "parent narrowed", happen: one(func(d *driver) { d.narrow(d.above[0]) })},
		{name: "rotated", calls: []string{"POST /keys/{id}/rotate"}, happen: one(func(d *driver) {
			if d.rotate("1h") {
				d.landAll()
				d.asFormer(func() { d.ask("with the string before", asking{what: "its own"}) })
			}
		})},
		{name: "rotated at once", cut: &revoked, happen: one(func(d *driver) {
			if d.rotate("") {
				d.landAll()
				d.asFormer(d.mustBeOutdated)
			}
		})},
		{name: "exhausted", happen: one((*driver).exhaust)},
		{name: "expired", cut: &expired, happen: one(func(d *driver) { d.timeOut("expires_at", expired) })},
		{name: "idle", happen: one(func(d *driver) { d.timeOut("idle_timeout", idle) })},
		{name: "revoked", calls: []string{"POST /keys/{id}/revoke"}, cut: &revoked, happen: one(func(d *driver) {
			answer := d.must("POST", "/keys/"+d.id+"/revoke", object{"reason": "a drill"})
			if d.flight != nil && answer["streams_cut"] != 1.0 {
				d.wrong("revoked: streams_cut is %v, want 1", answer["streams_cut"])
			}
			d.dead = &revoked
		})},
		{name: "parent revoked", cut: &revoked, happen: one(func(d *driver) {
			d.must("POST", "/keys/"+d.above[0]+"/revoke", object{})
			d.dead = &revoked
		})},
		{name: "revoked by a filter", calls: []string{"POST /keys/revoke"}, cut: &revoked, happen: one(func(d *driver) {
			d.must("POST", "/keys/revoke", object{"filter": object{"q": d.id}})
			d.dead = &revoked
		})},
		{name: "self revoked", cut: &revoked, happen: one(func(d *driver) {
			if status, answer := d.p.asHolder("DELETE", "/till/self", d.key, nil); status != http.StatusOK {
				d.wrong("its holder revokes it: %d %v", status, answer)
			}
			d.dead = &revoked
		})},
		{name: "leaked", calls: []string{"POST /leaks"}, cut: &revoked, happen: one(func(d *driver) {
			d.must("POST", "/leaks", object{"text": "export KEY=" + d.key + "\n"})
			if !d.life.is("string", "former") {
				d.dead = &revoked
				return
			}
			d.landAll() // a former string is all that ends with it
			d.mustBeOutdated()
			d.key = d.former
		})},
		{name: "forgotten", calls: []string{"DELETE /keys/{id}"}, cut: &revoked, happen: one(func(d *driver) {
			d.must("POST", "/keys/"+d.id+"/revoke", object{})
			d.landAll()
			d.settled()
			d.must("DELETE", "/keys/"+d.id, nil)
			d.gone = &invalidKey
		})},
		{name: "token revoked", calls: []string{"POST /tokens/{id}/revoke"}, happen: one(func(d *driver) {
			d.must("POST", "/tokens/"+d.token+"/revoke", object{})
		})},
		{name: "child's end", happen: one((*driver).endChild)},
		{name: "seal rotated", calls: []string{"POST /seal/rotate"}, global: true, happen: func(p *pairs, _ func(func(*driver))) {
			p.must("POST", "/seal/rotate", object{})
		}},
		{name: "repaired", calls: []string{"POST /store/repair"}, global: true, happen: func(p *pairs, _ func(func(*driver))) {
			p.must("POST", "/store/repair", object{"clock": true})
		}},
		{name: "locked down", calls: []string{"POST /lockdown", "DELETE /lockdown"}, global: true, cut: &lockedDown, happen: func(p *pairs, each func(func(*driver))) {
			p.must("POST", "/lockdown", object{"reason": "a drill"})
			each(func(d *driver) {
				d.landAll()
				d.mustBeRefused("in a lockdown", lockedDown)
			})
			p.must("DELETE", "/lockdown", nil)
		}},
		{name: "reloaded", global: true, endsUpgrades: true, happen: func(p *pairs, each func(func(*driver))) {
			p.s.reload()
			each((*driver).landAll) // on connections that the server closes after that
			p.forgetConnections()
		}},
		{name: "restart", global: true, happen: func(p *pairs, _ func(func(*driver))) {
			p.s.stop()
			p.forgetConnections()
			p.s.start()
		}},
		{name: "kill -9", global: true, happen: func(p *pairs, _ func(func(*driver))) {
			p.s.kill9()
			p.forgetConnections()
			p.s.start()
		}},
		{name: "restored", global: true, happen: restore},
	}
}

// restore takes a backup of the running server, and restores it into a new store.
func restore(p *pairs, each func(func(*driver))) {
	if p.s.schema != "" {
		p.t.Log("nothing is restored: a database is backed up by its own means")
		return
	}
	file := filepath.Join(p.t.TempDir(), "till.bak")
	command := func(args ...string) {
		if out, err := p.s.command(append([]string{"till"}, args...)...).CombinedOutput(); err != nil {
			p.t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	command("backup", file, "--with-seal", "--address", p.s.admin)
	p.s.stop()
	p.forgetConnections()
	old := p.s.store() + ".old"
	if err := os.Rename(p.s.store(), old); err != nil {
		p.t.Fatal(err)
	}
	command("restore", file, "--store", p.s.store())
	if b, err := os.ReadFile(filepath.Join(old, "seal.key")); err == nil {
		if err := os.WriteFile(filepath.Join(p.s.store(), "seal.key"), b, 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
	p.s.start()
	each(func(d *driver) {
		d.mustBeRefused("restored", suspended)
		for _, id := range append(d.above, d.id) {
			d.must("POST", "/keys/"+id+"/resume", nil)
		}
		d.believe()
	})
}

// suspend stops the key, or one above it, and lets it go on.
func (d *driver) suspend(id string) {
	d.must("POST", "/keys/"+id+"/suspend", nil)
	d.landAll()
	d.mustBeRefused("suspended", suspended)
	d.must("POST", "/keys/"+id+"/resume", nil)
}

// grant adds activations to a key that has a limit in them.
func (d *driver) grant(n int64) {
	if d.must("POST", "/keys/"+d.id+"/grant", object{"activations": n}) != nil {
		d.limit += n
	}
}

// narrow lets a key do no more than what its life does.
func (d *driver) narrow(id string) {
	to := object{"methods": []string{d.method()}, "ips": []string{"127.0.0.1"}}
	if !d.has("paths") {
		to["paths"] = []string{d.rulePath()}
		d.over["paths"] = "exact"
	}
	if d.namesModel() && !d.has("models") {
		to["models"] = []string{ownModel, unpricedModel}
		d.over["models"] = "names"
	}
	d.over["methods"], d.over["ips"] = "own", "one"
	d.must("PATCH", "/keys/"+id, to)
}

// asFormer does something with the string before the present one.
func (d *driver) asFormer(do func()) {
	now := d.key
	d.key = d.former
	do()
	d.key = now
}

// mustBeOutdated asks with a string that works no more, although its key does.
func (d *driver) mustBeOutdated() {
	d.gone = &revoked
	d.ask("with an outdated string", asking{what: "its own"})
	d.ask("with an outdated string", asking{what: "about itself", self: true})
	d.gone = nil
}

// mustBeRefused makes the life's own request where none is admitted.
func (d *driver) mustBeRefused(when string, with verdict) {
	was := d.dead
	d.dead = &with
	d.ask(when, asking{what: "its own"})
	d.dead = was
}

// exhaust takes away what is left, and gives some of it back.
func (d *driver) exhaust() {
	d.settled()
	field, value, with := "max_activations", any(d.used+d.delegated), usedUp
	if d.metered() && !d.inexact && d.child == "" {
		switch {
		case d.has("max_tokens") && d.number%3 == 0:
			field, value, with = "max_tokens", d.tokens, tokensUsedUp
		case d.has("max_spend") && !d.has("max_request_spend_usd") && d.number%3 == 1:
			field, value, with = "max_spend_usd", dollars(d.nano), spendUsedUp
		}
	}
	if d.must("PATCH", "/keys/"+d.id, object{field: value}) == nil {
		return
	}
	d.mustBeRefused("with nothing left", with)
	switch field {
	case "max_tokens":
		d.must("POST", "/keys/"+d.id+"/grant", object{"tokens": int64(1_000_000)})
		d.over["max_tokens"] = "some"
	case "max_spend_usd":
		d.must("POST", "/keys/"+d.id+"/grant", object{"spend_usd": "5"})
	default:
		d.limit = d.used + d.delegated
		d.grant(16)
	}
}

// timeOut lets the key end by itself, and waits for that.
func (d *driver) timeOut(field string, with verdict) {
	if status, answer := d.p.s.endsSoon(d.id, field); status != http.StatusOK {
		d.wrong("PATCH of %s: %d %v", field, status, answer)
		return
	}
	d.p.s.eventually(fmt.Sprintf("%s ends by %s", d.id, field), func() bool { return d.p.s.show(d.id)["status"] == "expired" })
	d.dead = &with
}

// endsSoon lets a key end by itself in a moment, by expires_at or idle_timeout.
func (s *server) endsSoon(id, field string) (status int, answer object) {
	// A machine may be slower than that, and what has passed is refused.
	for wait := 400 * time.Millisecond; wait < time.Minute && status != http.StatusOK; wait *= 2 {
		value := wait.String()
		if field == "expires_at" {
			value = time.Now().Add(wait).Format(time.RFC3339Nano)
		}
		status, answer = s.api("PATCH", "/keys/"+id, object{field: value})
	}
	return status, answer
}

// bear mints a child of the life's key, and uses it once.
func (d *driver) bear() {
	fields := object{}
	if d.limit >= 0 {
		fields["max_activations"] = 2
	}
	if d.limitsTokens() {
		fields["max_tokens"] = 1_000_000
	}
	if d.limitsSpend() {
		fields["max_spend_usd"] = "5"
	}
	if len(fields) == 0 {
		fields["unlimited"] = true
	}
	status, answer := d.p.asHolder("POST", "/till/self/keys", d.key, fields)
	if !d.has("delegate") {
		if status != wrongMethod.status {
			d.wrong("a child of a key that may have none: %d %v", status, answer)
		}
		return
	}
	if status != http.StatusCreated {
		d.wrong("minting a child with %v: %d %v", fields, status, answer)
		return
	}
	d.child = answer["id"].(string)
	d.used++
	if d.limit >= 0 {
		d.delegated = 2
	}
	key, a := d.key, asking{what: "its own"}
	d.key = answer["scoped_key"].(string)
	o := d.judge(&a)
	r := d.send(a)
	d.key = key
	if text := o.disagrees(r); text != "" {
		d.wrong("a child's request: %s, got %s", text, r)
		return
	}
	d.pinned = d.pinned || !d.life.is("kind", "self")
	d.forwarded += o.forwarded
	d.childUsed = o.activations
}

// endChild revokes the child, and waits until what it leaves is back.
func (d *driver) endChild() {
	if d.child == "" {
		return
	}
	d.must("POST", "/keys/"+d.child+"/revoke", object{})
	d.p.s.eventually("a child's rest is back", func() bool { return d.p.s.show(d.id)["children"] == nil })
	if d.limit >= 0 {
		d.delegated = d.childUsed
	}
}

// believe takes what a restored key says that it has used, which may be more than it
// did, and never less.
func (d *driver) believe() {
	k := d.p.s.show(d.id)
	used := int64(k["used_activations"].(float64))
	if used < d.used {
		d.wrong("restored: used_activations is %d, and was %d", used, d.used)
	}
	d.used = max(used, d.used)
	d.inexact = d.inexact || d.metered()
}
