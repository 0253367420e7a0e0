package e2e

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/upstream"
)

// sdkSource is how the sources of a vendor's SDK name its endpoints: each matches a
// method and a path, or the reverse.
type sdkSource struct {
	preset, dir, suffix string
	endpoint            *regexp.Regexp
	least               int // how many it has, at least
}

var sdkSources = []sdkSource{
	{"openai", "openai/resources", ".mjs", stainless, 200},
	{"anthropic", "@anthropic-ai/sdk/resources", ".mjs", stainless, 100},
	{"groq", "groq-sdk/resources", ".mjs", stainless, 15},
	{"together", "together-ai/resources", ".mjs", stainless, 100},
	{"gemini", "@google/genai/dist/node", "index.mjs", regexp.MustCompile(`(?s)path = formatMap\('(?P<path>[^']+)'.*?httpMethod: '(?P<method>\w+)'`), 30},
	{"gemini", "@google/genai/dist/node", "index.mjs", speakeasy, 10},
	{"mistral", "@mistralai/mistralai/esm/funcs", ".js", speakeasy, 150},
	{"cohere", "cohere-ai", "lient.js", regexp.MustCompile(`rawResponse, "(?P<method>\w+)", "(?P<path>/[^"]+)"\)`), 30},
}

// stainless and speakeasy are what the generators of that name write.
var (
	speakeasy = regexp.MustCompile(`(?s)pathToFunc\("(?P<path>[^"#]+)[^"]*"\).*?\bmethod: "(?P<method>\w+)"`)
	stainless = regexp.MustCompile("_client\\.(?P<method>get|post|put|patch|delete|getAPIList)\\(\\s*(?:path\\s*)?[`'\"](?P<path>/?[^`'\"?]+)")
)

// geminiNames are what some of its templates leave to their parameter; others are
// about models.
var geminiNames = strings.NewReplacer("{api_version}", "v1beta", "{parent}/documents", "fileSearchStores/x/documents",
	"{file_search_store_name}", "fileSearchStores/x", "{name}:cancel", "batches/x:cancel", "{parent}/tuningJobs", "tuningJobs")

var parameter = regexp.MustCompile(`\$?\{(?:[^{}]|\{[^{}]*\})*\}`)

// endpoints are those of a source, each as "METHOD /path".
func (s sdkSource) endpoints(t *testing.T) []string {
	t.Helper()
	found := make(map[string]bool)
	err := filepath.WalkDir(filepath.Join("sdk/node_modules", s.dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, s.suffix) {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range s.endpoint.FindAllSubmatch(source, -1) {
			method := strings.ToUpper(string(m[s.endpoint.SubexpIndex("method")]))
			if method == "GETAPILIST" {
				method = "GET"
				if call, _, _ := bytes.Cut(source[bytes.Index(source, m[0]):], []byte(";")); bytes.Contains(call, []byte("method: 'post'")) {
					method = "POST"
				}
			}
			path := string(m[s.endpoint.SubexpIndex("path")])
			if s.preset == "gemini" {
				path = geminiNames.Replace(path)
			}
			at, _, _ := strings.Cut(parameter.ReplaceAllString(path, "x"), "?")
			if s.preset == "gemini" && at[0] == 'x' { // most are about a model
				at = "models/" + at
			}
			found[method+" /"+strings.TrimPrefix(at, "/")] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < s.least {
		t.Errorf("%s: only %d endpoints were found in its SDK", s.preset, len(found))
	}
	var all []string
	for e := range found {
		all = append(all, e)
	}
	return all
}

// TestNoEndpointOfAVendorsSDKIsLetThroughByAccident: a reviewed list has every
// endpoint of the SDKs that a key may call. The test fails if an SDK has a new
// endpoint that no preset refuses; decide in the preset first, and then add it to the
// list.
func TestNoEndpointOfAVendorsSDKIsLetThroughByAccident(t *testing.T) {
	t.Parallel()
	needsSDKs(t)
	source, err := os.ReadFile("../upstream/testdata/callable.txt")
	if err != nil {
		t.Fatal(err)
	}
	var listed, callable []string
	for line := range strings.Lines(string(source)) {
		if _, endpoint, ok := strings.Cut(strings.TrimSpace(line), " "); ok && line[0] != '#' {
			listed = append(listed, endpoint)
		}
	}
	for _, s := range sdkSources {
		p, _ := upstream.Lookup(s.preset)
		for _, e := range s.endpoints(t) {
			method, path, _ := strings.Cut(e, " ")
			path = p.Canonical(path)
			if administrative, asynchronous := p.Denied(method, path); !administrative && !asynchronous {
				callable = append(callable, s.preset+" "+method+" "+path)
			}
		}
	}
	for _, e := range callable {
		if !slices.Contains(listed, e) {
			t.Errorf("%s may be called, and is not listed", e)
		}
	}
	for _, e := range listed {
		if !slices.Contains(callable, e) {
			t.Errorf("%s is listed, and no SDK has it", e)
		}
	}
}
