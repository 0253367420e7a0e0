package till

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// wished is a request to which reasons to refuse it are added.
type wished struct {
	path, model   string
	search, twice bool
}

func (w wished) asks() asks {
	body := `{"model":"` + w.model + `","messages":[{"role":"user","content":"hi"}],"max_tokens":300`
	if w.search {
		body += `,"web_search_options":{}`
	}
	if w.twice {
		body += `,"model":"` + w.model + `"`
	}
	return asks{method: "POST", path: w.path, body: body + "}"}
}

// reason is one reason why a request is refused.
type reason struct {
	place int    // in the list of docs/keys-and-limits.md
	name  string // as there
	code  record.Code
	mint  func(*record.Key)
	early func(t *testing.T, s *site, on, by minted) // while the key still works
	set   func(*record.Key)
	act   func(t *testing.T, s *site, on minted)
	wish  func(*wished)
	above bool // may also be a parent's
}

func atMost(k *record.Key, kind record.Kind, n int64) {
	if k.Limit[kind] == record.NoLimit || k.Limit[kind] > n {
		k.Limit[kind] = n
	}
}

var reasons = []reason{
	{place: 1, name: "a lockdown", code: record.CodeLockedDown, act: func(t *testing.T, s *site, _ minted) {
		if _, _, err := s.h.app.Lockdown().Set(limiter.Operator, "test"); err != nil {
			t.Fatal(err)
		}
	}},
	{place: 2, name: "revoked", code: record.CodeKeyRevoked, above: true, act: func(t *testing.T, s *site, on minted) {
		if _, _, err := s.Revoke(context.Background(), limiter.Operator, on.id, ""); err != nil {
			t.Fatal(err)
		}
	}},
	{place: 2, name: "suspended", code: record.CodeKeySuspended, above: true, act: func(t *testing.T, s *site, on minted) {
		if _, err := s.Suspend(limiter.Operator, on.id); err != nil {
			t.Fatal(err)
		}
	}},
	{place: 2, name: "expired", code: record.CodeKeyExpired, above: true, set: func(k *record.Key) { k.ExpiresAt = time.Now().Add(time.Hour) },
		act: func(_ *testing.T, s *site, _ minted) { s.clock.lead.Add(int64(2 * time.Hour)) }},
	{place: 3, name: "its address", code: record.CodeIPNotAllowed, above: true, set: func(k *record.Key) {
		k.Scope.IPs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	}},
	{place: 4, name: "an upstream that is not there", code: record.CodeUpstreamUnknown, mint: func(k *record.Key) { k.Upstream = "gone" }},
	{place: 4, name: "what the upstream allows", code: record.CodePathNotAllowed, wish: func(w *wished) { w.path = "/v1/organization/users" }},
	{place: 5, name: "its methods", code: record.CodeMethodNotAllowed, above: true, set: func(k *record.Key) { k.Scope.Methods = []string{"GET"} }},
	{place: 6, name: "its paths", code: record.CodePathNotAllowed, above: true, set: func(k *record.Key) { k.Scope.Paths = []string{"/v1/embeddings"} }},
	{place: 7, name: "its role", code: record.CodeStoreUnavailable, act: func(t *testing.T, s *site, _ minted) {
		if err := s.SetRoles(nil); err != nil {
			t.Fatal(err)
		}
	}},
	{place: 8, name: "nothing left", code: record.CodeActivationsExhausted, set: func(k *record.Key) { k.Limit[record.Activations] = 0 }},
	{place: 9, name: "its rate", code: record.CodeRateLimited, above: true, early: func(t *testing.T, s *site, on, by minted) {
		s.change(on, func(k *record.Key) { k.Rate = record.Rate{N: 1, Per: 24 * time.Hour} })
		if _, code, says := s.serve(by, chat("gpt-5-mini")); code != "" && code != record.CodeUpstreamUnknown {
			t.Fatal(says)
		}
	}},
	{place: 10, name: "its concurrency", code: record.CodeConcurrency, above: true, early: func(t *testing.T, s *site, _, by minted) {
		started, end := make(chan struct{}), make(chan struct{})
		var others atomic.Bool
		s.inside = func(*http.Request) {
			if !others.Swap(true) {
				close(started)
				<-end
			}
		}
		var running sync.WaitGroup
		running.Go(func() {
			s.serve(by, chat("gpt-5-mini"))
			if !others.Swap(true) {
				close(started) // it was refused, which the test reports
			}
		})
		<-started
		t.Cleanup(func() { close(end); running.Wait() })
	}, set: func(k *record.Key) { k.MaxConcurrency = 1 }},
	{place: 11, name: "its body", code: record.CodeBadRequest, set: func(k *record.Key) { atMost(k, record.Tokens, 50_000) }, wish: func(w *wished) { w.twice = true }},
	{place: 12, name: "its models", code: record.CodeModelNotAllowed, above: true, set: models("gpt-4o")},
	{place: 13, name: "what it uses", code: record.CodeNotMeterable, set: func(k *record.Key) { atMost(k, record.Tokens, 50_000) }, wish: func(w *wished) { w.search = true }},
	{place: 14, name: "its price", code: record.CodePriceUnknown, set: func(k *record.Key) { atMost(k, record.Nanodollars, 5_000_000_000) }, wish: func(w *wished) { w.model = "made-up" }},
	{place: 15, name: "too little left", code: record.CodeBudgetTooSmall, set: func(k *record.Key) { atMost(k, record.Nanodollars, 1000) }},
}

