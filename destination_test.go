package till

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/scope"
	"github.com/till-proxy/till/upstream"
)

// destinationRefusal returns why a key may not send the request, as far as its headers
// name paths.
func destinationRefusal(x *exchange, key *record.Key, guard bool) *record.Refusal {
	x.key = key
	ask := limiter.Ask{Path: "/a/x"}
	if refusal := x.checkDestination(guard, &ask); refusal != nil {
		return refusal
	}
	return limiter.AllowsPaths(key, &ask)
}

func TestADestinationIsCheckedAsThePathIs(t *testing.T) {
	t.Parallel()
	dav := &Upstream{To: []string{"http://dav.example.com/files"}}
	some := &Upstream{To: []string{"http://dav.example.com"}, Allow: []string{"MOVE /a/*", "GET /b/*"}}
	anything := &record.Key{ID: "key_1"}
	below := &record.Key{ID: "key_1", Scope: scope.Scope{Paths: []string{"/a/*"}}}
	for _, test := range []struct {
		u           *Upstream
		key         *record.Key
		target      string
		destination string
		out         string // as sent
		code        record.Code
	}{
		{dav, anything, "/a/x", "http://till.test/a/y", "http://dav.example.com/files/a/y", ""},
		{dav, anything, "/a/x", "/a/y", "http://dav.example.com/files/a/y", ""},
		{dav, anything, "/proxy/up/a/x", "http://till.test/proxy/up/a/y%20z", "http://dav.example.com/files/a/y%20z", ""},
		{dav, anything, "/proxy/up/a/x", "/proxy/up/a/y", "http://dav.example.com/files/a/y", ""},
		{dav, anything, "/a/x", "https://till.test/a/y", "http://dav.example.com/files/a/y", ""}, // behind a proxy that terminates TLS
		{dav, anything, "/a/x", "http://dav.example.com/files/a/y", "http://dav.example.com/files/a/y", ""},
		// An address given as https://KEY@till.test, in the form of WebDAV's clients.
		{dav, below, "/a/x", "http://u:" + scopedKey + "@till.test/a/y", "http://dav.example.com/files/a/y", ""},
		{dav, below, "/a/x", "http://u:" + scopedKey + "@till.test/b/y", "", record.CodePathNotAllowed},
		{dav, anything, "/a/x", "http://" + scopedKey + "@dav.example.com/files/a/y", "", record.CodeBadRequest},
		{dav, anything, "/a/x", "http://" + scopedKey + "@other.example.com/a/y", "", record.CodeBadRequest},
		{dav, anything, "/a/x", "//" + scopedKey + "@/a/y", "", record.CodeBadRequest},
		{dav, anything, "/a/x", "http://till.test/a/y?key=" + scopedKey, "", record.CodeBadRequest},
		{dav, anything, "/a/x", "http://till.test/a/y?key=" + strings.ReplaceAll(scopedKey, "_", "%5F"), "", record.CodeBadRequest},
		{dav, anything, "/a/x", "http://other.example.com/a/" + scopedKey, "", record.CodeBadRequest},
		{dav, anything, "/a/x", "http://other.example.com/a/y", "http://other.example.com/a/y", ""},
		{dav, anything, "/a/x", "http://till.test/proxy/other/a/y", "", record.CodeWrongUpstream},
		{dav, anything, "/a/x", "http://till.test/a/../y", "", record.CodeBadRequest},
		{dav, anything, "/a/x", "/a/%2e%2e/y", "", record.CodeBadRequest},
		{dav, below, "/a/x", "http://till.test/a/y", "http://dav.example.com/files/a/y", ""},
		{dav, below, "/a/x", "http://till.test/b/y", "", record.CodePathNotAllowed},
		{dav, below, "/a/x", "/b/y", "", record.CodePathNotAllowed},
		{dav, below, "/a/x", "http://dav.example.com/files/b/y", "", record.CodePathNotAllowed},
		{dav, below, "/a/x", "http://dav.example.com/elsewhere", "", record.CodePathNotAllowed},
		{dav, below, "/a/x", "http://alias.example.com/files/b/y", "", record.CodePathNotAllowed},
		{dav, below, "/a/x", "b/y", "", record.CodePathNotAllowed},
		{dav, below, "/a/x", "http:\\\\dav.example.com/files/b/y", "", record.CodePathNotAllowed},
		{some, anything, "/a/x", "http://till.test/a/y", "http://dav.example.com/a/y", ""},
		{some, anything, "/a/x", "http://till.test/b/y", "", record.CodePathNotAllowed},
	} {
		r := httptest.NewRequest("MOVE", "http://till.test"+test.target, nil)
		r.Header.Set("Destination", test.destination)
		x, _ := asked(t, test.u, r)
		refusal := destinationRefusal(x, test.key, false)
		h := r.Header.Clone()
		x.rewriteAddresses(h, x.target.origins[0])
		switch {
		case test.code == "" && refusal != nil:
			t.Errorf("%s to %s: %v", test.target, test.destination, refusal)
		case test.code != "" && (refusal == nil || refusal.Code != test.code):
			t.Errorf("%s to %s: %v, want %s", test.target, test.destination, refusal, test.code)
		case test.code == "" && h.Get("Destination") != test.out:
			t.Errorf("%s to %s is sent as %s, want %s", test.target, test.destination, h.Get("Destination"), test.out)
		}
	}
}

