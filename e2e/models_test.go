package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// post is a request with a body of its own.
func (s *server) post(key, path, body string, header ...string) *http.Request {
	s.t.Helper()
	r := s.request(context.Background(), key, header...)
	r.URL.Path, r.URL.RawPath = path, ""
	r.Body, r.ContentLength, r.GetBody = io.NopCloser(strings.NewReader(body)), int64(len(body)), nil
	return r
}

func TestAKeyForSomeModelsReachesNoOther(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{more: "max_body 1MB"})
	id, key := s.mint(object{"max_activations": 100, "models": []string{"m", "small-*"}})
	admitted := int64(0)
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	for name, value := range map[string]string{"model": "large", "language": "en"} {
		if err := w.WriteField(name, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 1<<20)
	for _, test := range []struct {
		name, path, body string
		header           []string
		code             string // "": admitted
	}{
		{name: "its model", body: chatBody},
		{name: "a beginning", body: `{"model":"small-1","messages":[]}`},
		{name: "another model", body: `{"model":"large"}`, code: "till_model_not_allowed"},
		{name: "another case of letters", body: `{"model":"M"}`, code: "till_model_not_allowed"},
		{name: "a fallback", body: `{"model":"m","models":["large"]}`, code: "till_model_not_allowed"},
		{name: "a tool's model", body: `{"model":"m","tools":[{"type":"image_generation","model":"large"}]}`, code: "till_model_not_allowed"},
		{name: "no model", body: `{"messages":[]}`, code: "till_model_not_allowed"},
		{name: "no body", body: "", code: "till_model_not_allowed"},
		{name: "two models", body: `{"model":"m","model":"large"}`, code: "till_bad_request"},
		{name: "another case of the field", body: `{"model":"m","Model":"large"}`, code: "till_bad_request"},
		{name: "wrong JSON", body: `{"model":"m"`, code: "till_bad_request"},
		{name: "an encoded body", body: chatBody, header: []string{"Content-Encoding", "gzip"}, code: "till_bad_request"},
		{name: "a body of another type", body: chatBody, header: []string{"Content-Type", "text/plain"}, code: "till_bad_request"},
		{name: "a form", path: "/v1/audio/transcriptions", body: form.String(), header: []string{"Content-Type", w.FormDataContentType()}, code: "till_model_not_allowed"},
		{name: "a long body", body: `{"model":"m","messages":[],"x":"` + long + `"}`, code: "till_body_too_large"},
		{name: "nearly as long", body: `{"model":"m","messages":[],"x":"` + long[:900000] + `"}`},
		{name: "token counting", path: "/v1/responses/input_tokens", body: `{"model":"large"}`, code: "till_model_not_allowed"},
	} {
		for _, chunked := range []bool{false, true} {
			if test.path == "" {
				test.path = "/v1/chat/completions"
			}
			r := s.post(key, test.path, test.body, test.header...)
			if chunked {
				r.ContentLength = -1
			}
			res, body := s.must(r)
			if got := res.Header.Get("Till-Refusal"); got != test.code || (test.code == "") != (res.StatusCode == http.StatusOK) {
				t.Errorf("%s, chunked %v: %d %q, want %q: %s", test.name, chunked, res.StatusCode, got, test.code, body)
			}
			if test.code != "" {
				continue
			}
			admitted++
			if last := s.upstream.Last(); string(last.Body) != test.body {
				t.Errorf("%s, chunked %v: the upstream got %d bytes, want %d", test.name, chunked, len(last.Body), len(test.body))
			}
		}
	}
	if n := s.used(id); n != admitted || s.upstream.Count() != admitted {
		t.Errorf("used %d, the upstream counted %d, want %d", n, s.upstream.Count(), admitted)
	}
	if status, answer := s.api("PATCH", "/keys/"+id, object{"models": []string{"large"}}); status != http.StatusOK || len(answer["models"].([]any)) != 1 {
		t.Fatalf("change: %d %v", status, answer)
	}
	if res, _ := s.must(s.post(key, "/v1/chat/completions", `{"model":"large"}`)); res.StatusCode != http.StatusOK {
		t.Errorf("after the change: %d", res.StatusCode)
	}
	s.clean()
}

func TestModelListsHoldTheKeysModelsOnly(t *testing.T) {
	t.Parallel()
	for _, vendor := range vendors {
		s := newServer(t, options{vendor: vendor})
		id, key := s.mint(object{"max_activations": 1, "models": []string{"m-1"}})
		list := func(path string) (*http.Response, string) {
			r, err := http.NewRequest("GET", "http://"+s.addr+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer "+key)
			r.Header.Set("Accept-Encoding", "gzip")
			r.Header.Set("If-None-Match", `"x"`)
			return s.must(r)
		}
		res, body := list("/models")
		if res.StatusCode != http.StatusOK || !strings.Contains(body, "m-1") || strings.Contains(body, "m-2") || !json.Valid([]byte(body)) {
			t.Errorf("%s: %d %s", vendor, res.StatusCode, body)
		}
		sent := s.upstream.Last().Header
		if sent.Get("If-None-Match") != "" || sent.Get("Accept-Encoding") != "identity" {
			t.Errorf("%s: the upstream was asked for part of it: %v", vendor, sent)
		}
		if res, body := list("/models/m-2"); res.Header.Get("Till-Refusal") != "till_model_not_allowed" {
			t.Errorf("%s: another model: %d %s", vendor, res.StatusCode, body)
		}
		if n := s.used(id); n != 0 {
			t.Errorf("%s: used %d, a list is free", vendor, n)
		}
		_, all := s.mint(object{"max_activations": 1})
		key = all
		if _, body := list("/models"); !strings.Contains(body, "m-1") || !strings.Contains(body, "m-2") {
			t.Errorf("%s: for a key without models: %s", vendor, body)
		}
		s.clean()
	}
}

func TestGeminisModelStandsInThePath(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{vendor: upstreamtest.Gemini})
	id, key := s.mint(object{"max_activations": 9, "models": []string{"g-1"}})
	for path, code := range map[string]string{
		"/v1beta/models/g-1:generateContent":      "",
		"/models/g-1:generateContent":             "",
		"/v1beta/models/g-2:generateContent":      "till_model_not_allowed",
		"/v1beta/tunedModels/g-1:generateContent": "till_path_not_allowed",
		"/v1beta/models/G-1:generateContent":      "till_model_not_allowed",
	} {
		res, body := s.must(s.post(key, path, `{"contents":[]}`))
		if got := res.Header.Get("Till-Refusal"); got != code {
			t.Errorf("%s: %d %q, want %q: %s", path, res.StatusCode, got, code, body)
		}
	}
	if n := s.used(id); n != 2 {
		t.Errorf("used %d, want 2", n)
	}
	s.clean()
}

func TestADeadKeyReadsNoBody(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	_, key := s.mint(object{"max_activations": 0, "models": []string{"m"}})
	body := &endless{}
	r := s.request(context.Background(), key)
	r.Body, r.ContentLength, r.GetBody = io.NopCloser(body), -1, nil
	r.Header.Set("Expect", "100-continue")
	res, text := s.must(r)
	if res.Header.Get("Till-Refusal") != "till_activations_exhausted" {
		t.Errorf("%d %s", res.StatusCode, text)
	}
}

// endless is a body that has no end.
type endless struct{}

func (*endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}
