package admin

import (
	"errors"
	"net/http"
	"time"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/token"
)

// TokenObject is an admin token as the management API shows it.
type TokenObject struct {
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	Role       string         `json:"role"`
	Status     limiter.Status `json:"status"`
	CreatedAt  time.Time      `json:"created_at"`
	CreatedBy  string         `json:"created_by"`
	ExpiresAt  *time.Time     `json:"expires_at,omitempty"`
	LastUsedAt *time.Time     `json:"last_used_at,omitempty"`
	RevokedAt  *time.Time     `json:"revoked_at,omitempty"`
	// Token is the string, told once.
	Token string `json:"token,omitempty"`
}

func tokenJSON(t limiter.AdminToken, now time.Time) *TokenObject {
	return &TokenObject{
		ID: t.ID, Name: t.Name, Role: t.Role, Status: t.Status(now), CreatedAt: t.CreatedAt, CreatedBy: t.CreatedBy,
		ExpiresAt: moment(t.ExpiresAt), LastUsedAt: moment(t.LastUsedAt), RevokedAt: moment(t.RevokedAt),
	}
}

type tokenBody struct {
	Name      string     `json:"name"`
	Role      string     `json:"role"`
	ExpiresIn *span      `json:"expires_in"`
	ExpiresAt *time.Time `json:"expires_at"`
}

func (a *api) createToken(l *limiter.Limiter, r *http.Request) (int, any, error) {
	var body tokenBody
	if err := readBody(r, &body); err != nil {
		return 0, nil, err
	}
	spec := limiter.TokenSpec{Name: body.Name, Role: body.Role}
	switch {
	case body.ExpiresIn != nil && body.ExpiresAt != nil:
		return 0, nil, invalid("set expires_in or expires_at, not both")
	case body.ExpiresIn != nil && *body.ExpiresIn <= 0:
		return 0, nil, invalid("expires_in must be more than 0")
	case body.ExpiresIn != nil:
		spec.ExpiresAt = l.Time().UTC().Add(time.Duration(*body.ExpiresIn))
	case body.ExpiresAt != nil && body.ExpiresAt.IsZero():
		return 0, nil, invalid("expires_at %s", noZero)
	case body.ExpiresAt != nil:
		spec.ExpiresAt = body.ExpiresAt.UTC()
	}
	secret, lookup, err := token.MintAdmin()
	if err != nil {
		return 0, nil, err
	}
	spec.Lookup = lookup
	made, err := l.CreateToken(r.Context(), a.caller, spec)
	if err != nil {
		return 0, nil, err
	}
	answer := tokenJSON(made, l.Time())
	answer.Token = secret.Reveal()
	return http.StatusCreated, answer, nil
}

type listedTokens struct {
	Tokens []*TokenObject `json:"tokens"`
	Next   string         `json:"next,omitempty"`
}

func (a *api) listTokens(l *limiter.Limiter, r *http.Request) (int, any, error) {
	size, after, err := pageOf(r.URL.Query())
	if err != nil {
		return 0, nil, err
	}
	all, err := l.ListTokens(r.Context(), a.caller)
	if err != nil {
		return 0, nil, err
	}
	answer := listedTokens{Tokens: []*TokenObject{}}
	for _, t := range all { // the newest first
		if after != "" && t.ID >= after {
			continue
		}
		if len(answer.Tokens) == size {
			answer.Next = answer.Tokens[size-1].ID
			break
		}
		answer.Tokens = append(answer.Tokens, tokenJSON(t, l.Time()))
	}
	return http.StatusOK, answer, nil
}

func (a *api) revokeToken(l *limiter.Limiter, r *http.Request) (int, any, error) {
	t, err := l.RevokeToken(r.Context(), a.caller, r.PathValue("id"))
	if errors.Is(err, limiter.ErrNotFound) {
		err = &apiError{http.StatusNotFound, "not_found", "there is no such token"}
	}
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, tokenJSON(t, l.Time()), nil
}
