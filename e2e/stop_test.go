package e2e

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// stopsWithin tells the server to stop, and kills it, which fails the test, if it has not
// ended by then.
func (s *server) stopsWithin(d time.Duration) {
	s.t.Helper()
	s.mu.Lock()
	process := s.cmd.Process
	s.mu.Unlock()
	overdue := time.AfterFunc(d, func() {
		s.t.Errorf("%s after SIGTERM it still runs", d)
		_ = process.Kill()
	})
	defer overdue.Stop()
	s.stop()
}

// TestAReaderOfEventsKeepsNoServerFromStopping has no grace_period, so that Caddy waits for
// all that runs. It stops its apps in no particular order, a new one each time.
func TestAReaderOfEventsKeepsNoServerFromStopping(t *testing.T) {
	t.Parallel()
	c := newConsole(t)
	token := c.hire("ann", "reader")["token"].(string)
	for range 10 {
		r, err := http.NewRequest("GET", c.base+"/till/api/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		res, err := c.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		feed := bufio.NewReader(res.Body)
		if line, err := feed.ReadString('\n'); err != nil || line != ": these are the events from now on\n" {
			t.Fatalf("%d %q %v", res.StatusCode, line, err)
		}
		c.stopsWithin(time.Minute)
		rest, err := io.ReadAll(feed)
		if err != nil || !strings.Contains(string(rest), "event: end\n") {
			t.Errorf("the feed ended with %q %v", rest, err)
		}
		res.Body.Close()
		c.start()
	}
}

// gracePeriod is the line with that option in Caddyfile.example.
var gracePeriod = regexp.MustCompile(`(?m)^\tgrace_period (\w+)$`)

// TestAServerWithAnOpenStreamStopsAfterItsGracePeriod: the stream is an agent's that listens
// for as long as there is something to hear.
func TestAServerWithAnOpenStreamStopsAfterItsGracePeriod(t *testing.T) {
	t.Parallel()
	example, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	line := gracePeriod.FindStringSubmatch(string(example))
	if line == nil {
		t.Fatal("Caddyfile.example has no grace_period")
	}
	s := newServer(t, options{global: strings.Replace(line[0], line[1], "2s", 1)})
	id, key := s.mint(object{"max_activations": 100})
	res, err := s.client.Do(s.streaming(context.Background(), key, 1_000_000, time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := bufio.NewReader(res.Body).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	s.stopsWithin(time.Minute)
	s.start()
	if n := s.used(id); n != 1 || s.show(id)["remaining_activations"].(float64) != 99 {
		t.Errorf("used %d, want 1: %v", n, s.show(id))
	}
}

// TestSupervisorsWaitLongerThanTheServer: one that kills it earlier does so in the midst of
// what it gives back.
func TestSupervisorsWaitLongerThanTheServer(t *testing.T) {
	t.Parallel()
	find := func(file, pattern string) time.Duration {
		t.Helper()
		text, err := os.ReadFile("../" + file)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(pattern).FindStringSubmatch(string(text))
		if found == nil {
			t.Fatalf("%s has no %s", file, pattern)
		}
		d, err := time.ParseDuration(found[1])
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for server, supervisor := range map[[2]string][2]string{
		{"Caddyfile.example", gracePeriod.String()}:   {"init/till.service", `(?m)^TimeoutStopSec=(\w+)$`},
		{"docs/cluster.md", `\n\tgrace_period (\w+)`}: {"docs/cluster.md", `\n    stop_grace_period: (\w+)\n`},
	} {
		const toWrite = 10 * time.Second // after the grace period: what the store may take to close
		if grace, kill := find(server[0], server[1]), find(supervisor[0], supervisor[1]); grace+toWrite > kill {
			t.Errorf("%s gives requests %s, and %s kills it after %s", server[0], grace, supervisor[0], kill)
		}
	}
}
