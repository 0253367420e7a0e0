package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// asHolder makes one call with a scoped key.
func (s *server) asHolder(method, path, key string, body any) (status int, code string, answer object) {
	s.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := http.NewRequest(method, "http://"+s.addr+path, bytes.NewReader(b))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	res, text := s.must(r)
	answer = object{}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		s.t.Fatalf("%s %s: %d %q", method, path, res.StatusCode, text)
	}
	return res.StatusCode, res.Header.Get("Till-Refusal"), answer
}

// child mints a child of a key.
func (s *server) child(parent string, fields object) (id, key string) {
	s.t.Helper()
	var status int
	var code string
	var answer object
	s.eventually("the store answers in time", func() bool {
		status, code, answer = s.asHolder("POST", "/till/self/keys", parent, fields)
		return code != "till_store_unavailable"
	})
	if status != http.StatusCreated {
		s.t.Fatalf("minting a child: %d %s %v", status, code, answer)
	}
	return answer["id"].(string), answer["scoped_key"].(string)
}

func TestATreeOfKeysForwardsExactlyNAtHundredParallel(t *testing.T) {
	t.Parallel()
	weighs(t, middleWeight)
	s := newServer(t, options{})
	const n = 400
	rootID, root := s.mint(object{"max_activations": n, "delegate": true})
	midID, mid := s.child(root, object{"max_activations": 150, "delegate": true})
	_, low := s.child(mid, object{"max_activations": 60, "delegate": true})
	_, leaf := s.child(low, object{"max_activations": 20})
	_, other := s.child(root, object{"max_activations": 50})
	const mints = 4
	keys := []string{root, mid, low, leaf, other}
	var ok, refused atomic.Int64
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			for j := range 10 {
				switch status := s.comesAgain(keys[(i+j)%len(keys)]); status {
				case http.StatusOK:
					ok.Add(1)
				case http.StatusPaymentRequired:
					refused.Add(1)
				default:
					t.Errorf("answered %d", status)
				}
			}
		})
	}
	all.Wait()
	if got := s.upstream.Count(); got != n-mints || ok.Load() != got {
		t.Errorf("the upstream counted %d and clients %d, want %d: %d less a mint each of %d children", got, ok.Load(), n-mints, n, mints)
	}
	t.Logf("%d forwarded, %d refused, %d for mints", ok.Load(), refused.Load(), mints)
	// A child that has nothing left ends, and is counted no more.
	s.used(rootID) // an answer may be read before it is counted
	show := s.show(rootID)
	if show["delegated_activations"].(float64) != 200 || show["used_activations"].(float64)+show["delegated_activations"].(float64) != n || s.show(midID)["parent"] != rootID {
		t.Errorf("the root is shown as %v", show)
	}
	s.clean()
}

func TestAHolderSeesWhatItsChildrenHave(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	_, root := s.mint(object{"name": "crew", "max_activations": 100, "max_spend_usd": "5.00", "delegate": true, "owner": "ann"})
	status, _, made := s.asHolder("POST", "/till/self/keys", root, object{
		"name": "worker", "max_activations": 30, "max_spend_usd": "1.50", "labels": object{"task": "42"}})
	if status != http.StatusCreated || made["parent"] == nil || made["name"] != "worker" || made["owner"] != nil ||
		!strings.HasPrefix(made["scoped_key"].(string), "till_sk_") || made["labels"].(object)["task"] != "42" {
		t.Errorf("the mint answered %d %v", status, made)
	}
	_, _, self := s.asHolder("GET", "/till/self", root, nil)
	for field, want := range (object{
		"children": 1.0, "delegated_activations": 30.0, "delegated_spend_usd": "1.50", "used_activations": 1.0,
		"remaining_activations": 69.0, "remaining_spend_usd": "3.50", "max_activations": 100.0,
	}) {
		if self[field] != want {
			t.Errorf("%s is %v, want %v", field, self[field], want)
		}
	}
	child := made["scoped_key"].(string)
	if status := s.chat(child); status != http.StatusForbidden { // no model with a price
		t.Errorf("a request that cannot be priced: %d", status)
	}
	if status, _, answer := s.asHolder("DELETE", "/till/self", child, nil); status != http.StatusOK {
		t.Fatalf("the child's holder revokes it: %d %v", status, answer)
	}
	_, _, self = s.asHolder("GET", "/till/self", root, nil)
	if self["remaining_activations"] != 99.0 || self["children"] != nil || self["delegated_activations"] != nil {
		t.Errorf("after the child's end: %v", self)
	}
	s.eventually("the admin sees who minted it", func() bool {
		return s.show(made["id"].(string))["created_by"] == self["id"]
	})
}

