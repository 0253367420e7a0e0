package admin

import (
	"net/http"
	"strings"
	"testing"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/token"
)

func TestSealKeysAreListedWithWhatNeedsThem(t *testing.T) {
	w := newCWorld(t)
	t.Setenv("TILL_ADDRESS", w.serve())
	m := w.mint(`{"upstream":"openai","max_activations":5,"upstream_key":"sk-real-1"}`)
	made := w.live(m).Key().SealKey // the backend of these tests always seals with this one
	a := w.do("POST", "/seal/rotate", "")
	if code, message := a.fault(t); a.status != http.StatusConflict || code != "seal_key_configured" || !strings.Contains(message, "openssl rand") {
		t.Errorf("%d %s %s", a.status, code, message)
	}
	w.sealKeys = []token.SealKeyID{made, {1}}
	answer := get[wire.SealKeysAnswer](t, w.do("POST", "/seal/rotate", ""))
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
	equal(t, "seal", r.out, `SEAL KEY          IT     LIVE KEYS  ENDED KEYS
0300000000000000  seals  0          0
`+made.String()+`  opens  1          0
0100000000000000  opens  0          0
`)
	if r.code != 0 || !strings.Contains(r.err, "Not needed any more: 0100000000000000\n") {
		t.Errorf("%+v", r)
	}
	w.sealKeys = []token.SealKeyID{{1}}
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
	w := newCWorld(t)
	t.Setenv("TILL_ADDRESS", w.serve())
	sealed := w.mint(`{"upstream":"spare","max_activations":5,"upstream_key":"sk-real-of-openai"}`)
	w.mint(`{"upstream":"spare","max_activations":5,"upstream_key":"sk-real-another"}`)
	held := w.mint(`{"upstream":"openai","max_activations":5}`)
	w.mint(`{"upstream":"github","max_activations":5}`)
	if len(sealed.CredentialFingerprint) != 32 || held.CredentialFingerprint != "" {
		t.Errorf("fingerprints %q, %q", sealed.CredentialFingerprint, held.CredentialFingerprint)
	}
	found := get[wire.Fingerprinted](t, w.do("POST", "/fingerprint", `{"upstream_key":"sk-real-of-openai"}`))
	if found.CredentialFingerprint != sealed.CredentialFingerprint || len(found.Upstreams) != 1 || found.Upstreams[0] != "openai" {
		t.Errorf("%+v", found)
	}
	if !strings.Contains(w.do("GET", "/upstreams", "").body, `"credential_fingerprint":"`+found.CredentialFingerprint) {
		t.Error("the upstream does not say that it is its credential")
	}
	page := get[wire.Listed](t, w.do("GET", "/keys?credential_fingerprint="+found.CredentialFingerprint, ""))
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
		if a := w.do("POST", "/fingerprint", body); a.status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
}
