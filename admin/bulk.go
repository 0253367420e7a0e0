package admin

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/till-proxy/till/admin/prose"
	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/store"
)

func jobJSON(j limiter.Job) wire.BulkJSON {
	done := j.Done()
	return wire.BulkJSON{
		Matched: j.Matched, Revoked: j.Revoked, AlreadyRevoked: j.Already, StreamsCut: j.Cut,
		Job: strconv.FormatInt(j.Number, 10), Done: &done, At: &j.At, By: j.By, Reason: j.Reason, Unreadable: j.Left, Failure: j.Failure,
		Pending: j.Pending,
	}
}

// revokeMany ends all keys that match a filter. It answers when that is done,
// unless the body asks it not to wait.
func (a *api) revokeMany(l *limiter.Limiter, r *http.Request) (any, error) {
	body := wire.RevokeManyBody{Wait: true}
	if err := readBody(r, &body); err != nil {
		return nil, err
	}
	q := url.Values{}
	for name, value := range body.Filter {
		switch {
		case slices.ContainsFunc(limiter.FilterFields, func(f limiter.FilterField) bool { return f.Orders && f.Name == name }):
			return nil, invalid("filter: %s does not pick keys", name)
		case value == "":
			return nil, invalid("filter: %s must not be empty", prose.Cut(name, 64))
		}
		q.Set(name, value)
	}
	f, err := a.filterOf(l, q)
	if err != nil {
		return nil, err
	}
	if body.All == (len(body.Filter) > 0) {
		return nil, invalid(`say which keys: "filter" with at least one of %s; or "all": true for every key`, limiter.BulkNames())
	}
	if n := len(body.Except); n > limiter.MaxExcept {
		return nil, invalid("except may have at most %d ids, got %d: end the keys in parts, with filters that pick fewer", limiter.MaxExcept, n)
	}
	slices.Sort(body.Except)
	f.Except = slices.Compact(body.Except)
	for _, id := range f.Except {
		// A key whose id is misspelt here would be revoked.
		if _, err := l.Get(a.caller, id); err != nil {
			return nil, invalid("except: %s: %v", prose.Cut(id, 64), err)
		}
	}
	if body.DryRun {
		n, err := l.CountMatches(r.Context(), a.caller, f)
		return wire.BulkJSON{Matched: n.Matched, AlreadyRevoked: n.Matched - n.Revocable, DryRun: true, At: &n.Before}, err
	}
	j, err := l.RevokeMany(a.caller, f, body.All, body.Reason)
	if err != nil {
		return nil, err
	}
	if !body.Wait {
		return withStatus{http.StatusAccepted, jobJSON(j)}, nil
	}
	pending := j.Pending
	j, err = l.Await(r.Context(), a.caller, j.Number)
	j.Pending = pending
	return jobJSON(j), err
}

func (a *api) jobs(l *limiter.Limiter, _ *http.Request) (any, error) {
	jobs, err := l.Jobs(a.caller)
	all := make([]wire.BulkJSON, 0, len(jobs))
	for _, j := range jobs {
		all = append(all, jobJSON(j))
	}
	return wire.JobsAnswer{Jobs: all}, err
}

func (a *api) job(l *limiter.Limiter, r *http.Request) (any, error) {
	j, err := l.JobOf(a.caller, r.PathValue("id"))
	if errors.Is(err, store.ErrNotFound) {
		err = &apiError{http.StatusNotFound, "not_found", "there is no such job"}
	}
	return jobJSON(j), err
}
