package admin

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

const (
	// maxLeakText bounds the text of one call, in bytes, and maxLeakBody the JSON
	// around it, in which a newline takes two bytes.
	maxLeakText = 8 << 20
	maxLeakBody = 2*maxLeakText + maxBody
	// leakWorkers is how many strings are revoked at a time, so that the store
	// writes several together.
	leakWorkers = 16
)

// leakSlots bounds how many texts are searched at a time in this process, because
// each takes many times its size in memory. A caller holds a slot only after its
// body was read, so a slow sender holds none.
var leakSlots = make(chan struct{}, 2)

// distinct returns the strings in a text, each once, in the order of the text.
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

func (a *api) leaks(l *limiter.Limiter, r *http.Request) (any, error) {
	if err := l.Authorise(a.caller, record.KeysRevoke); err != nil { // before 8 MB are read
		return nil, err
	}
	if _, err := wholeBody(r, maxLeakBody); err != nil {
		return nil, err
	}
	select {
	case leakSlots <- struct{}{}:
		defer func() { <-leakSlots }()
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	var body wire.LeaksBody
	if err := readBodyOf(r, &body, maxLeakBody); err != nil {
		return nil, err
	}
	if len(body.Text) > maxLeakText {
		return nil, &apiError{http.StatusRequestEntityTooLarge, "body_too_large",
			fmt.Sprintf("text may be at most %d bytes long, got %d: send it in pieces that overlap", maxLeakText, len(body.Text))}
	}
	found := distinct([]byte(body.Text))
	done, errs := endLeaked(r.Context(), l, a.caller, found, body.DryRun)
	answer := wire.LeaksAnswer{Found: len(found), Revoked: []string{}, Matches: []wire.LeakMatch{}, DryRun: body.DryRun}
	var failed []error
	var tokens []string
	for i, one := range done {
		match := wire.LeakMatch{Hint: found[i].Hint(), ID: one.ID, Name: one.Name, State: one.State}
		if err := errs[i]; err != nil {
			failed = append(failed, err)
			known, _, _ := a.explain(err)
			match.State, match.Error = limiter.LeakFailed, token.Scrub(known.message)
		}
		if found[i].Admin && one.ID != "" {
			tokens = append(tokens, one.ID)
		}
		answer.Matches = append(answer.Matches, match)
		switch match.State {
		case limiter.LeakUnknown:
			answer.Unknown++
		case limiter.LeakRevoked:
			if one.ID != "" && !body.DryRun {
				answer.Revoked = append(answer.Revoked, one.ID)
			}
		}
	}
	answer.Made = madeJSON(l.MadeWith(a.caller, tokens...))
	if !body.DryRun && len(found) > answer.Unknown {
		answer.Pending = l.Pending()
	}
	if len(failed) == 0 {
		return answer, nil
	}
	return nil, &partlyDone{failed[0], func(fault wire.Fault) any {
		fault.Message = fmt.Sprintf("%d of %s failed, and may still work; send them again: %s",
			len(failed), prose.Counted(int64(len(found)), "string"), fault.Message)
		answer.Error = &fault
		return answer
	}}
}

// endLeaked revokes the keys and tokens that the strings belong to, and returns what
// became of each. It goes on after an error.
func endLeaked(ctx context.Context, l *limiter.Limiter, by limiter.Caller, found []token.Leak, dryRun bool) (done []limiter.Leaked, errs []error) {
	done = make([]limiter.Leaked, len(found))
	errs = make([]error, len(found))
	var group sync.WaitGroup
	next := make(chan int)
	for range min(leakWorkers, len(found)) {
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
	return done, errs
}
