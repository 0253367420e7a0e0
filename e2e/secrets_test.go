package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/upstream/upstreamtest"
)

// secretSweep collects everything that a server writes and says, and looks
// for secrets in it.
type secretSweep struct {
	t       *testing.T
	secrets map[string]string // what it is → the secret
	said    map[string][]byte // where → what
}

func (s *secretSweep) keep(where string, what []byte) { s.said[where] = append(s.said[where], what...) }

// found lists which secrets stand where, in any form they travel in.
func (s *secretSweep) found() []string {
	var found []string
	for name, secret := range s.secrets {
		for _, form := range []string{
			secret, hex.EncodeToString([]byte(secret)), strings.ReplaceAll(secret, "_", "%5F"), strings.ReplaceAll(secret, "_", "%5f"),
			// Whichever way it stands in base64, as in HTTP Basic.
			base64.StdEncoding.EncodeToString([]byte(secret))[4 : len(secret)-4],
			base64.StdEncoding.EncodeToString([]byte("x" + secret))[4 : len(secret)-4],
			base64.StdEncoding.EncodeToString([]byte("xx" + secret))[4 : len(secret)-4],
		} {
			for where, what := range s.said {
				if bytes.Contains(what, []byte(form)) {
					found = append(found, fmt.Sprintf("%s in %s (as %.12s…)", name, where, form))
				}
			}
		}
	}
	return found
}

// answer keeps what a client received.
func (s *secretSweep) answer(where string, res *http.Response) {
	s.t.Helper()
	var b bytes.Buffer
	if err := res.Header.Write(&b); err != nil {
		s.t.Error(err)
	}
	// A body that is broken off is kept as far as it came.
	if _, err := io.Copy(&b, res.Body); err != nil {
		fmt.Fprintf(&b, "\n%v", err)
	}
	res.Body.Close()
	if err := res.Trailer.Write(&b); err != nil {
		s.t.Error(err)
	}
	s.keep("answer: "+where, b.Bytes())
}

// shippedFilter is the log block of Caddyfile.example, at level DEBUG.
func shippedFilter(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "\tlog default {\n")
	block, _, closed := strings.Cut(rest, "\n\t}\n")
	if !ok || !closed {
		t.Fatal("Caddyfile.example has no log block")
	}
	return "log default {\n\t\tlevel DEBUG\n\t\toutput file " + file + "\n" + block + "\n\t}"
}

// echoing is an upstream that shows the credential in every way there is.
func echoing(t *testing.T) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secret := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		switch r.URL.Path {
		case "/header":
			w.Header().Set("X-Echo", secret)
		case "/cookie":
			w.Header().Set("Set-Cookie", "k="+secret)
		case "/location":
			w.Header().Set("Location", "/x?key="+secret)
			w.WriteHeader(http.StatusFound)
		case "/error":
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"error":{"message":"Incorrect key %s"}}`, secret)
		case "/unauthorized":
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error":{"message":"Incorrect key %s"}}`, secret)
		case "/trailer":
			w.Header().Set("Trailer", "X-Echo")
			fmt.Fprint(w, "body")
			w.Header().Set("X-Echo", secret)
		case "/early":
			w.Header().Set("Link", "<"+secret+">")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// slotsOf sets a key in every slot there is, by turns.
var slotsOf = map[string]func(r *http.Request, key string){
	"Bearer":         func(r *http.Request, key string) { r.Header.Set("Authorization", "Bearer "+key) },
	"bearer":         func(r *http.Request, key string) { r.Header.Set("Authorization", "bearer "+key) },
	"bare":           func(r *http.Request, key string) { r.Header.Set("Authorization", key) },
	"Basic user":     func(r *http.Request, key string) { r.SetBasicAuth(key, "") },
	"Basic password": func(r *http.Request, key string) { r.SetBasicAuth("x", key) },
	"x-api-key":      func(r *http.Request, key string) { r.Header.Set("X-Api-Key", key) },
	"api-key":        func(r *http.Request, key string) { r.Header.Set("Api-Key", key) },
	"x-goog-api-key": func(r *http.Request, key string) { r.Header.Set("X-Goog-Api-Key", key) },
	"?key=":          func(r *http.Request, key string) { r.URL.RawQuery = "key=" + key + "&a=b" },
	"subprotocol": func(r *http.Request, key string) {
		r.Header.Set("Sec-Websocket-Protocol", "realtime, openai-insecure-api-key."+key)
	},
	"sk-": func(r *http.Request, key string) { r.Header.Set("Authorization", "Bearer sk-"+key) },
}

