package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/postgres/postgrestest"
)

// clusterStream is a stream of a key at a node.
type clusterStream struct {
	ended chan streamEnd
}

type streamEnd struct {
	at   time.Time
	last string // the last line, or how it broke off
}

// opens begins a stream at a node, which goes on until it is cut.
func (c *cluster) opens(s *server, key string) *clusterStream {
	c.t.Helper()
	var res *http.Response
	s.eventually("a stream is admitted, or refused for good", func() (ok bool) {
		var err error
		if res, err = c.client.Do(s.streaming(context.Background(), key, 1_000_000, 10*time.Millisecond)); err != nil {
			c.t.Fatal(err)
		}
		if ok = res.Header.Get("Retry-After") == ""; !ok {
			res.Body.Close()
		}
		return ok
	})
	if res.StatusCode != http.StatusOK {
		res.Body.Close()
		c.t.Fatalf("a stream: %s", res.Status)
	}
	lines := bufio.NewScanner(res.Body)
	if !lines.Scan() {
		c.t.Fatal("no event: ", lines.Err())
	}
	stream := &clusterStream{ended: make(chan streamEnd, 1)}
	go func() {
		defer res.Body.Close()
		last := ""
		for lines.Scan() {
			if lines.Text() != "" {
				last = lines.Text()
			}
		}
		if err := lines.Err(); err != nil {
			last = "broken off: " + err.Error()
		}
		stream.ended <- streamEnd{time.Now(), last}
	}()
	return stream
}

// end waits for the end of a stream.
func (c *cluster) end(stream *clusterStream) streamEnd {
	c.t.Helper()
	select {
	case end := <-stream.ended:
		return end
	case <-time.After(patience):
		c.t.Fatal("the stream is not cut")
	}
	return streamEnd{}
}

// endsBy is end, and fails the test unless this was the reason, or the stream's node had lost
// touch with the database, as it may for a moment.
func (c *cluster) endsBy(s *server, stream *clusterStream, code string) streamEnd {
	c.t.Helper()
	end := c.end(stream)
	switch {
	case strings.Contains(end.last, code):
	case strings.Contains(end.last, "till_store_unavailable"):
		s.says("this node has lost touch with the database")
	default:
		c.t.Errorf("the stream ended with %q", end.last)
	}
	return end
}

// percentile is that of durations, which it sorts.
func percentile(all []time.Duration, percent int) time.Duration {
	slices.Sort(all)
	return all[min(len(all)-1, len(all)*percent/100)].Round(100 * time.Microsecond)
}

// TestRevokingAtOneNodeIsFeltAtAllBeforeTheCallReturns revokes keys at a node picked at
// random, of which another has a stream, and asks for more at every node.
func TestRevokingAtOneNodeIsFeltAtAllBeforeTheCallReturns(t *testing.T) {
	t.Parallel()
	weighs(t, middleWeight)
	c := newCluster(t, clusterOptions{nodes: 3})
	n := tortureSize(t, 10, 20)
	calls, cuts := make([]time.Duration, 0, n), make([]time.Duration, 0, n)
	for i := range n {
		at, other := c.nodes[i%3], c.nodes[(i+1)%3]
		id, key := c.any().mint(object{"max_activations": 10})
		stream := c.opens(other, key)
		began := time.Now()
		answer := at.act("POST", "/keys/"+id+"/revoke", object{})
		calls = append(calls, time.Since(began))
		// A node that stands still is waited for, and admits nothing until it has followed.
		if answer["pending"] != nil && calls[i] < 10*time.Second {
			t.Fatalf("revoke: %v, after %s", answer, calls[i])
		}
		before := c.upstream.Count()
		for _, s := range c.nodes {
			if a := c.answerOn(s, key); a.status != http.StatusForbidden || a.refusal != "till_key_revoked" {
				t.Errorf("afterwards a node answers %d %s", a.status, a.refusal)
			}
		}
		if now := c.upstream.Count(); now != before {
			t.Errorf("%d requests were forwarded after the key was revoked", now-before)
		}
		cuts = append(cuts, c.endsBy(other, stream, "till_key_revoked").at.Sub(began))
	}
	t.Logf("%d revocations: the call took %s (half), %s (99 %%); the stream at another node ended after %s, %s",
		n, percentile(calls, 50), percentile(calls, 99), percentile(cuts, 50), percentile(cuts, 99))
	// A quiet machine needs a fiftieth of it, and one that stood still did so in one call or
	// two. A node that is not told has a third of the streams.
	if most := percentile(cuts, 75); most > 10*time.Second || percentile(calls, 50) > 2*time.Second {
		t.Errorf("half of the calls took %s, and three of four streams ended after %s", percentile(calls, 50), most)
	}
}

