package e2e

import (
	"bufio"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// rotate gives a key another string.
func (s *server) rotate(id string, body object) string {
	s.t.Helper()
	status, answer := s.inTouch("POST", "/keys/"+id+"/rotate", body)
	if status != http.StatusOK || answer["id"] != id {
		s.t.Fatalf("rotate: %d %v", status, answer)
	}
	return answer["scoped_key"].(string)
}

// lastEvent reads a stream to its end, in the background.
func lastEvent(t *testing.T, res *http.Response) <-chan string {
	lines := bufio.NewScanner(res.Body)
	if !lines.Scan() {
		t.Fatal("no event", lines.Err())
	}
	ended := make(chan string, 1)
	go func() {
		last := ""
		for lines.Scan() {
			if lines.Text() != "" {
				last = lines.Text()
			}
		}
		if err := lines.Err(); err != nil {
			last = "broken off: " + err.Error()
		}
		ended <- last
	}()
	return ended
}

func TestARotatedKeyGoesOnWithWhatRuns(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	id, first := s.mint(object{"max_activations": 10})
	res, err := s.client.Do(s.streaming(context.Background(), first, 1_000_000, time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	ended := lastEvent(t, res)
	second := s.rotate(id, object{"grace": "1h"})
	for what, key := range map[string]string{"the former string": first, "the new one": second} {
		if status := s.chat(key); status != http.StatusOK {
			t.Errorf("%s in the grace: %d", what, status)
		}
	}
	select {
	case last := <-ended:
		t.Fatalf("the stream ended in its grace: %s", last)
	default:
	}
	third := s.rotate(id, object{})
	if last := <-ended; !strings.Contains(last, "till_key_revoked") {
		t.Errorf("the stream ended with %q", last)
	}
	for what, key := range map[string]string{"the first string": first, "the second": second} {
		s.refuses(what, key, http.StatusForbidden, "till_key_revoked")
	}
	if status := s.chat(third); status != http.StatusOK {
		t.Errorf("the third string: %d", status)
	}
	for _, end := range []func(){s.stop, s.kill9} {
		end()
		s.start()
		s.refuses("the first string after a restart", first, http.StatusForbidden, "till_key_revoked")
		if status := s.chat(third); status != http.StatusOK {
			t.Errorf("the third string after a restart: %d", status)
		}
	}
	if n := s.used(id); n != 6 || s.upstream.Count() != 6 {
		t.Errorf("used %d, the upstream saw %d, want 6", n, s.upstream.Count())
	}
	s.clean()
}

func TestARotatedSealedKeyCarriesItsNewCredential(t *testing.T) {
	t.Parallel()
	s, to := sealedServer(t, "seal_key "+sealKeyA)
	id, first := s.mint(object{"upstream": "x", "upstream_key": sealedReal, "max_activations": 50})
	const next = "sk-real-next-98765432109876543210"
	to.Accept(next)
	second := s.rotate(id, object{"grace": "1h", "upstream_key": next})
	for what, key := range map[string]string{"the former string": first, "the new one": second} {
		if status, code := s.sends(key); status != http.StatusOK {
			t.Errorf("%s: %d %s", what, status, code)
		}
	}
	if n := to.Retire(sealedReal); n != 1 {
		t.Errorf("the former string's credential was used %d times", n)
	}
	_, firstBox, _ := strings.Cut(first, ".")
	secondPart, _, _ := strings.Cut(second, ".")
	s.refuses("the former box on the new string", secondPart+"."+firstBox, http.StatusUnauthorized, "till_key_invalid")
	third := s.rotate(id, object{"upstream_key": next})
	s.refuses("the former string, without a grace", second, http.StatusForbidden, "till_key_revoked")
	if status, code := s.sends(third); status != http.StatusOK {
		t.Errorf("the third string: %d %s", status, code)
	}
	s.searchFor(next)
}

// searchFor fails the test when the text stands in a file of the server or in
// its log.
func (s *server) searchFor(secret string) {
	s.t.Helper()
	if strings.Contains(s.output(), secret) {
		s.t.Error("the log shows the credential")
	}
	s.stop()
	err := filepath.Walk(s.dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(b), secret) {
			s.t.Errorf("%s shows the credential", path)
		}
		return err
	})
	if err != nil {
		s.t.Error(err)
	}
}
