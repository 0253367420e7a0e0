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
	"strings"
	"sync/atomic"
	"testing"

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

// sdk runs a vendor's SDK. started, if not nil, is called when the first part
// of a streamed answer has arrived.
func sdk(t *testing.T, vendor upstreamtest.Vendor, mode, base, key string, started func()) outcome {
	t.Helper()
	if _, err := os.Stat("sdk/node_modules/openai"); err != nil {
		t.Fatal("the vendors' SDKs are not installed; run: make test (or: npm ci, in e2e/sdk)")
	}
	cmd := exec.Command("node", "sdk/call.mjs", string(vendor), mode, base, key)
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
	var o outcome
	if err := json.Unmarshal(out.Bytes(), &o); err != nil {
		t.Fatalf("%v: %s\n%s", err, out.String(), said.String())
	}
	return o
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
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	return front.URL, &n
}

var vendors = []upstreamtest.Vendor{upstreamtest.OpenAI, upstreamtest.Anthropic, upstreamtest.Gemini}

func TestTheVendorsOwnSDKsWorkAndStopAtOnce(t *testing.T) {
	for _, vendor := range vendors {
		t.Run(string(vendor), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, options{vendor: vendor})
			front, count := counting(t, s)
			id, key := s.mint(object{"max_activations": 2, "name": "nightly"})

			plain := sdk(t, vendor, "plain", front, key, nil)
			if plain.Error != nil || plain.Text != "hello" {
				t.Errorf("plain: %+v", plain)
			}
			streamed := sdk(t, vendor, "stream", front, key, nil)
			if streamed.Error != nil || streamed.Parts < 3 {
				t.Errorf("streamed: %+v", streamed)
			}
			s.clean()
			if n := s.upstream.Count(); n != 2 {
				t.Errorf("the upstream counted %d, want 2", n)
			}
			for _, mode := range []string{"plain", "stream"} {
				count.Store(0)
				dead := sdk(t, vendor, mode, front, key, nil)
				if dead.Error == nil || !strings.Contains(dead.Error.Message, "key "+id+" (nightly) has used all 2 activations") {
					t.Errorf("dead key, %s: %+v, want our message", mode, dead.Error)
				}
				if n := count.Load(); n != 1 {
					t.Errorf("dead key, %s: the SDK sent %d requests, want exactly 1", mode, n)
				}
			}
			if n := s.upstream.Count(); n != 2 {
				t.Errorf("the upstream counted %d after the key was dead, want 2", n)
			}
		})
	}
}

func TestSDKsReportARevocationInMidStream(t *testing.T) {
	for _, vendor := range vendors {
		t.Run(string(vendor), func(t *testing.T) {
			t.Parallel()
			// The SDKs cannot ask the stand-in for a long stream, so the
			// server's configuration does.
			s := newServer(t, options{vendor: vendor, upstream: "header_up X-Test-Events 10000\nheader_up X-Test-Pause 5ms"})
			id, key := s.mint(object{"max_activations": 2})
			o := sdk(t, vendor, "stream", "http://"+s.addr, key, func() {
				if status, answer := s.api("POST", "/keys/"+id+"/revoke", object{"reason": "enough"}); status != 200 || answer["streams_cut"].(float64) != 1 {
					t.Errorf("revoke: %d %v", status, answer)
				}
			})
			if o.Parts < 1 || o.Error == nil || !strings.Contains(o.Error.Message, "was revoked") {
				t.Errorf("%d parts, then %+v, want our message", o.Parts, o.Error)
			}
		})
	}
}