func TestAChildIsNowhereWiderThanItsParent(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{more: "role crew {\n}"})
	expires := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	parent := object{
		"max_activations": 1000, "max_tokens": 100000, "max_spend_usd": "5.00", "max_request_spend_usd": "0.50",
		"expires_at": expires.Format(time.RFC3339), "idle_timeout": "30m", "first_use_within": "30m",
		"rate": "1000/m", "max_concurrency": 10, "models": []string{"gpt-5-*"}, "paths": []string{"/v1/chat/*"},
		"methods": []string{"POST"}, "ips": []string{"127.0.0.0/8"}, "pin_ip": true, "self_revoke": false,
		"delegate": true, "fit": false, "role": "crew", "owner": "ann",
	}
	_, root := s.mint(parent)
	base := func(field string, value any) object {
		o := object{"max_activations": 1, "max_tokens": 1, "max_spend_usd": "0.01"}
		if value == nil {
			delete(o, field)
		} else {
			o[field] = value
		}
		return o
	}
	for name, test := range map[string]struct {
		field string
		value any
		code  string // "": minted
		says  string
	}{
		"activations left out":      {"max_activations", nil, "till_bad_request", "max_activations must be set"},
		"tokens left out":           {"max_tokens", nil, "till_bad_request", "max_tokens must be set"},
		"dollars left out":          {"max_spend_usd", nil, "till_bad_request", "max_spend_usd"},
		"more than there is":        {"max_activations", 1000, "till_budget_too_small", "max_activations"},
		"more dollars than left":    {"max_spend_usd", "5.01", "till_budget_too_small", "max_spend_usd"},
		"a dearer request":          {"max_request_spend_usd", "0.51", "till_bad_request", "max_request_spend_usd"},
		"a cheaper request":         {"max_request_spend_usd", "0.10", "", ""},
		"a later end":               {"expires_at", expires.Add(time.Minute).Format(time.RFC3339), "till_bad_request", "expires_at"},
		"a longer life":             {"expires_in", "2h", "till_bad_request", "expires_at"},
		"a shorter life":            {"expires_in", "10m", "", ""},
		"longer idle":               {"idle_timeout", "31m", "till_bad_request", "idle_timeout"},
		"never idle":                {"idle_timeout", "0s", "till_bad_request", "idle_timeout"},
		"a later first use":         {"first_use_within", "31m", "till_bad_request", "first_use_within"},
		"a faster rate":             {"rate", "20/s", "till_bad_request", "rate"},
		"a larger bucket":           {"rate", "1001/h", "till_bad_request", "rate"},
		"a slower rate":             {"rate", "10/s", "", ""},
		"more at a time":            {"max_concurrency", 11, "till_bad_request", "max_concurrency"},
		"any number at a time":      {"max_concurrency", 0, "till_bad_request", "max_concurrency"},
		"fewer at a time":           {"max_concurrency", 2, "", ""},
		"another model":             {"models", []string{"gpt-4o"}, "till_bad_request", "models"},
		"all models":                {"models", []string{}, "till_bad_request", "models"},
		"a wider beginning":         {"models", []string{"gpt-*"}, "till_bad_request", "models"},
		"a model of them":           {"models", []string{"gpt-5-mini"}, "", ""},
		"another path":              {"paths", []string{"/v1/embeddings"}, "till_bad_request", "paths"},
		"a path of them":            {"paths", []string{"/v1/chat/completions"}, "", ""},
		"another method":            {"methods", []string{"POST", "GET"}, "till_bad_request", "methods"},
		"another network":           {"ips", []string{"10.0.0.0/8"}, "till_bad_request", "ips"},
		"a network of it":           {"ips", []string{"127.0.0.1"}, "", ""},
		"no pin":                    {"pin_ip", false, "till_bad_request", "pin_ip"},
		"to revoke itself":          {"self_revoke", true, "till_bad_request", "self_revoke"},
		"renewal":                   {"renews", "day", "till_bad_request", "renews"},
		"another role":              {"role", "crew", "till_bad_request", "role"},
		"another owner":             {"owner", "bob", "till_bad_request", "owner"},
		"its own real key":          {"upstream_key", "sk-other-0123456789", "till_bad_request", "upstream_key"},
		"another charge":            {"charge", "success", "till_bad_request", "charge"},
		"another fit":               {"fit", true, "till_bad_request", "fit"},
		"unknown prices":            {"unknown_price", "count_only", "till_bad_request", "unknown_price"},
		"another upstream":          {"upstream", "openai", "till_bad_request", "upstream"},
		"its own upstream":          {"upstream", "mock", "", ""},
		"a field that is not there": {"parent", "key_x", "till_bad_request", "parent"},
		"a name and a purpose":      {"purpose", "tests", "", ""},
		"the right to delegate":     {"delegate", true, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			status, code, answer := s.asHolder("POST", "/till/self/keys", root, base(test.field, test.value))
			if test.code == "" {
				if status != http.StatusCreated {
					t.Fatalf("answered %d %s %v", status, code, answer)
				}
				for field, want := range (object{"rate": "1000/m", "idle_timeout": "30m", "pin_ip": true, "max_request_spend_usd": "0.50"}) {
					if field != test.field && answer[field] != want {
						t.Errorf("%s is %v; what is left out is as of the parent, %v", field, answer[field], want)
					}
				}
				return
			}
			text, err := json.Marshal(answer)
			if err != nil {
				t.Fatal(err)
			}
			if status/100 != 4 || code != test.code || !strings.Contains(string(text), test.says) {
				t.Errorf("answered %d %s %s, want %s about %s", status, code, text, test.code, test.says)
			}
			if strings.Contains(string(text), "sk-other") {
				t.Error("the refusal repeats the credential")
			}
		})
	}
	_, plain := s.mint(object{"max_activations": 10})
	if status, code, _ := s.asHolder("POST", "/till/self/keys", plain, object{"max_activations": 1}); status != http.StatusForbidden || code != "till_method_not_allowed" {
		t.Errorf("a key without the right: %d %s", status, code)
	}
	if status, _, _ := s.asHolder("GET", "/till/self/keys", root, nil); status != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", status)
	}
}

