package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/till-proxy/till/upstream"
	"github.com/till-proxy/till/upstream/upstreamtest"
)

// outcome is what an application sees of an SDK's call.
type outcome struct {
	Text  string
	Parts int
	Error *thrown
}

// thrown is what an SDK throws.
type thrown struct {
	Name    string
	Status  *int
	Message string
}

func (e *thrown) String() string { return e.Name + ": " + e.Message }

// needsSDKs ends a test at once where they are missing.
func needsSDKs(t *testing.T) {
	t.Helper()
	for _, name := range []string{"openai", "standardwebhooks", "typescript"} {
		if _, err := os.Stat("sdk/node_modules/" + name); err != nil {
			t.Fatal("the vendors' SDKs are not installed; run: make test (or: npm ci, in e2e/sdk)")
		}
	}
}

// sdk makes calls with a client of sdk/call.mjs: one for each of modes, which
// are separated by commas, as are keys, if there is not one for all. started, if not nil, is called when the first part
// of a streamed answer has arrived.
func sdk(t *testing.T, client, modes, base, key string, started func()) []outcome {
	t.Helper()
	needsSDKs(t)
	cmd := exec.Command("node", "sdk/call.mjs", client, modes, base, key)
	endWithTests(cmd)
	var out bytes.Buffer
	cmd.Stdout = &out
	progress, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	lines := bufio.NewScanner(progress)
	for lines.Scan() {
		if lines.Text() == "first part" && started != nil {
			started()
		}
		said.WriteString(lines.Text() + "\n")
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("node: %v\n%s", err, said.String())
	}
	var all []outcome
	if err := json.Unmarshal(out.Bytes(), &all); err != nil || len(all) != strings.Count(modes, ",")+1 {
		t.Fatalf("%v: %s\n%s", err, out.String(), said.String())
	}
	return all
}

// passesOn lets a proxy read a body on after its answer has begun. Otherwise the server
// closes the body by then, and if the transport reads once more after the last byte, it breaks
// off the answer (https://golang.org/issue/40747).
func passesOn(t *testing.T, proxy http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		proxy.ServeHTTP(w, r)
	})
}

// counting puts a counter of requests in front of the server.
func counting(t *testing.T, s *server) (string, *atomic.Int64) {
	t.Helper()
	to, err := url.Parse("http://" + s.addr)
	if err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	proxy := httputil.NewSingleHostReverseProxy(to)
	// Its own: httptest closes connections of the default one whenever the
	// server of any other test ends.
	transport := new(http.Transport)
	proxy.Transport = transport
	t.Cleanup(transport.CloseIdleConnections)
	passes := passesOn(t, proxy)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		passes.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	return front.URL, &n
}

var vendors = []upstreamtest.Vendor{upstreamtest.OpenAI, upstreamtest.Anthropic, upstreamtest.Gemini}

// clients are those of sdk/call.mjs: every preset with its vendor's SDK where there
// is one, or otherwise the one that the vendor recommends.
var clients = map[string]upstreamtest.Vendor{
	"openai": upstreamtest.OpenAI, "anthropic": upstreamtest.Anthropic, "gemini": upstreamtest.Gemini,
	"mistral": upstreamtest.Mistral, "cohere": upstreamtest.Cohere, "groq": "groq", "together": "together",
	"openrouter": "openrouter", "fireworks": "fireworks", "perplexity": "perplexity", "deepseek": "deepseek", "xai": "xai", "ollama": "ollama",
	"vllm": "vllm", "llamacpp": "llamacpp", "lmstudio": "lmstudio", "tgi": "tgi", "sglang": "sglang",
	"vercel-openai": upstreamtest.OpenAI, "vercel-anthropic": upstreamtest.Anthropic, "vercel-google": upstreamtest.Gemini, "vercel-compatible": "deepseek",
}

func TestEveryPresetHasAClient(t *testing.T) {
	t.Parallel()
	for _, name := range upstream.Names() {
		if clients[name] != upstreamtest.Vendor(name) {
			t.Errorf("preset %s has no client among the SDKs", name)
		}
	}
}

