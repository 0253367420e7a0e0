package admin

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

func (a *api) mint(l *limiter.Limiter, r *http.Request) (any, error) {
	var body wire.MintBody
	if err := readBody(r, &body); err != nil {
		return nil, err
	}
	choices, err := a.choices(l, body.Role)
	if err != nil {
		return nil, err
	}
	spec, err := keyOf(&body, a.backend.UpstreamInfos(), choices, l.Time())
	if err != nil {
		return nil, err
	}
	scopedKey, issue, err := a.issue(l, spec.Upstream, body.UpstreamKey.Secret)
	if err != nil {
		return nil, err
	}
	u, _ := a.upstreamNamed(spec.Upstream)
	birth := limiter.Birth{Lookup: issue.Lookup, Salt: issue.Box.Salt, Unlimited: body.Unlimited, Unmetered: u.Dialect == ""}
	spec.SealKey, spec.Origins, spec.Fingerprint = issue.Box.SealKey, issue.Box.Origins, issue.Fingerprint
	view, err := l.Mint(a.caller, spec, birth)
	if err != nil {
		return nil, err
	}
	return &wire.Minted{KeyObject: keyJSON(view), ScopedKey: scopedKey.Reveal(), BaseURL: a.backend.BaseURL()}, nil
}

func (a *api) list(l *limiter.Limiter, r *http.Request) (any, error) {
	f, err := a.filterOf(l, r.URL.Query())
	if err != nil {
		return nil, err
	}
	page, err := l.List(r.Context(), a.caller, f)
	answer := wire.Listed{Keys: make([]*wire.KeyObject, 0, len(page.Keys)), Next: page.Next, Partial: page.Partial}
	for _, v := range page.Keys {
		answer.Keys = append(answer.Keys, keyJSON(v))
	}
	return answer, err
}

func (a *api) filterOf(l *limiter.Limiter, q url.Values) (limiter.Filter, error) {
	var f limiter.Filter
	for name, values := range q {
		if len(values) != 1 {
			return f, invalid("%s may be given once", name)
		}
		value, err := values[0], error(nil)
		switch label, labelled := strings.CutPrefix(name, "label."); {
		case name == "unused_for":
			if f.UnusedFor, err = caddy.ParseDuration(value); err != nil || f.UnusedFor <= 0 {
				return f, invalid("unused_for must be a duration above 0, such as 90s, 24h or 7d, got %q", value)
			}
		case name == "created_before":
			if f.CreatedBefore, err = moment(value, l.Time()); err != nil {
				return f, invalid("created_before must be %v", err)
			}
		case name == "limit":
			if f.Limit, err = pageSize(value); err != nil {
				return f, err
			}
		case labelled && label != "":
			if f.Labels == nil {
				f.Labels = make(map[string]string)
			}
			f.Labels[label] = value
		case !f.Set(name, value):
			return f, invalid("unknown filter %q; the filters are %s", name, strings.Join(filterNames(), ", "))
		}
	}
	if f.Fingerprint != "" {
		f.Holders = a.holders(l, f.Fingerprint)
	}
	return f, nil
}

func filterNames() (names []string) {
	for _, field := range limiter.FilterFields {
		names = append(names, field.Name)
	}
	return names
}

func (a *api) show(l *limiter.Limiter, r *http.Request) (any, error) {
	return keyAnswer(l.Get(a.caller, r.PathValue("id")))
}

func keyAnswer(view limiter.View, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return keyJSON(view), nil
}

func (a *api) change(l *limiter.Limiter, r *http.Request) (any, error) {
	version, err := ifMatch(r)
	if err != nil {
		return nil, err
	}
	var body keyChange
	if err := readBody(r, &body); err != nil {
		return nil, err
	}
	return keyAnswer(l.Change(r.Context(), a.caller, r.PathValue("id"), version, func(k *record.Key) error {
		if err := body.change(k, l.Time()); err != nil {
			return err
		}
		if u, ok := a.upstreamNamed(k.Upstream); ok {
			return meterable(k, u.Dialect)
		}
		return nil // its upstream is not configured now, so nothing is forwarded
	}, body.checkBounded))
}

// ifMatch reads the version that a change is based on; 0 if the call names none.
func ifMatch(r *http.Request) (int64, error) {
	given := r.Header.Values("If-Match")
	if len(given) == 0 || len(given) == 1 && given[0] == "*" {
		return 0, nil
	}
	n, err := strconv.ParseInt(strings.Trim(given[0], `"`), 10, 64)
	if err != nil || n < 1 || len(given) > 1 {
		return 0, invalid("If-Match must be the key's version, once, got %q", given)
	}
	return n, nil
}

func (a *api) forget(l *limiter.Limiter, r *http.Request) (any, error) {
	return nil, l.Forget(r.Context(), a.caller, r.PathValue("id"))
}

func (a *api) usage(l *limiter.Limiter, r *http.Request) (any, error) {
	history, err := l.Usage(a.caller, r.PathValue("id"))
	return wire.UsageOf(history), err
}

func (a *api) grant(l *limiter.Limiter, r *http.Request) (any, error) {
	var body wire.GrantBody
	if err := readBody(r, &body); err != nil {
		return nil, err
	}
	more := limiter.More{Activations: body.Activations, Tokens: body.Tokens, Nanodollars: int64(body.SpendUSD), Lifetime: time.Duration(body.ExpiresIn)}
	return keyAnswer(l.GrantMore(r.Context(), a.caller, r.PathValue("id"), more))
}

func (a *api) suspend(l *limiter.Limiter, r *http.Request) (any, error) {
	return keyAnswer(l.Suspend(a.caller, r.PathValue("id")))
}

func (a *api) resume(l *limiter.Limiter, r *http.Request) (any, error) {
	return keyAnswer(l.Resume(a.caller, r.PathValue("id")))
}

func (a *api) revoke(l *limiter.Limiter, r *http.Request) (any, error) {
	var body wire.RevokeBody
	if err := readOptionalBody(r, &body); err != nil {
		return nil, err
	}
	view, cut, err := l.Revoke(r.Context(), a.caller, r.PathValue("id"), body.Reason)
	if err != nil {
		return nil, err
	}
	return wire.RevokedKey{KeyObject: keyJSON(view), StreamsCut: cut}, nil
}
