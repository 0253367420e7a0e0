package console

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/till-proxy/till/limiter"
)

// maxWeight bounds the total size of the dashboard in bytes, uncompressed.
const maxWeight = 150_000

func TestTheDashboardWeighsLittle(t *testing.T) {
	t.Parallel()
	sum := 0
	for _, a := range assets {
		sum += len(a.content)
	}
	t.Logf("%d files, %d bytes of at most %d", len(assets), sum, maxWeight)
	if sum > maxWeight {
		t.Errorf("the dashboard weighs %d bytes, and may weigh %d", sum, maxWeight)
	}
}

func TestTheDashboardNeedsNothingFromElsewhereAndNoInlineCode(t *testing.T) {
	t.Parallel()
	inline := regexp.MustCompile(`(?i)<script(?:>|[^>]*[^>]>[^<])|<style|\sstyle=|\son[a-z]+=|javascript:|innerHTML|insertAdjacentHTML|\beval\(|new Function`)
	elsewhere := regexp.MustCompile(`https?://[^\s'"` + "`" + `]+`)
	names := regexp.MustCompile(`(?:from|import\() *'\./([a-z]+\.js)'|/till/assets/([a-z]+\.[a-z]+)`)
	used := map[string]bool{"index.html": true}
	for name, a := range assets {
		text := string(a.content)
		if a.kind == "" {
			t.Errorf("%s has no media type", name)
		}
		if found := inline.FindString(text); found != "" {
			t.Errorf("%s has %q", name, found)
		}
		for _, at := range elsewhere.FindAllString(text, -1) {
			if !strings.HasPrefix(at, "http://www.w3.org/2000/svg") { // a name, not an address
				t.Errorf("%s names %s", name, at)
			}
		}
		for _, m := range names.FindAllStringSubmatch(text, -1) {
			used[m[1]+m[2]] = true
			if _, ok := assets[m[1]+m[2]]; !ok {
				t.Errorf("%s needs %s, which is not there", name, m[1]+m[2])
			}
		}
	}
	for name := range assets {
		if !used[name] {
			t.Errorf("nothing needs %s", name)
		}
	}
}

// TestTheListFiltersByWhatTheAPIDoes: all that revokes many keys, but for the names of one
// key and of a parent, which the search and the page of the parent show, and for the time
// before which keys were minted, which "End all that match" sends.
func TestTheListFiltersByWhatTheAPIDoes(t *testing.T) {
	t.Parallel()
	line := regexp.MustCompile(`(?m)^const filters = \[(.*)\];$`).FindSubmatch(assets["keys.js"].content)
	if line == nil {
		t.Fatal("keys.js has no list of its filters")
	}
	got := strings.Split(strings.ReplaceAll(string(line[1]), "'", ""), ", ")
	var want []string
	for _, f := range limiter.FilterFields {
		if f.Bulk && !slices.Contains([]string{"name", "parent", "created_before"}, f.Name) {
			want = append(want, strings.TrimSuffix(f.Name, ".NAME"))
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("keys.js filters by %q, and the API by %q", got, want)
	}
}

func TestFilesAreAskedForOnce(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	res := d.do("GET", "/till/assets/style.css", "")
	tag := res.Header.Get("ETag")
	if res.StatusCode != http.StatusOK || tag == "" || res.Header.Get("Content-Type") != "text/css; charset=utf-8" {
		t.Fatalf("%s %v", res.Status, res.Header)
	}
	d.status(http.StatusNotModified, "the same again", d.do("GET", "/till/assets/style.css", "", "If-None-Match", tag))
	d.status(http.StatusMethodNotAllowed, "writing one", d.do("POST", "/till/assets/style.css", "x"))
	if page := d.do("GET", "/till/", ""); page.Header.Get("Content-Type") != "text/html; charset=utf-8" || page.Header.Get("ETag") != "" {
		t.Errorf("%v", page.Header)
	}
}