// contactLost is when a node that has lost its database stops admitting at the latest,
// and slack is what a busy machine adds.
const (
	contactLost = 7 * time.Second
	slack       = 5 * time.Second
)

// TestANodeThatHasLostItsDatabaseRefusesAndCutsItsStreamsInTime cuts a node off in each
// way that a network can, while it streams, and revokes the key at the other one. It does so
// again where something was late: on a machine that stands still for longer than slack, a node
// cannot be in time.
func TestANodeThatHasLostItsDatabaseRefusesAndCutsItsStreamsInTime(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(*postgrestest.Proxy){
		"cut":                          (*postgrestest.Proxy).Cut,
		"silent":                       (*postgrestest.Proxy).Hold,
		"one way":                      (*postgrestest.Proxy).Deafen,
		"silent, and new ones refused": func(p *postgrestest.Proxy) { p.Refuse(); p.Hold() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, clusterOptions{nodes: 2, apart: true})
			late := ""
			for range 3 {
				if late = c.losesOne(cut); late == "" {
					return
				}
				t.Log(late)
			}
			t.Errorf("three times: %s", late)
		})
	}
}

// losesOne cuts off the second node, and lets it come back. It returns what was late.
func (c *cluster) losesOne(cut func(*postgrestest.Proxy)) (late string) {
	t := c.t
	t.Helper()
	id, key := c.nodes[0].mint(object{"max_activations": 100_000})
	stream := c.opens(c.nodes[1], key)
	if a := c.answerOn(c.nodes[1], key); a.status != http.StatusOK {
		t.Fatal(a)
	}
	cut(c.networks[1])
	began := time.Now() // what it knows is older
	var answer object
	revoked := make(chan time.Duration, 1)
	go func() {
		_, answer = c.nodes[0].api("POST", "/keys/"+id+"/revoke", object{})
		revoked <- time.Since(began)
	}()
	var last time.Time // when a request began that was forwarded
	c.nodes[1].eventually("the node refuses", func() bool {
		a := c.chatOn(c.nodes[1], key)
		if a.status == http.StatusOK {
			last = a.began
		}
		return a.away()
	})
	refused := time.Since(began)
	end := c.end(stream)
	called := <-revoked
	if !last.IsZero() && last.Sub(began) > contactLost+slack || end.at.Sub(began) > contactLost+slack {
		late = fmt.Sprintf("requests were forwarded for %s, and the stream went on for %s", last.Sub(began), end.at.Sub(began))
	}
	if called > 10*time.Second+slack {
		late += fmt.Sprintf(" the call to revoke took %s", called)
	}
	if strings.Contains(end.last, "[DONE]") || end.last == "" {
		t.Errorf("the stream ended with %q", end.last)
	}
	c.networks[1].Heal()
	if answer["error"] != nil { // the node that was cut off had a lock, and the machine was slow
		c.nodes[0].act("POST", "/keys/"+id+"/revoke", object{})
	}
	c.nodes[1].eventually("the node has heard of it", func() bool {
		return c.chatOn(c.nodes[1], key).refusal == "till_key_revoked"
	})
	t.Logf("the node refused after %s, its stream ended after %s, and the call to revoke returned after %s with %v pending",
		refused.Round(time.Millisecond), end.at.Sub(began).Round(time.Millisecond), called.Round(time.Millisecond), answer["pending"])
	return late
}
