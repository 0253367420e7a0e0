package console

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"net/http"
	"path"
	"strings"
)

//go:embed files
var files embed.FS

// asset is one file of the dashboard. The files are the same for everybody, and
// hold no secret.
type asset struct {
	content []byte
	kind    string
	tag     string
}

var kinds = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// assets maps the names of the files to the files.
var assets = func() map[string]asset {
	all := make(map[string]asset)
	entries, err := files.ReadDir("files")
	if err != nil {
		panic(err) // the embedded directory is part of the program
	}
	for _, e := range entries {
		content, err := files.ReadFile("files/" + e.Name())
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(content)
		all[e.Name()] = asset{content, kinds[path.Ext(e.Name())], `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`}
	}
	return all
}()

// serveAsset serves a file. Browsers may cache it, but must ask each time whether
// it has changed.
func serveAsset(w http.ResponseWriter, r *http.Request, name string) {
	a, ok := assets[name]
	switch {
	case !ok || a.kind == "":
		fail(w, http.StatusNotFound, "not_found", "the dashboard has no such file")
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		fail(w, http.StatusMethodNotAllowed, "method_not_allowed", "files can only be read")
		return
	}
	header := w.Header()
	header.Set("Content-Type", a.kind)
	if name != "index.html" {
		header.Set("Cache-Control", "no-cache")
		header.Set("ETag", a.tag)
		if strings.Contains(r.Header.Get("If-None-Match"), a.tag) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	_, _ = w.Write(a.content) // an error says that the client is gone
}
