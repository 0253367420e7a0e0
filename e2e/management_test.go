package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
)

// object is a JSON object.
type object = map[string]any

// api makes one management call.
func (s *server) api(method, path string, body any) (int, object) {
	s.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := http.NewRequest(method, "http://"+s.admin+"/till"+path, bytes.NewReader(b))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Close = true // a reload may end a connection that waits for more
	res, err := s.client.Do(r)
	// A key that was minted by a call whose answer was lost at a reload is used by nobody.
	again := method == http.MethodGet || method == http.MethodPost && path == "/keys"
	for tries := 0; err != nil && tries < 100 && again && lostAtReload(err.Error()); tries++ {
		r.Body = io.NopCloser(bytes.NewReader(b))
		res, err = s.client.Do(r)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	answer := object{}
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &answer); err != nil {
			s.t.Fatalf("%s %s: %s", method, path, raw)
		}
	}
	return res.StatusCode, answer
}

// inTouch makes a management call, again while its store could not do it: on a busy machine a
// server that is ready may lose touch with a database for a moment, or wait for its disk for
// too long. What stops a key may be done twice, and a key that was minted unseen is used by
// nobody.
func (s *server) inTouch(method, path string, body any) (status int, answer object) {
	s.t.Helper()
	s.eventually(method+" "+path+" reaches the store", func() bool {
		status, answer = s.api(method, path, body)
		fault, _ := answer["error"].(object)
		again := fault["code"] == "store_unavailable" || fault["code"] == "store_busy" ||
			fault["code"] == "outcome_unknown" && (path == "/keys" || strings.HasSuffix(path, "/revoke") || strings.HasSuffix(path, "/suspend"))
		return !again
	})
	return status, answer
}

// mint returns id and string of a new key.
func (s *server) mint(fields object) (id, key string) {
	s.t.Helper()
	if fields["upstream"] == nil {
		fields["upstream"] = "mock"
	}
	status, answer := s.inTouch("POST", "/keys", fields)
	if status != http.StatusCreated {
		s.t.Fatalf("mint: %d %v", status, answer)
	}
	return answer["id"].(string), answer["scoped_key"].(string)
}

func (s *server) show(id string) object {
	s.t.Helper()
	status, answer := s.inTouch("GET", "/keys/"+id, nil)
	if status != http.StatusOK {
		s.t.Fatalf("show: %d %v", status, answer)
	}
	return answer
}

// used waits until nothing of the key is in flight and returns what it used.
func (s *server) used(id string) int64 {
	s.t.Helper()
	var k object
	s.eventually("nothing is held", func() bool {
		k = s.show(id)
		return k["held_activations"].(float64) == 0
	})
	return int64(k["used_activations"].(float64))
}
