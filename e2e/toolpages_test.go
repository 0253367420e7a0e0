package e2e

import (
	"fmt"
	"net/http"
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

// linkPages takes relations and the numbers of their pages.
func linkPages(w http.ResponseWriter, r *http.Request, pages ...any) {
	var all []string
	for i := 0; i+1 < len(pages); i += 2 {
		all = append(all, fmt.Sprintf(`<http://%s/repositories/1/issues?per_page=2&page=%d>; rel="%s"`, r.Host, pages[i+1], pages[i]))
	}
	w.Header().Set("Link", strings.Join(all, ", "))
}
