package admin

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/token"
)

const (
	// maxLeakText bounds the text of one call, in bytes, and maxLeakBody the
	// JSON that it comes in, where line ends take two.
	maxLeakText = 8 << 20
	maxLeakBody = 2*maxLeakText + maxBody
	// leakers is how many strings are ended at a time, so that the store
	// writes several together.
	leakers = 16
)

// leakTurns bounds how many texts are searched at a time in this process: each
// takes many times its size of memory. Whoever sends slowly holds none.
var leakTurns = make(chan struct{}, 2)

type leaksBody struct {
	Text   string `json:"text"`
	DryRun bool   `json:"dry_run"`
}

type leaksAnswer struct {
	// Found counts the strings of keys and tokens in the text, each once.
	Found int `json:"found"`
	// Revoked are the ids of those that were ended, as far as the caller sees
	// them.
	Revoked []string `json:"revoked"`
	// Unknown counts those that no key and no token here has.
	Unknown int  `json:"unknown"`
	DryRun  bool `json:"dry_run,omitempty"`
	// Matches are all of them, in the order of the text.
	Matches []leakMatch `json:"matches"`
}

// leakMatch is one string that was found. It never holds the whole string.
type leakMatch struct {
	Hint  string            `json:"hint"` // its beginning
	ID    string            `json:"id,omitempty"`
	Name  string            `json:"name,omitempty"`
	State limiter.LeakState `json:"state"`
}

// hint is so much of a string that its owner knows which one is meant.
func hint(l token.Leak) string {
	prefix := token.KeyPrefix
	if l.Admin {
		prefix = token.AdminPrefix
	}
	return l.Text.Reveal()[:len(prefix)+4] + "..."
}

// distinct are the strings in a text, each once, in its order.
func distinct(text []byte) []token.Leak {
	var all []token.Leak
	seen := make(map[token.Lookup]bool)
	token.Scan(text, func(l token.Leak) {
		if !seen[l.Lookup] {
			seen[l.Lookup] = true
			all = append(all, l)
		}
	})
	return all
}

func (a *api) leaks(l *limiter.Limiter, r *http.Request) (int, any, error) {
	if !l.Allows(a.caller, limiter.KeysRevoke) { // before 8 MB are read
		_, err := l.Leak(r.Context(), a.caller, token.Lookup{}, false, true)
		return 0, nil, err
	}
	if _, err := wholeBody(r, maxLeakBody); err != nil {
		return 0, nil, err
	}
	select {
	case leakTurns <- struct{}{}:
		defer func() { <-leakTurns }()
	case <-r.Context().Done():
		return 0, nil, r.Context().Err()
	}
	var body leaksBody
	if err := readBodyOf(r, &body, maxLeakBody); err != nil {
		return 0, nil, err
	}
	if len(body.Text) > maxLeakText {
		return 0, nil, &apiError{http.StatusRequestEntityTooLarge, "body_too_large",
			fmt.Sprintf("text may be %d bytes long, got %d: send it in pieces that overlap", maxLeakText, len(body.Text))}
	}
	found := distinct([]byte(body.Text))
	done, err := endLeaked(r.Context(), l, a.caller, found, body.DryRun)
	if err != nil {
		return 0, nil, err
	}
	answer := leaksAnswer{Found: len(found), Revoked: []string{}, Matches: []leakMatch{}, DryRun: body.DryRun}
	for i, one := range done {
		answer.Matches = append(answer.Matches, leakMatch{Hint: hint(found[i]), ID: one.ID, Name: one.Name, State: one.State})
		switch one.State {
		case limiter.LeakUnknown:
			answer.Unknown++
		case limiter.LeakRevoked:
			if one.ID != "" && !body.DryRun {
				answer.Revoked = append(answer.Revoked, one.ID)
			}
		}
	}
	return http.StatusOK, answer, nil
}

// endLeaked ends what the strings belong to. It does as many as it can, and
// returns the first error.
func endLeaked(ctx context.Context, l *limiter.Limiter, by limiter.Caller, found []token.Leak, dryRun bool) ([]limiter.Leaked, error) {
	done := make([]limiter.Leaked, len(found))
	errs := make([]error, len(found))
	var group sync.WaitGroup
	next := make(chan int)
	for range min(leakers, len(found)) {
		group.Go(func() {
			for i := range next {
				done[i], errs[i] = l.Leak(ctx, by, found[i].Lookup, found[i].Admin, dryRun)
			}
		})
	}
	for i := range found {
		next <- i
	}
	close(next)
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return done, nil
}