func TestRevokingAParentEndsItsChildrensStreams(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	rootID, root := s.mint(object{"max_activations": 100, "delegate": true})
	var ended sync.WaitGroup
	last := make([]string, 3)
	keys := []string{root}
	var ids []string
	for range 2 {
		id, key := s.child(keys[len(keys)-1], object{"max_activations": 100 / (len(keys) * 2), "delegate": true})
		keys, ids = append(keys, key), append(ids, id)
	}
	for i, key := range keys {
		res, err := s.client.Do(s.streaming(context.Background(), key, 1_000_000, time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		first := make([]byte, 1)
		if _, err := io.ReadFull(res.Body, first); err != nil {
			t.Fatal(err)
		}
		ended.Go(func() {
			rest, err := io.ReadAll(res.Body)
			if err != nil {
				t.Errorf("stream %d: %v", i, err)
			}
			last[i] = string(rest[max(0, len(rest)-600):])
		})
	}
	start := time.Now()
	status, answer := s.api("POST", "/keys/"+rootID+"/revoke", object{"reason": "it leaked"})
	if status != http.StatusOK || answer["streams_cut"].(float64) != 3 {
		t.Fatalf("revoke: %d %v", status, answer)
	}
	ended.Wait()
	t.Logf("the streams ended %s after the call began", time.Since(start))
	for i, end := range last {
		if !strings.Contains(end, "till_key_revoked") {
			t.Errorf("stream %d ended with %q", i, end)
		}
	}
	for i, id := range ids {
		k := s.show(id)
		if k["status"] != "revoked" || !strings.Contains(k["ended_reason"].(string), "parent") {
			t.Errorf("child %d: %v", i, k)
		}
		s.refuses("a child", keys[i+1], http.StatusForbidden, "till_key_revoked")
	}
}

func TestAChildOfASealedKeyIsSealedAnew(t *testing.T) {
	t.Parallel()
	s, to := sealedServer(t, "seal_key "+sealKeyA)
	rootID, root := s.mint(object{"upstream": "x", "upstream_key": sealedReal, "max_activations": 50, "delegate": true})
	id, child := s.child(root, object{"max_activations": 5})
	first, box, ok := strings.Cut(child, ".")
	_, parentBox, _ := strings.Cut(root, ".")
	if !ok || box == parentBox || s.show(id)["custody"] != "sealed" {
		t.Fatalf("the child is %s", child)
	}
	if status, code := s.sends(child); status != http.StatusOK {
		t.Errorf("the child: %d %s", status, code)
	}
	s.refuses("the child without a box", first, http.StatusUnauthorized, "till_key_invalid")
	s.refuses("the child with its parent's box", first+"."+parentBox, http.StatusUnauthorized, "till_key_invalid")
	if n := to.Count(); n != 1 {
		t.Errorf("the upstream counted %d", n)
	}
	for _, v := range to.Violations() {
		t.Error("at the upstream: ", v)
	}
	// At another address than the one it was sealed for, a child would carry
	// the real key there.
	s.replace("upstream x openai {\n\tto "+to.URL, "upstream x openai {\n\tto "+s.upstream.URL)
	s.reload()
	if status, code, answer := s.asHolder("POST", "/till/self/keys", root, object{"max_activations": 5}); status != http.StatusBadGateway || code != "till_upstream_changed" {
		t.Errorf("at another address: %d %s %v", status, code, answer)
	}
	s.replace("upstream x openai {\n\tto "+s.upstream.URL, "upstream x openai {\n\tto "+to.URL)
	s.reload()
	if status, answer := s.api("POST", "/keys/"+rootID+"/revoke", object{}); status != http.StatusOK {
		t.Fatalf("revoke: %d %v", status, answer)
	}
	s.refuses("the child of a revoked key", child, http.StatusForbidden, "till_key_revoked")
	s.stop()
	if salt := s.stored("s/" + id); salt != nil {
		t.Error("the child's salt is there after its parent was revoked")
	}
}

func TestKill9InATreeForwardsNoMoreThanTheRootWasGiven(t *testing.T) {
	t.Parallel()
	weighs(t, middleWeight)
	s := newServer(t, options{})
	const n = 600
	rootID, root := s.mint(object{"max_activations": n, "delegate": true})
	keys := []string{root}
	for range 3 {
		_, key := s.child(root, object{"max_activations": 120, "delegate": true})
		_, below := s.child(key, object{"max_activations": 40})
		keys = append(keys, key, below)
	}
	const parallel = 24
	for range 2 {
		stop := make(chan struct{})
		var all sync.WaitGroup
		for i := range parallel {
			all.Go(func() {
				for j := i; ; j++ {
					select {
					case <-stop:
						return
					default:
						s.chat(keys[j%len(keys)])
					}
				}
			})
		}
		before := s.upstream.Count()
		s.eventually("some were forwarded", func() bool { return s.upstream.Count() >= before+100 })
		s.kill9()
		close(stop)
		all.Wait()
		s.start()
	}
	for _, key := range keys {
		s.load(key, 400, 20)
	}
	got := s.upstream.Count()
	if lost := n - 6 - got; lost < 0 || lost > 2*parallel {
		t.Errorf("the upstream counted %d of %d less six mints: %d are missing, want from 0 to %d", got, n, lost, 2*parallel)
	}
	t.Logf("%d of %d forwarded over two kills", got, n-6)
	s.used(rootID) // an answer may be read before it is counted
	if v := s.show(rootID); v["used_activations"].(float64)+v["delegated_activations"].(float64)+v["remaining_activations"].(float64) != n {
		t.Errorf("the root's books: %v", v)
	}
	s.clean("reading the body: unexpected EOF") // a kill may come in the middle of one
}
