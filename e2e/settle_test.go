package e2e

import (
	"bufio"
	"context"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestAGrantIsSettledExactlyOnce holds the books of one key while everything
// that can go wrong below goes wrong.
func TestAGrantIsSettledExactlyOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	id, key := s.mint(object{"max_activations": 100})
	want := int64(0)
	expect := func(what string, add int64) {
		t.Helper()
		want += add
		if n := s.used(id); n != want {
			t.Fatalf("after %s: used %d, want %d", what, n, want)
		}
	}

	res, body := s.must(s.request(context.Background(), key, "X-Test-Fail", "before"))
	if res.StatusCode != http.StatusBadGateway || !strings.Contains(body, "till_upstream_failed") {
		t.Errorf("a reset before the first byte: %d %s", res.StatusCode, body)
	}
	expect("a reset before the first byte", 1) // it may have been dispatched

	res, err := s.client.Do(s.streaming(context.Background(), key, 5, time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	expect("a client that closes at once", 1)

	r := s.streaming(context.Background(), key, 100000, time.Millisecond)
	r.Header.Set("X-Test-Fail", "after")
	if res, err = s.client.Do(r); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
	}
	if lines.Err() == nil {
		t.Error("an answer that was broken off looks whole")
	}
	res.Body.Close()
	expect("a reset after the first byte", 1)

	ctx, cancel := context.WithCancel(context.Background())
	if res, err = s.client.Do(s.streaming(ctx, key, 100000, time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	cancel()
	res.Body.Close()
	expect("a client that goes away in mid-stream", 1)

	ctx, cancel = context.WithCancel(context.Background())
	before := s.upstream.Count()
	gone := make(chan error)
	go func() {
		res, err := s.client.Do(s.request(ctx, key, "X-Test-Fail", "hang"))
		if err == nil {
			res.Body.Close()
		}
		gone <- err
	}()
	s.eventually("the request hangs", func() bool { return s.upstream.Count() > before })
	cancel()
	if err := <-gone; err == nil {
		t.Error("the client did not go away")
	}
	expect("a client that goes away before the answer", 1)

	for _, status := range []string{"400", "404", "429", "500", "503"} {
		if got := s.chat(key, "X-Test-Status", status); status != strconv.Itoa(got) {
			t.Errorf("the upstream's %s arrived as %d", status, got)
		}
	}
	expect("five answers with errors", 5)

	res, body = s.must(s.request(context.Background(), key, "X-Test-Status", "401"))
	if res.StatusCode != http.StatusBadGateway || res.Header.Get("Till-Refusal") != "till_upstream_auth_failed" {
		t.Errorf("the upstream's 401: %d %s", res.StatusCode, body)
	}
	expect("an upstream that refuses the credential", 1)
	s.clean()
	s.stop()
	if strings.Contains(s.output(), key) || strings.Contains(s.output(), realKey) {
		t.Error("the log holds a key")
	}
}

func TestNothingIsTakenWhenNoUpstreamCanBeReached(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{to: "http://" + refusingAddress(t)})
	id, key := s.mint(object{"max_activations": 2})
	for range 5 {
		res, body := s.must(s.request(context.Background(), key))
		if res.StatusCode != http.StatusBadGateway || res.Header.Get("Till-Refusal") != "till_upstream_failed" ||
			res.Header.Get("X-Should-Retry") != "false" || !strings.Contains(body, `"error"`) {
			t.Fatalf("%d %v %s", res.StatusCode, res.Header, body)
		}
	}
	if n := s.used(id); n != 0 {
		t.Errorf("used %d, want 0", n)
	}
}

func TestRetriesHappenOnlyBeforeTheFirstByte(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{upstream: "lb_try_duration 5s\nlb_try_interval 10ms\nlb_retries 5"})
	id, key := s.mint(object{"max_activations": 10})
	r, err := http.NewRequest("GET", "http://"+s.addr+"/v1/chat/completions/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("X-Test-Fail", "before")
	// The first request opens the connection that the second reuses: on a
	// reused one net/http itself would send a GET again.
	for i := range 4 {
		fail := ""
		if i%2 == 1 {
			fail = "before"
		}
		r.Header.Set("X-Test-Fail", fail)
		before := s.upstream.Count()
		s.must(r)
		if n := s.upstream.Count() - before; n != 1 {
			t.Errorf("request %d reached the upstream %d times, want once", i, n)
		}
	}
	if n := s.used(id); n != 4 {
		t.Errorf("used %d, want 4", n)
	}
}

func TestGuardModeCountsWhatIsGuarded(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{site: `
	@guarded path /guarded/*
	route @guarded {
		till guard
		respond /guarded/ok "fine"
		respond /guarded/header "key: {header.X-Api-Key}{header.Authorization} id: {http.till.key_id}"
		error /guarded/missing "no such thing" 404
	}`})
	id, key := s.mint(object{"max_activations": 3})
	get := func(path string) (*http.Response, string) {
		r, err := http.NewRequest("GET", "http://"+s.addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Api-Key", key)
		return s.must(r)
	}
	if res, body := get("/guarded/ok"); res.StatusCode != 200 || body != "fine" || res.Header.Get("Till-Activations-Remaining") != "2" {
		t.Errorf("%d %q %v", res.StatusCode, body, res.Header)
	}
	if _, body := get("/guarded/header"); body != "key:  id: "+id {
		t.Errorf("a guarded handler sees %q", body)
	}
	if res, _ := get("/guarded/missing"); res.StatusCode != 404 {
		t.Errorf("an error of a guarded handler: %d", res.StatusCode)
	}
	if res, body := get("/guarded/ok"); res.StatusCode != 402 {
		t.Errorf("the fourth: %d %s", res.StatusCode, body)
	}
	if n := s.used(id); n != 3 {
		t.Errorf("used %d", n)
	}
	s.stop()
	if strings.Contains(s.output(), key) {
		t.Error("the log holds the key")
	}
}
