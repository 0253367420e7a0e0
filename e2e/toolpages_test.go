package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
)

var pageUses = []toolUse{
	{
		name: "gh api --paginate", line: `GH_HOST=$HOST GH_ENTERPRISE_TOKEN=$KEY gh api --paginate 'repos/o/r/issues?per_page=2'`, needs: []string{"gh"}, long: true, secure: true,
		activations: 3, says: `{"number":5}`, dead: "has used all 3 activations", setup: func(st *stage) {
			st.options.site = "uri strip_prefix /api/v3" // gh's, where the host is not github.com
			serveIssues(st)
		},
	},
	{
		name: "gh api, an archive at another host", line: `GH_HOST=$HOST GH_ENTERPRISE_TOKEN=$KEY gh api repos/o/r/tarball/main`, needs: []string{"gh"}, long: true, secure: true,
		activations: 1, says: "what is in the archive", dead: "has used all 1 activation", setup: func(st *stage) {
			st.options.site = "uri strip_prefix /api/v3"
			// gh 2.23 takes the other host for one more of the enterprise's.
			serveArchive(st, func(key string) bool { return key == "" || strings.HasPrefix(key, "token "+scopedMark) })
		},
	},
	{
		name: "curl, an archive at another host", line: `curl -fsSL -u x:$KEY $TILL/repos/o/r/tarball/main`, needs: []string{"curl"},
		activations: 1, says: "what is in the archive", dead: "The requested URL returned error: 402", setup: func(st *stage) {
			serveArchive(st, func(key string) bool { return key == "" })
		},
	},
	{
		name: "Octokit paginate", line: `new Octokit({ baseUrl: TILL, auth: KEY })`, file: "tools/octokit.mjs", needs: []string{"node"}, long: true,
		activations: 3, says: "5 issues", dead: "has used all 3 activations", setup: serveIssues,
	},
}

// serveIssues answers in pages as GitHub does, whose Link names its own address, and
// the repository by its number:
// https://docs.github.com/en/rest/using-the-rest-api/using-pagination-in-the-rest-api
func serveIssues(st *stage) {
	st.upstream.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page := r.URL.Query().Get("page")
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		switch {
		case r.URL.Path == "/repos/o/r/issues" && page == "":
			linkPages(w, r, "next", 2, "last", 3)
			fmt.Fprint(w, `[{"number":1},{"number":2}]`)
		case r.URL.Path == "/repositories/1/issues" && page == "2":
			linkPages(w, r, "prev", 1, "next", 3, "last", 3, "first", 1)
			fmt.Fprint(w, `[{"number":3},{"number":4}]`)
		case r.URL.Path == "/repositories/1/issues" && page == "3":
			linkPages(w, r, "prev", 2, "first", 1)
			fmt.Fprint(w, `[{"number":5}]`)
		default:
			http.NotFound(w, r)
		}
	}))
}

// serveArchive redirects to another host, to an address that is its own permission:
// https://docs.github.com/en/rest/repos/contents#download-a-repository-archive-tar.
// may says what Authorization that host may be sent.
func serveArchive(st *stage, may func(string) bool) {
	codeload := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !may(r.Header.Get("Authorization")) || r.URL.Query().Get("token") != "signed" {
			http.Error(w, "not as it was signed", http.StatusForbidden)
			return
		}
		fmt.Fprintln(w, "what is in the archive")
	}))
	st.Cleanup(codeload.Close)
	st.options.upstream = "redirects pass " + strings.TrimPrefix(codeload.URL, "http://")
	st.upstream.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/repos/o/r/tarball/main" {
			http.NotFound(w, r)
			return
		}
		http.Redirect(w, r, codeload.URL+"/o/r/legacy.tar.gz/refs/heads/main?token=signed", http.StatusFound)
	}))
}

// linkPages takes relations and the numbers of their pages.
func linkPages(w http.ResponseWriter, r *http.Request, pages ...any) {
	var all []string
	for i := 0; i+1 < len(pages); i += 2 {
		all = append(all, fmt.Sprintf(`<http://%s/repositories/1/issues?per_page=2&page=%d>; rel="%s"`, r.Host, pages[i+1], pages[i]))
	}
	w.Header().Set("Link", strings.Join(all, ", "))
}
