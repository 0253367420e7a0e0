package admin

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
	"github.com/till-proxy/till/token"
)

func tokenJSON(t record.AdminToken, now time.Time) *wire.TokenObject {
	return &wire.TokenObject{
		ID: t.ID, Name: t.Name, Role: t.Role, Status: t.Status(now), CreatedAt: t.CreatedAt, CreatedBy: t.CreatedBy,
		ExpiresAt: optionalTime(t.ExpiresAt), LastUsedAt: optionalTime(t.LastUsedAt), RevokedAt: optionalTime(t.RevokedAt),
		Pending: t.Pending,
	}
}

func (a *api) createToken(l *limiter.Limiter, r *http.Request) (any, error) {
	var body wire.TokenBody
	if err := readBody(r, &body); err != nil {
		return nil, err
	}
	spec := limiter.TokenSpec{Name: body.Name, Role: body.Role}
	switch {
	case body.ExpiresIn != nil && body.ExpiresAt != nil:
		return nil, invalid("set expires_in or expires_at, not both")
	case body.ExpiresIn != nil && *body.ExpiresIn <= 0:
		return nil, invalid("expires_in must be more than 0")
	case body.ExpiresIn != nil:
		spec.ExpiresAt = l.Time().UTC().Add(time.Duration(*body.ExpiresIn))
	case body.ExpiresAt != nil && body.ExpiresAt.IsZero():
		return nil, invalid("expires_at %s", noZero)
	case body.ExpiresAt != nil:
		spec.ExpiresAt = body.ExpiresAt.UTC()
	}
	secret, lookup, err := token.MintAdmin()
	if err != nil {
		return nil, err
	}
	spec.Lookup = lookup
	made, err := l.CreateToken(a.caller, spec)
	if err != nil {
		return nil, err
	}
	answer := tokenJSON(made, l.Time())
	answer.Token = secret.Reveal()
	return answer, nil
}

func (a *api) listTokens(l *limiter.Limiter, r *http.Request) (any, error) {
	size, after, err := pageOf(r.URL.Query())
	if err != nil {
		return nil, err
	}
	all, err := l.ListTokens(a.caller)
	if err != nil {
		return nil, err
	}
	answer := wire.ListedTokens{Tokens: []*wire.TokenObject{}}
	for _, t := range all { // newest first
		if after != "" && t.ID >= after {
			continue
		}
		if len(answer.Tokens) == size {
			answer.Next = answer.Tokens[size-1].ID
			break
		}
		answer.Tokens = append(answer.Tokens, tokenJSON(t, l.Time()))
	}
	return answer, nil
}

// defaultPage is the size of a page if the call names none.
const defaultPage = 50

// pageSize reads the limit of a list.
func pageSize(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > wire.MaxPage {
		return 0, invalid("limit must be from 1 to %d, got %q", wire.MaxPage, text)
	}
	return n, nil
}

// pageOf reads the limit and cursor of a list without filters.
func pageOf(q url.Values) (size int, cursor string, err error) {
	size = defaultPage
	for name, values := range q {
		switch {
		case len(values) != 1:
			return 0, "", invalid("%s may be given once", name)
		case name == "cursor":
			cursor = values[0]
		case name == "limit":
			if size, err = pageSize(values[0]); err != nil {
				return 0, "", err
			}
		default:
			return 0, "", invalid("unknown parameter %q; the parameters are limit, cursor", name)
		}
	}
	return size, cursor, nil
}

func (a *api) revokeToken(l *limiter.Limiter, r *http.Request) (any, error) {
	t, err := l.RevokeToken(a.caller, r.PathValue("id"))
	if errors.Is(err, store.ErrNotFound) {
		err = &apiError{http.StatusNotFound, "not_found", "there is no such token"}
	}
	if err != nil {
		return nil, err
	}
	answer := tokenJSON(t, l.Time())
	answer.Made = madeJSON(l.MadeWith(a.caller, t.ID))
	return answer, nil
}

func madeJSON(made []record.AdminToken) (all []wire.MadeToken) {
	for _, t := range made {
		all = append(all, wire.MadeToken{ID: t.ID, Name: t.Name})
	}
	return all
}