// scopedKey has the form of a key, and is not one.
const scopedKey = "till_sk_0123456789"

func TestASecondPathInAnotherHeaderIsRefusedWherePathsAre(t *testing.T) {
	t.Parallel()
	some := &Upstream{To: []string{"http://store.example.com"}, Allow: []string{"PUT /a/*"}}
	all := &Upstream{To: []string{"http://store.example.com"}}
	below := &record.Key{ID: "key_1", Scope: scope.Scope{Paths: []string{"/a/*"}}}
	anything := &record.Key{ID: "key_1"}
	for _, name := range upstream.SourceHeaders() {
		for _, test := range []struct {
			u     *Upstream
			key   *record.Key
			guard bool
			want  record.Code
		}{
			{some, anything, false, record.CodePathNotAllowed}, {all, below, false, record.CodePathNotAllowed}, {all, below, true, record.CodePathNotAllowed},
			{all, anything, false, ""}, {some, anything, true, ""}, // the upstream's rules do not apply behind a guard
		} {
			r := httptest.NewRequest("PUT", "http://till.test/a/x", nil)
			r.Header.Set(name, "/b/y")
			x, _ := asked(t, test.u, r)
			refusal := destinationRefusal(x, test.key, test.guard)
			if got := codeOf(refusal); got != test.want {
				t.Errorf("%s, guard %t: %q, want %q", name, test.guard, got, test.want)
			}
		}
	}
}

func codeOf(r *record.Refusal) record.Code {
	if r == nil {
		return ""
	}
	return r.Code
}

func TestAKeyInAnIfHeaderGoesNowhere(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]record.Code{
		"<http://u:" + scopedKey + "@till.test/a> (<urn:uuid:1>)":         "", // the user is removed
		"<http://u:" + scopedKey + "@other.example.com/a> (<urn:uuid:1>)": record.CodeBadRequest,
		"<http://till.test/a?key=" + scopedKey + "> (<urn:uuid:1>)":       record.CodeBadRequest,
		"(<" + scopedKey + ">)":                   record.CodeBadRequest,
		"<http://till.test/a":                     "",
		"<http://u:" + scopedKey + "@till.test/a": record.CodeBadRequest,
		"<http://u:" + strings.ReplaceAll(scopedKey, "_", "%5f") + "@other.example.com/a> (<urn:a>)": record.CodeBadRequest,
	} {
		r := httptest.NewRequest("PUT", "http://till.test/a", nil)
		r.Header["If"] = []string{"(<urn:uuid:2>)", value}
		x, _ := asked(t, &Upstream{To: []string{"http://dav.example.com"}}, r)
		if got := codeOf(destinationRefusal(x, &record.Key{ID: "key_1"}, false)); got != want {
			t.Errorf("%s: %q, want %q", value, got, want)
		}
		x.rewriteAddresses(r.Header, x.target.origins[0])
		if got := strings.Join(r.Header["If"], " "); want == "" && holdsKey(got) {
			t.Errorf("%s goes out as %s", value, got)
		}
	}
}

func TestWhatFollowsAGuardSeesNoKeyInADestination(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest("MOVE", "http://till.test/a", nil)
	r.Header.Set("Destination", "http://u:"+scopedKey+"@till.test/a/b%20c")
	x, _ := asked(t, &Upstream{To: []string{"http://dav.example.com"}}, r)
	if refusal := destinationRefusal(x, &record.Key{ID: "key_1"}, true); refusal != nil || r.Header.Get("Destination") != "http://till.test/a/b%20c" {
		t.Errorf("%v, %s", refusal, r.Header.Get("Destination"))
	}
}

