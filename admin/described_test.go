package admin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// document is what openAPI returns, as a generator of clients reads it.
var document = sync.OnceValue(func() map[string]any {
	text, err := json.Marshal(openAPI())
	if err != nil {
		panic(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(text, &doc); err != nil {
		panic(err)
	}
	return doc
})

// described compares each answer of a handler with the document: its status, its media
// type, and what is in it. A generated client takes what is not there for a failure.
func described(t *testing.T, of http.Handler) http.Handler {
	routes := http.NewServeMux()
	for pattern := range operations {
		routes.Handle(pattern, http.NotFoundHandler())
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, pattern := routes.Handler(r)
		answer := &recorded{ResponseWriter: w, status: http.StatusOK}
		of.ServeHTTP(answer, r)
		if pattern == "" {
			return
		}
		if wrong := answer.differs(pattern); len(wrong) > 0 {
			t.Errorf("%s answered %d %.600s\nwhich is not as described: %s", pattern, answer.status, answer.body.Bytes(), strings.Join(wrong, "; "))
		}
	})
}

// recorded is an answer, with what was written.
type recorded struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (a *recorded) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *recorded) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

func (a *recorded) Write(b []byte) (int, error) {
	a.body.Write(b)
	return a.ResponseWriter.Write(b)
}

// differs returns how the answer differs from what the document says of its operation.
func (a *recorded) differs(pattern string) []string {
	method, path, _ := strings.Cut(pattern, " ")
	responses := document()["paths"].(map[string]any)[path].(map[string]any)[strings.ToLower(method)].(map[string]any)["responses"].(map[string]any)
	response, ok := responses[fmt.Sprint(a.status)].(map[string]any)
	if !ok && a.status >= 400 {
		response, ok = responses["default"].(map[string]any)
	}
	if !ok {
		return []string{"the status"}
	}
	content, ok := response["content"].(map[string]any)
	if !ok {
		if a.body.Len() > 0 {
			return []string{"there is a body"}
		}
		return nil
	}
	kind, _, err := mime.ParseMediaType(a.Header().Get("Content-Type"))
	if err != nil {
		return []string{err.Error()}
	}
	as, ok := content[kind].(map[string]any)
	if !ok {
		return []string{"it is " + kind}
	}
	s, ok := as["schema"].(map[string]any)
	if !ok {
		return nil
	}
	var v any
	if err := json.Unmarshal(a.body.Bytes(), &v); err != nil {
		return []string{err.Error()}
	}
	return matches(document(), "", s, v)
}
