package cli

import (
	"net/http"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/admintest"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/token"
)

func TestSealKeysAreListedWithWhatNeedsThem(t *testing.T) {
	w := newWorld(t)
	t.Setenv("TILL_ADDRESS", w.Serve())
	m := w.NewKey(`{"upstream":"openai","max_activations":5,"upstream_key":"sk-real-1"}`)
	made := w.Live(m).Key().SealKey // the backend of these tests always seals with this one
	a := w.Do("POST", "/seal/rotate", "")
	if code, message := a.Fault(t); a.Status != http.StatusConflict || code != "seal_key_configured" || !strings.Contains(message, "openssl rand") {
		t.Errorf("%d %s %s", a.Status, code, message)
	}
	w.SealKeys = []token.SealKeyID{made, {1}}
	answer := admintest.Get[wire.SealKeysAnswer](t, w.Do("POST", "/seal/rotate", ""))
	want := []wire.SealKeyObject{
		{ID: "0300000000000000", Seals: true, Opens: true},
		{ID: made.String(), Opens: true, LiveKeys: 1},
		{ID: "0100000000000000", Opens: true},
	}
	if len(answer.SealKeys) != len(want) {
		t.Fatalf("%+v", answer)
	}
	for i := range want {
		if answer.SealKeys[i] != want[i] {
			t.Errorf("%+v, want %+v", answer.SealKeys[i], want[i])
		}
	}
	r := till(t, "seal")
	admintest.Equal(t, "seal", r.out, `SEAL KEY          IT     LIVE KEYS  ENDED KEYS
0300000000000000  seals  0          0
`+made.String()+`  opens  1          0
0100000000000000  opens  0          0
`)
	if r.code != 0 || !strings.Contains(r.err, "Not needed any more: 0100000000000000\n") {
		t.Errorf("%+v", r)
	}
	w.SealKeys = []token.SealKeyID{{1}}
	if r = till(t, "seal", "rotate"); r.code != 0 || !strings.Contains(r.err, "Missing, so their keys do not open: "+made.String()) {
		t.Errorf("%+v", r)
	}
	if r = till(t, "seal", "rotat"); r.code != exitUsage {
		t.Errorf("%+v", r)
	}
	if r = till(t, "seal", "rotate", "now"); r.code != exitUsage {
		t.Errorf("%+v", r)
	}
}

func TestKeysAreFoundByTheRealKeyThatTheyDependOn(t *testing.T) {
	w := newWorld(t)
	t.Setenv("TILL_ADDRESS", w.Serve())
	sealed := w.NewKey(`{"upstream":"spare","max_activations":5,"upstream_key":"sk-real-of-openai"}`)
	w.NewKey(`{"upstream":"spare","max_activations":5,"upstream_key":"sk-real-another"}`)
	held := w.NewKey(`{"upstream":"openai","max_activations":5}`)
	w.NewKey(`{"upstream":"github","max_activations":5}`)
	if len(sealed.CredentialFingerprint) != 32 || held.CredentialFingerprint != "" {
		t.Errorf("fingerprints %q, %q", sealed.CredentialFingerprint, held.CredentialFingerprint)
	}
	found := admintest.Get[wire.Fingerprinted](t, w.Do("POST", "/fingerprint", `{"upstream_key":"sk-real-of-openai"}`))
	if found.CredentialFingerprint != sealed.CredentialFingerprint || len(found.Upstreams) != 1 || found.Upstreams[0] != "openai" {
		t.Errorf("%+v", found)
	}
	if !strings.Contains(w.Do("GET", "/upstreams", "").Body, `"credential_fingerprint":"`+found.CredentialFingerprint) {
		t.Error("the upstream does not say that it is its credential")
	}
	page := admintest.Get[wire.Listed](t, w.Do("GET", "/keys?credential_fingerprint="+found.CredentialFingerprint, ""))
	ids := map[string]bool{}
	for _, k := range page.Keys {
		ids[k.ID] = true
	}
	if len(ids) != 2 || !ids[sealed.ID] || !ids[held.ID] {
		t.Errorf("%v", ids)
	}
	r := till(t, "list", "--upstream-key", "sk-real-of-openai", "--json")
	if r.code != 0 || strings.Count(r.out, `"id"`) != 2 || strings.Contains(r.out+r.err, "sk-real") {
		t.Errorf("%+v", r)
	}
	if r = till(t, "list", "--upstream-key", "sk-real-unknown", "--json"); r.code != 0 || strings.Contains(r.out, `"id"`) {
		t.Errorf("%+v", r)
	}
	for _, body := range []string{`{}`, `{"upstream_key":""}`} {
		if a := w.Do("POST", "/fingerprint", body); a.Status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", body, a.Status, a.Body)
		}
	}
}