func TestAGuardChecksADestinationByTheKey(t *testing.T) {
	t.Parallel()
	for destination, want := range map[string]bool{
		"http://till.test/a/y": true, "/a/y": true, "/b/y": false, "http://till.test/b/y": false, "http://up.example.com/a/y": false, "//b/y": false,
	} {
		r := httptest.NewRequest("MOVE", "http://till.test/a/x", nil)
		r.Header.Set("Destination", destination)
		x, _ := asked(t, &Upstream{To: []string{"http://other.example.com"}}, r)
		refusal := destinationRefusal(x, &record.Key{Scope: scope.Scope{Paths: []string{"/a/*"}}}, true)
		if (refusal == nil) != want {
			t.Errorf("%s: %v", destination, refusal)
		}
	}
}

func TestAddressesOfThisServerGoOutAsTheUpstreams(t *testing.T) {
	t.Parallel()
	const key = scopedKey
	for _, test := range []struct{ name, value, want string }{
		{"Referer", "http://till.test/a/page?x=1", "https://up.example.com/base/a/page?x=1"},
		{"Referer", "http://till.test/proxy/up/a/page", "https://up.example.com/base/a/page"},
		{"Referer", "http://till.test/", "https://up.example.com/base"},
		{"Referer", "http://till.test/proxy/other/a", "http://till.test/proxy/other/a"},
		{"Referer", "https://example.org/x", "https://example.org/x"},
		{"Referer", "http://till.test/a?key=" + key, ""},
		{"Referer", "http://till.test/a?key=" + strings.ReplaceAll(key, "_", "%5F"), ""},
		{"Referer", "http://u:" + key + "@till.test/a", "https://up.example.com/base/a"},
		{"Referer", "http://u:" + key + "@example.org/a", ""},
		{"Origin", "http://till.test", "https://up.example.com"},
		{"Origin", "https://example.org", "https://example.org"},
		{"Origin", "null", "null"},
		// RFC 4918, section 10.4
		{"If", `<http://till.test/a> (<urn:uuid:1> ["W/x"]) (Not <http://till.test/token>) </b> (["<"])`,
			`<https://up.example.com/base/a> (<urn:uuid:1> ["W/x"]) (Not <http://till.test/token>) </base/b> (["<"])`},
		{"If", `(<urn:uuid:1>)`, `(<urn:uuid:1>)`},
		{"If", `<http://till.test/a`, `<http://till.test/a`},
		{"X-Custom", "http://till.test/a", "http://till.test/a"},
	} {
		r := httptest.NewRequest("MOVE", "http://till.test/a", nil)
		x, _ := asked(t, &Upstream{To: []string{"https://up.example.com/base"}}, r)
		h := http.Header{test.name: {test.value}}
		x.rewriteAddresses(h, x.target.origins[0])
		if got := strings.Join(h[test.name], "|"); got != test.want {
			t.Errorf("%s: %s goes out as %s, want %s", test.name, test.value, got, test.want)
		}
	}
}

// FuzzRequestAddresses checks that a destination which is sent on is below a path that
// the key allows, however it is read.
func FuzzRequestAddresses(f *testing.F) {
	for _, s := range []string{"http://till.test/a/y", "/a/y", "//a/y", "/a/../b", "http://up.example.com/base/a/y", "http:up.example.com/base/b", "/proxy/up/a", "/%61/y", "/a/y?z#f", "http://u:till_sk_1@till.test/a/y", "/a/y?till%5Fsk_1"} {
		f.Add(s, "<"+s+"> (<"+s+">)")
	}
	u := &Upstream{To: []string{"http://up.example.com/base"}}
	to, err := u.provision("up")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, destination, tags string) {
		r := httptest.NewRequest("MOVE", "http://till.test/a/x", nil)
		r.Header["Destination"], r.Header["If"] = []string{destination}, []string{tags}
		x := &exchange{target: to, request: r}
		if refusal := destinationRefusal(x, &record.Key{Scope: scope.Scope{Paths: []string{"/a/*"}}}, false); refusal != nil {
			return
		}
		x.rewriteAddresses(r.Header, to.origins[0])
		sent := r.Header.Get("Destination")
		path, ok := strings.CutPrefix(sent, "http://up.example.com/base/")
		path, _, _ = strings.Cut(path, "?")
		if _, err := scope.CleanPath("/" + path); !ok || err != nil || strings.ContainsAny(sent, "\r\n\x00 ") || holdsKey(sent) || holdsKey(r.Header.Get("If")) {
			t.Fatalf("%q is sent as %q", destination, sent)
		}
	})
}
