package e2e

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// fields are those of a mint, of the key that is so many generations above.
func (d *driver) fields(above int) object {
	l, o := d.life, object{}
	child := l.generations() > above
	far := int64(above)
	switch {
	case l.is("max_activations", "few"):
		o["max_activations"] = fewActivations + 40*far
	case l.is("max_activations", "many"), l.is("role", "ceilings") && child:
		o["max_activations"] = manyActivations + 100*far
	}
	if l.has("max_tokens") || l.is("role", "amounts") && child {
		o["max_tokens"] = someTokens * (1 + far)
	}
	switch {
	case l.is("max_spend", "cents"):
		o["max_spend_cents"] = 100 * (someDollars + 10*far)
	case l.has("max_spend"), l.is("role", "amounts") && child:
		o["max_spend_usd"] = strconv.FormatInt(someDollars+10*far, 10)
	}
	if len(o) == 0 && !l.has("expires") {
		o["unlimited"] = true
	}
	if above > 0 || l.has("delegate") {
		o["delegate"] = true
	}
	if l.has("notes") {
		o["name"], o["purpose"] = d.name, "a life"
		o["labels"], o["metadata"] = object{"life": d.name}, object{"of": "pairs"}
		if !child {
			o["owner"] = "somebody"
		}
	}
	if !child {
		d.topFields(o)
	}
	if child && l.is("states", "little") {
		return o
	}
	life := 2*time.Hour + time.Duration(above)*time.Hour
	switch l.of("expires") {
	case "in":
		o["expires_in"] = life.String()
	case "at":
		o["expires_at"] = time.Now().Add(life).Format(time.RFC3339Nano)
	}
	for field, value := range map[string]any{
		"max_request_spend_usd": "0.50", "idle_timeout": "1h", "first_use_within": "1h", "rate": "600/m", "max_concurrency": 1,
		"models":      map[string][]string{"names": {ownModel, unpricedModel}, "beginning": {"pairs-*"}}[l.of("models")],
		"paths":       map[string][]string{"exact": {l.rulePath()}, "pattern": l.pattern()}[l.of("paths")],
		"methods":     []string{l.method()},
		"ips":         map[string][]string{"one": {"127.0.0.1"}, "network": {"127.0.0.0/31"}}[l.of("ips")],
		"pin_ip":      true,
		"self_revoke": false,
	} {
		if l.has(field) {
			o[field] = value
		}
	}
	return o
}

// topFields are those that a child has of its parent.
func (d *driver) topFields(o object) {
	l := d.life
	o[map[bool]string{true: "upstream", false: "provider"}[d.number%2 == 0]] = l.upstream()
	if l.is("custody", "sealed") {
		o["upstream_key"] = sealedReal
	}
	if l.has("role") && !l.is("minter", "token") {
		o["role"] = l.of("role")
	}
	if l.has("renews") && (l.has("max_activations") || l.has("max_tokens") || l.has("max_spend")) {
		o["renews"] = d.p.renewal
	}
	if l.has("fit") {
		o["fit"] = l.is("fit", "true")
	}
	for _, field := range []string{"unknown_price", "charge"} {
		if d.has(field) {
			o[field] = d.of(field)
		}
	}
}

// rulePath is what a rule about paths allows: those of till itself need no rule.
func (l life) rulePath() string {
	if l.is("kind", "self") {
		return "/v1/responses"
	}
	return l.path(ownModel)
}

// pattern are rules that the life's path matches.
func (l life) pattern() []string {
	path := l.rulePath()
	if beginning := path[:strings.LastIndexByte(path, '/')]; strings.Count(beginning, "/") > 1 {
		return []string{beginning + "/*"}
	}
	return []string{path, path + "/*"}
}

// elsewhere is a path that no rule of the life allows.
func (l life) elsewhere() string {
	path := l.path(ownModel)
	return path[:strings.IndexByte(path[1:], '/')+1] + "/elsewhere"
}

// birth mints the life's key, and those above it, and gives it its string.
func (d *driver) birth() bool {
	top := d.generations()
	fields := d.fields(top)
	var status int
	var answer object
	if d.life.is("minter", "token") {
		var made object
		if status, made = d.p.s.api("POST", "/tokens", object{"name": d.name, "role": d.life.of("role")}); status != http.StatusCreated {
			d.wrong("its token: %d %v", status, made)
			return false
		}
		d.token = made["id"].(string)
		status, answer = d.p.asToken("POST", "/keys", made["token"].(string), fields)
	} else {
		status, answer = d.p.s.api("POST", "/keys", fields)
	}
	for above := top; ; above-- {
		if status != http.StatusCreated {
			d.wrong("minting it, %d above: %d %v\nfields: %v", above, status, answer, fields)
			return false
		}
		d.id, d.key = answer["id"].(string), answer["scoped_key"].(string)
		if above == 0 {
			break
		}
		d.above = append(d.above, d.id)
		fields = d.fields(above - 1)
		status, answer = d.p.asHolder("POST", "/till/self/keys", d.key, fields)
	}
	if !d.life.is("string", "first") && d.rotate("1h") && d.life.is("string", "former") {
		d.key, d.former = d.former, d.key
	}
	return true
}

// rotate gives the key another string.
func (d *driver) rotate(grace string) bool {
	body := object{}
	if grace != "" {
		body["grace"] = grace
	}
	if d.life.is("custody", "sealed") {
		body["upstream_key"] = sealedReal
	}
	answer := d.must("POST", "/keys/"+d.id+"/rotate", body)
	if answer == nil {
		return false
	}
	d.former, d.key = d.key, answer["scoped_key"].(string)
	return true
}