// TestOfTwoReasonsTheEarlierIsNamed makes every two reasons to refuse a request hold at
// once, each of the key itself or of its parent: the refusal names the one that comes
// first in the list of the page on keys and limits.
func TestOfTwoReasonsTheEarlierIsNamed(t *testing.T) {
	t.Parallel()
	for i, a := range reasons {
		for _, b := range reasons[i+1:] {
			if a.place == b.place || a.mint != nil && (b.early != nil || b.place > 10) {
				continue // one prevents the other
			}
			for _, where := range []struct {
				name           string
				aboveA, aboveB bool
			}{{"both its own", false, false}, {"the first a parent's", true, false}, {"the second a parent's", false, true}} {
				if where.aboveA && !a.above || where.aboveB && !b.above {
					continue
				}
				t.Run(fmt.Sprintf("%s before %s, %s", a.name, b.name, where.name), func(t *testing.T) {
					t.Parallel()
					s := newSite(t, map[string]record.Role{"crew": record.NewRole()})
					top := s.mint(func(k *record.Key) {
						k.Role = "crew"
						for _, r := range []reason{a, b} {
							if r.mint != nil {
								r.mint(k)
							}
						}
					})
					k := top
					if where.aboveA || where.aboveB {
						k = s.child(top)
					}
					on := func(above bool) minted {
						if above {
							return top
						}
						return k
					}
					both := []struct {
						reason
						on minted
					}{{a, on(where.aboveA)}, {b, on(where.aboveB)}}
					wish := wished{path: "/v1/chat/completions", model: "gpt-5-mini"}
					for _, r := range []int{1, 0} { // requests in flight begin before the rate is used up
						if both[r].early != nil {
							both[r].early(t, s, both[r].on, k)
						}
						if both[r].wish != nil {
							both[r].wish(&wish)
						}
					}
					for _, one := range []minted{k, top} {
						s.change(one, func(k *record.Key) {
							for _, r := range both {
								if r.on == one && r.set != nil {
									r.set(k)
								}
							}
						})
						if top == k {
							break // once
						}
					}
					for _, r := range []int{1, 0} {
						if both[r].act != nil {
							both[r].act(t, s, both[r].on)
						}
					}
					before := s.forwarded.Load()
					_, code, says := s.serve(k, wish.asks())
					if code != a.code || s.forwarded.Load() != before {
						t.Errorf("answered %q, want %s: %s", code, a.code, says)
					}
				})
			}
		}
	}
}

// TestARefusalTellsWhatIsLeftOfAKeyThatGoesOnWorking makes each reason hold alone. A key
// that has ended, or is used from a wrong address, is not described.
func TestARefusalTellsWhatIsLeftOfAKeyThatGoesOnWorking(t *testing.T) {
	t.Parallel()
	for _, reason := range reasons {
		t.Run(reason.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, map[string]record.Role{"crew": record.NewRole()})
			k := s.mint(func(k *record.Key) {
				k.Role, k.ExpiresAt = "crew", time.Now().Add(time.Hour)
				if reason.mint != nil {
					reason.mint(k)
				}
			})
			wish := wished{path: "/v1/chat/completions", model: "gpt-5-mini"}
			if reason.early != nil {
				reason.early(t, s, k, k)
			}
			if reason.wish != nil {
				reason.wish(&wish)
			}
			if reason.set != nil {
				s.change(k, reason.set)
			}
			if reason.act != nil {
				reason.act(t, s, k)
			}
			_, h, says := s.serveAll(k, wish.asks())
			if code := record.Code(h.Get("Till-Refusal")); code != reason.code {
				t.Fatalf("answered %q: %s", code, says)
			}
			v := s.view(k)
			want := http.Header{}
			if reason.place > 3 && reason.place != 7 && reason.place != 8 {
				want.Set("Till-Key", k.id)
				want.Set("Till-Expires", v.ExpiresAt.UTC().Format(time.RFC3339))
				for kind, name := range map[record.Kind]string{record.Activations: "Activations", record.Tokens: "Tokens"} {
					if n := v.Remaining[kind]; n != record.NoLimit {
						want.Set("Till-"+name+"-Remaining", strconv.FormatInt(n, 10))
					}
				}
				if n := v.Remaining[record.Nanodollars]; n != record.NoLimit {
					want.Set("Till-Spend-Remaining", record.FormatUSD(n))
				}
			}
			for _, name := range []string{"Till-Key", "Till-Expires", "Till-Activations-Remaining", "Till-Tokens-Remaining", "Till-Spend-Remaining"} {
				if h.Get(name) != want.Get(name) {
					t.Errorf("%s: %q, want %q", name, h.Get(name), want.Get(name))
				}
			}
		})
	}
}

// TestThePageListsTheReasonsInTheirOrder: the documented order is the real one.
func TestThePageListsTheReasonsInTheirOrder(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("docs/keys-and-limits.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(page), "### Which refusal\n")
	text, _, _ = strings.Cut(text, "\n#")
	if !found {
		t.Fatal("the page has no such list")
	}
	codes := make(map[int]string) // the code, or codes, of each place
	for line := range strings.SplitSeq(text, "\n") {
		var place int
		if _, err := fmt.Sscanf(line, "%d.", &place); err == nil {
			codes[place] = line
		}
	}
	for _, r := range reasons {
		if !strings.Contains(codes[r.place], "`"+string(r.code)+"`") {
			t.Errorf("place %d does not name %s: %q", r.place, r.code, codes[r.place])
		}
	}
}