// bare is a request without a key.
func (s *server) bare(method, path, body string) *http.Request {
	s.t.Helper()
	r, err := http.NewRequest(method, "http://"+s.addr+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

func TestNoSecretIsWrittenOrSaidAnywhere(t *testing.T) {
	t.Parallel()
	echo := echoing(t)
	dead := refusingAddress(t)
	// Gemini's slot is one that Caddy's logs do not redact.
	gemini := upstreamtest.Start(t, upstreamtest.Gemini, realKey)
	sealedTo := upstreamtest.Start(t, upstreamtest.Gemini, sealedReal)
	s := newServer(t, options{
		site: "log\nmetrics /metrics\nroute /guarded/* {\n\ttill guard\n\trespond \"{http.request.orig_uri} {http.request.uri} {http.request.header.Authorization} {http.request.header.X-Api-Key} {http.request.header.Api-Key} {http.request.header.X-Goog-Api-Key} {http.request.header.Sec-Websocket-Protocol} {http.request.uri.query.key} {http.request.orig_uri.query} {http.vars.till} {http.till.key}\"\n}\n" +
			"route /failing/* {\n\ttill guard\n\terror {http.request.orig_uri} 500\n}\n",
		more: "upstream echo " + echo.URL + " {\n\tcredential {env.MOCK_KEY}\n}\n" +
			"upstream dead http://" + dead + " {\n\tcredential {env.MOCK_KEY}\n}\n" +
			"upstream gemini {\n\tto " + gemini.URL + "\n\tcredential {env.MOCK_KEY}\n}\n" +
			"upstream sealed gemini {\n\tto " + sealedTo.URL + "\n}\n",
	})
	logFile := filepath.Join(s.dir, "caddy.log")
	s.stop()
	s.replace("log default {\n\t\tlevel INFO\n\t}", shippedFilter(t, logFile))
	s.replace("\tpersist_config off\n", "")
	s.start()

	sweep := &secretSweep{t: t, secrets: map[string]string{"the held credential": realKey, "the sealed credential": sealedReal}, said: map[string][]byte{}}
	mint := func(what string, fields object) (id, key string) {
		fields["max_activations"] = 100
		id, key = s.mint(fields)
		first, box, sealed := strings.Cut(key, ".")
		sweep.secrets[what] = strings.TrimPrefix(first, "till_sk_")
		if sealed {
			sweep.secrets["the box of "+what] = box
		}
		return id, key
	}
	id, key := mint("a key", object{})
	_, echoKey := mint("a key of the echo", object{"upstream": "echo"})
	_, deadKey := mint("a key of the dead upstream", object{"upstream": "dead"})
	geminiID, geminiKey := mint("a key of gemini", object{"upstream": "gemini"})
	sealedID, sealedKey := mint("a sealed key", object{"upstream": "sealed", "upstream_key": sealedReal})
	do := func(where string, r *http.Request) {
		res, err := s.client.Do(r)
		if err != nil {
			sweep.keep("answer: "+where, []byte(err.Error()))
			return
		}
		sweep.answer(where, res)
	}

	for slot, set := range slotsOf {
		for name, k := range map[string]string{"held": key, "sealed": sealedKey, "unknown": "till_sk_" + strings.Repeat("0", 28), "cut": key[:20]} {
			r := s.bare("POST", "/v1/chat/completions", chatBody)
			set(r, k)
			do(name+" in "+slot, r)
			for _, path := range []string{"/guarded/x", "/failing/x", "/proxy/other/x", "/v1/files", "/till/self", "/a/../b", "/v1/models"} {
				r := s.bare("GET", path, "")
				set(r, k)
				do(name+" in "+slot+" "+path, r)
			}
		}
	}
	for _, path := range []string{"/header", "/cookie", "/location", "/error", "/unauthorized", "/trailer", "/early"} {
		r := s.bare("GET", path, "")
		r.Header.Set("X-Api-Key", echoKey)
		do("echo "+path, r)
	}
	r := s.bare("POST", "/x", "{}")
	r.Header.Set("X-Api-Key", deadKey)
	do("an upstream that is not there", r)
	// What breaks off has no body: Caddy's access log reads how long that was
	// while the transport may still be at it, which the race detector minds.
	const stream = "/v1beta/models/m:streamGenerateContent"
	for _, fail := range []string{"before", "after"} {
		for _, k := range []string{geminiKey, sealedKey} {
			r := s.bare("POST", stream, "")
			r.Header.Set("X-Api-Key", k)
			r.Header.Set(upstreamtest.HeaderFail, fail)
			do("an upstream that breaks off "+fail, r)
		}
	}
	// A client that goes in the middle: Caddy warns, and shows the request.
	for _, k := range []string{geminiKey, sealedKey} {
		ctx, cancel := context.WithCancel(t.Context())
		r := s.bare("POST", stream, "").WithContext(ctx)
		r.Header.Set("X-Api-Key", k)
		r.Header.Set(upstreamtest.HeaderEvents, "100000")
		r.Header.Set(upstreamtest.HeaderPause, "1ms")
		res, err := s.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := res.Body.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		cancel()
		res.Body.Close()
	}
	s.used(id)
	s.used(geminiID)
	s.used(sealedID)
	s.reload()
	for _, body := range []string{`{"upstream":"sealed","upstream_key":"` + sealedReal + `","max_spend_usd":"x"}`, `{"upstream_key":"` + sealedReal} {
		r, err := http.NewRequest("POST", "http://"+s.admin+"/till/keys", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		do("a mint that is refused", r)
	}
	for _, path := range []string{"/config/", "/till/keys", "/till/keys/" + id, "/till/keys/" + sealedID, "/till/keys/" + id + "/usage", "/till/upstreams", "/till/stats",
		"/metrics", "/reverse_proxy/upstreams", "/debug/vars"} {
		r, err := http.NewRequest("GET", "http://"+s.admin+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		do("admin "+path, r)
	}
	s.api("POST", "/keys/"+sealedID+"/revoke", object{"reason": "done"})
	s.stop()
	sweep.keep("standard output", []byte(s.output()))
	sweep.files(s)

	for _, f := range sweep.found() {
		t.Error(f)
	}
	// Whether all of that was there to be looked at, and would be found.
	for where, want := range map[string]string{
		"file caddy.log":         "aborting with incomplete response",
		"answer: admin /config/": `"till"`,
		"store":                  "key_",
	} {
		if !bytes.Contains(sweep.said[where], []byte(want)) {
			t.Errorf("%q is not in %s", want, where)
		}
	}
	if autosave := sweep.said["file caddy/autosave.json"]; !bytes.Contains(autosave, []byte("MOCK_KEY")) {
		t.Errorf("the autosave was not looked at: %d bytes of it", len(autosave))
	}
	if !bytes.Contains(sweep.said["file caddy.log"], []byte("upstream roundtrip")) {
		t.Error("the log is not at level DEBUG")
	}
	for name, secret := range sweep.secrets {
		planted := &secretSweep{t: t, secrets: sweep.secrets, said: map[string][]byte{"the log": append(sweep.said["file caddy.log"], secret...)}}
		if len(planted.found()) == 0 {
			t.Errorf("%s, planted in the log, is not found", name)
		}
	}
}

// files keeps every file of the server, and the store's records as they are
// read, because tables are compressed.
func (s *secretSweep) files(from *server) {
	s.t.Helper()
	err := filepath.WalkDir(from.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from.dir, path)
		if err != nil {
			return err
		}
		s.keep("file "+name, b)
		return nil
	})
	if err != nil {
		s.t.Error(err)
	}
	from.inStore(func(tx store.Tx) error {
		return tx.Scan(nil, nil, false, func(key, value []byte) (bool, error) {
			s.keep("store", append(append(bytes.Clone(key), value...), '\n'))
			return true, nil
		})
	})
}
