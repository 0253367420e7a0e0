package e2e

import (
	"fmt"
	"net/http"
)

var fetchUses = []toolUse{
	{
		name: "wget", line: `wget -nv -O - --user x --password $KEY $TILL/file`, needs: []string{"wget"},
		activations: 1, says: "what is in the file", dead: "ERROR 402: Payment Required", setup: serveFile,
	},
	{
		name: "curl", line: `curl -sS --fail-with-body --anyauth -u x:$KEY $TILL/file`, needs: []string{"curl"},
		activations: 1, says: "what is in the file", dead: "has used all 1 activation", setup: serveFile,
	},
	{
		name: "curl, HTTP/2 asked for", line: `curl -sS --fail-with-body --http2 -u x:$KEY $TILL/file`, needs: []string{"curl"},
		activations: 1, says: "what is in the file", dead: "has used all 1 activation", setup: serveFile,
	},
	{
		name: "Python's urllib", line: `passwords.add_password(None, till, "x", key)`, file: "tools/basic.py", needs: []string{"python3"},
		activations: 1, says: "what is in the file", dead: "has used all 1 activation", setup: serveFile,
	},
	{
		name: "Java's HttpClient", line: `HttpClient.newHttpClient()`, file: "tools/Fetch.java", needs: []string{"javac"}, long: true,
		activations: 1, says: "what is in the file", dead: "has used all 1 activation", setup: serveFile,
	},
}

func serveFile(st *stage) {
	st.upstream.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/file" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintln(w, "what is in the file")
	}))
}
