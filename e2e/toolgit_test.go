package e2e

import (
	"bytes"
	"io"
	"net/http"
	"net/http/cgi"
	"os/exec"
	"path/filepath"
	"strings"
)

var gitUses = []toolUse{
	{
		name: "git clone", line: `git clone $AUTHED/r.git`, needs: []string{"git"},
		activations: 3, says: "Cloning into", dead: "The requested URL returned error: 402", setup: serveGit,
	},
	{
		name: "git clone, the key in a header", line: `git -c http.extraHeader="Authorization: Bearer $KEY" clone $TILL/r.git`, needs: []string{"git"},
		activations: 3, says: "Cloning into", dead: "The requested URL returned error: 402", setup: serveGit,
	},
	{
		name: "git push", line: `git push $AUTHED/r.git HEAD:refs/heads/next`, needs: []string{"git"},
		activations: 2, says: "HEAD -> next", dead: "The requested URL returned error: 402", setup: serveGit,
	},
	{
		// What is longer than http.postBuffer is sent in chunks, after an empty request.
		name: "git push, more than 1 MB", line: `git push $AUTHED/r.git HEAD:refs/heads/next`, needs: []string{"git"},
		activations: 3, says: "HEAD -> next", dead: "The requested URL returned error: 402", setup: func(st *stage) {
			serveGit(st)
			st.prepare(`head -c 2000000 /dev/urandom >b && git add b && git commit -qm long`)
		},
	},
}

// serveGit has git's own server, with a repository, and takes the key as a password
// as git's hosts do; the program has a clone of it with a change.
func serveGit(st *stage) {
	path, err := exec.CommandContext(st.Context(), "git", "--exec-path").Output()
	if err != nil {
		st.Fatal(err)
	}
	root := st.TempDir()
	backend := &cgi.Handler{
		Path:   filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"),
		Env:    []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=x"},
		Stderr: st.Output(),
	}
	st.upstream.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 8<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil // CGI knows no chunks
		backend.ServeHTTP(w, r)
	}))
	st.options.upstream = "auth basic password"
	// No program asks anybody for a password.
	st.env = append(st.env, "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1", "ROOT="+root)
	st.prepare(`git init -q --bare $ROOT/r.git
git init -q && git config user.email x@example.com && git config user.name x
echo 1 >a && git add a && git commit -qm one && git push -q $AUTHED/r.git HEAD:refs/heads/master
echo 2 >a && git commit -qam two`)
}
