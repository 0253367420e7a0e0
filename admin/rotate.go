package admin

import (
	"fmt"
	"net/http"
	"time"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// issue makes a new string for a key of an upstream, and seals the real key into it
// if one is given.
func (a *api) issue(l *limiter.Limiter, upstream string, credential token.Secret) (token.Secret, record.Issue, error) {
	text, lookup, err := token.MintKey()
	if err != nil || credential.IsZero() {
		return text, record.Issue{Lookup: lookup}, err
	}
	salt, err := token.NewSalt()
	if err != nil {
		return token.Secret{}, record.Issue{}, err
	}
	box, sealed, err := a.backend.Seal(upstream, lookup, salt, credential)
	if err != nil {
		return token.Secret{}, record.Issue{}, fmt.Errorf("sealing: %w", err)
	}
	return token.NewSecret(text.Reveal() + "." + box.Reveal()),
		record.Issue{Lookup: lookup, Box: sealed, Fingerprint: l.Fingerprint(credential)}, nil
}

func (a *api) rotate(l *limiter.Limiter, r *http.Request) (any, error) {
	var body wire.RotateBody
	if err := readOptionalBody(r, &body); err != nil {
		return nil, err
	}
	id := r.PathValue("id")
	before, err := l.Rotating(a.caller, id)
	if err != nil {
		return nil, err
	}
	given := !body.UpstreamKey.IsZero()
	switch {
	case before.Custody == record.CustodySealed && !given:
		return nil, invalid("upstream_key must be sent again to rotate %s: its real key is sealed into its string, and the server has no copy", id)
	case before.Custody != record.CustodySealed && given:
		return nil, invalid("upstream_key cannot be set: %s uses the credential that upstream %s has in the configuration; change that one there", id, before.Upstream)
	}
	if given {
		if _, err := pickUpstream(before.Upstream, a.backend.UpstreamInfos(), nil, given); err != nil {
			return nil, err
		}
	}
	text, issue, err := a.issue(l, before.Upstream, body.UpstreamKey.Secret)
	if err != nil {
		return nil, err
	}
	view, cut, err := l.Rotate(a.caller, id, issue, time.Duration(body.Grace))
	if err != nil {
		return nil, err
	}
	return &wire.Rotated{
		Minted:     wire.Minted{KeyObject: keyJSON(view), ScopedKey: text.Reveal(), BaseURL: a.backend.BaseURL()},
		StreamsCut: cut,
	}, nil
}
