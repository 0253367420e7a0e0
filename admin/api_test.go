package admin

import (
	"net/http"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store/storetest"
)

func TestUpstreamsAndStats(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.NewKey(`{"upstream":"openai","max_activations":5}`)
	admintest.Equal(t, "upstreams", admintest.Steady(w.Do("GET", "/upstreams", "").Body), `{"base_url":"https://agents.example.com","upstreams":[`+
		`{"name":"github","origins":["https://api.github.com"],"held":true,"credential_fingerprint":"FINGERPRINT"},`+
		`{"name":"openai","preset":"openai","dialect":"openai","origins":["https://api.openai.com"],"held":true,"credential_fingerprint":"FINGERPRINT"},`+
		`{"name":"spare","preset":"openai","dialect":"openai","origins":["https://api.openai.com"],"held":false}]}`+"\n")
	admintest.Equal(t, "stats", w.Do("GET", "/stats", "").Body,
		`{"keys":{"active":1},"holds":0,"used_activations":0,"used_tokens":0,"used_spend_usd":"0.00","forgotten_activations":0,"forfeited_activations":0,"store_failure":"","clock_off_seconds":0,"lockdown":{"locked_down":false}}`+"\n")
}

func TestUnknownPathsAndMethods(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	secret := w.NewKey(`{"upstream":"openai","max_activations":5}`).ScopedKey
	for target, test := range map[string]struct {
		status      int
		code, allow string
	}{
		"PUT /keys":                        {405, "method_not_allowed", "GET, POST"},
		"POST /keys/key_x":                 {405, "method_not_allowed", "GET, PATCH, DELETE"},
		"GET /keys/key_x/revoke":           {405, "method_not_allowed", "POST"},
		"POST /stats":                      {405, "method_not_allowed", "GET"},
		"GET /":                            {404, "not_found", ""},
		"GET /nothing":                     {404, "not_found", ""},
		"GET /keys/" + secret:              {404, "not_found", ""},
		"GET /keys/" + secret + "/nothing": {404, "not_found", ""},
		"POST /keys/" + secret + "/usage":  {405, "method_not_allowed", "GET"},
	} {
		t.Run(admintest.Steady(target), func(t *testing.T) {
			t.Parallel()
			method, path, _ := strings.Cut(target, " ")
			a := w.Do(method, path, "")
			if code, _ := a.Fault(t); a.Status != test.status || code != test.code || a.Header.Get("Allow") != test.allow {
				t.Errorf("answered %d %s, Allow %q", a.Status, code, a.Header.Get("Allow"))
			}
			if strings.Contains(a.Body, secret) {
				t.Errorf("the key is repeated: %s", a.Body)
			}
		})
	}
}

// TestAnActTakesNoParametersInTheAddress: a dry_run that is written there would be
// ignored, and the act done.
func TestAnActTakesNoParametersInTheAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.NewKey(`{"upstream":"openai","max_activations":5,"owner":"ann"}`)
	for pattern := range operations {
		method, path, _ := strings.Cut(pattern, " ")
		if method == "GET" {
			continue
		}
		path = strings.NewReplacer("{id}", m.ID, "{name}", "a").Replace(path)
		a := w.Do(method, path+"?dry_run=true", `{"filter":{"owner":"ann"}}`)
		if code, message := a.Fault(t); a.Status != 400 || code != "invalid_request" || !strings.Contains(message, "no parameters in the address") {
			t.Errorf("%s answered %d %s %q", pattern, a.Status, code, message)
		}
	}
	if k := admintest.Get[wire.KeyObject](t, w.Do("GET", "/keys/"+m.ID, "")); k.Status != record.Active || k.Version != 1 {
		t.Errorf("the key is %s, at version %d", k.Status, k.Version)
	}
}

func TestAClosedStoreIsUnavailable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Shut()
	a := w.Do("GET", "/keys", "")
	if code, message := a.Fault(t); a.Status != http.StatusServiceUnavailable || code != "store_unavailable" || !strings.Contains(message, "closed") {
		t.Errorf("answered %d %s %q", a.Status, code, message)
	}
}

// TestAnActOfUnknownOutcomeSaysWhatIsKnown: that nobody knows whether it was done, why, and
// what holds all the same.
func TestAnActOfUnknownOutcomeSaysWhatIsKnown(t *testing.T) {
	t.Parallel()
	for act, known := range map[string]string{"revoke": "stopped in memory", "grant": "not known whether this was done"} {
		of, disk := admintest.OnDisk(t)
		w := serving(of)
		m := w.NewKey(`{"upstream":"openai","max_activations":5}`)
		disk.FailAt(1, true)
		a := w.Do("POST", "/keys/"+m.ID+"/"+act, map[string]string{"grant": `{"activations":1}`}[act])
		code, message := a.Fault(t)
		if a.Status != http.StatusServiceUnavailable || code != "outcome_unknown" || a.Header.Get("Retry-After") != "" ||
			!strings.Contains(message, known) || !strings.Contains(message, storetest.ErrInjected.Error()) {
			t.Errorf("%s: %d %s %q", act, a.Status, code, message)
		}
		if err := w.Close(); err == nil {
			t.Error("a store that has failed is closed as if all were written")
		}
		w.Closed = true
	}
}