func TestTheVendorsOwnSDKsWorkAndStopAtOnce(t *testing.T) {
	t.Parallel()
	for client, vendor := range clients {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, options{vendor: vendor})
			front, count := counting(t, s)
			id, key := s.mint(object{"max_activations": 2, "name": "nightly"})

			all := sdk(t, client, "plain,stream,plain,stream", front, key, nil)
			if plain := all[0]; plain.Error != nil || plain.Text != "hello" {
				t.Errorf("plain: %+v", plain)
			}
			if streamed := all[1]; streamed.Error != nil || streamed.Parts < 3 {
				t.Errorf("streamed: %+v", streamed)
			}
			for i, dead := range all[2:] {
				if dead.Error == nil || !strings.Contains(dead.Error.Message, "key "+id+" (nightly) has used all 2 activations") {
					t.Errorf("dead key, call %d: %+v, want our message", i, dead.Error)
				}
			}
			s.clean()
			// Each sent at least one.
			if n := count.Load(); n != 4 {
				t.Errorf("four calls sent %d requests, want exactly 4", n)
			}
			if n := s.upstream.Count(); n != 2 {
				t.Errorf("the upstream counted %d, want 2", n)
			}
		})
	}
}

func TestSDKsReportARevocationInMidStream(t *testing.T) {
	t.Parallel()
	for _, vendor := range vendors {
		t.Run(string(vendor), func(t *testing.T) {
			t.Parallel()
			// The SDKs cannot ask the stand-in for a long stream, so the
			// server's configuration does.
			s := newServer(t, options{vendor: vendor, upstream: "header_up X-Test-Events 10000\nheader_up X-Test-Pause 5ms"})
			id, key := s.mint(object{"max_activations": 2})
			o := sdk(t, string(vendor), "stream", "http://"+s.addr, key, func() {
				if status, answer := s.api("POST", "/keys/"+id+"/revoke", object{"reason": "enough"}); status != 200 || answer["streams_cut"].(float64) != 1 {
					t.Errorf("revoke: %d %v", status, answer)
				}
			})[0]
			if o.Parts < 1 || o.Error == nil || !strings.Contains(o.Error.Message, "was revoked") {
				t.Errorf("%d parts, then %+v, want our message", o.Parts, o.Error)
			}
		})
	}
}

// figures are also the times that the stand-in writes into its texts.
var figures = regexp.MustCompile(`[0-9]+`)

// TestSDKsSeeNoDifferenceThroughAMeteredKey makes the same calls with a key that
// counts requests and with one that is limited in tokens: applications get the
// same texts in the same parts, also those that look into the first choice of
// every chunk without asking whether there is one.
func TestSDKsSeeNoDifferenceThroughAMeteredKey(t *testing.T) {
	t.Parallel()
	for client, vendor := range clients {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, options{vendor: vendor})
			_, plain := s.mint(object{"max_activations": 10})
			id, metered := s.mint(object{"max_tokens": 1_000_000})
			all := sdk(t, client, "plain,stream,plain,stream", "http://"+s.addr, strings.Join([]string{plain, plain, metered, metered}, ","), nil)
			want, got := all[:2], all[2:]
			if vendor == "perplexity" {
				for _, o := range got { // its models search, for a fee of their own
					if o.Error == nil || !strings.Contains(o.Error.Message, "cannot be bounded") {
						t.Errorf("%+v", o)
					}
				}
				return
			}
			for i := range want {
				if want[i].Error != nil || got[i].Error != nil || figures.ReplaceAllString(got[i].Text, "") != figures.ReplaceAllString(want[i].Text, "") || got[i].Parts != want[i].Parts {
					t.Errorf("call %d: %+v, and without a meter %+v", i, got[i], want[i])
				}
			}
			s.used(id)
			if used := s.show(id)["used_tokens"].(float64); used < 2 || used > 1000 {
				t.Errorf("two short answers used %v tokens", used)
			}
		})
	}
}
