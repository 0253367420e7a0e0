package admin

import (
	"net/http"
	"net/url"

	"github.com/till-proxy/till/admin/wire"
	"github.com/till-proxy/till/limiter"
)

func (a *api) webhooks(l *limiter.Limiter, r *http.Request) (int, any, error) {
	hooks, err := l.ListHooks(r.Context(), a.caller)
	if err != nil {
		return 0, nil, err
	}
	answer := wire.WebhooksAnswer{Webhooks: make([]wire.WebhookState, 0, len(hooks))}
	for _, h := range hooks {
		s := wire.WebhookState{Events: h.Events, Pending: h.Pending, Dropped: h.Dropped, Delivery: a.backend.Delivery(h.URL)}
		if u, err := url.Parse(h.URL); err == nil {
			u.RawQuery, u.User = "", nil
			s.URL = u.String()
		}
		answer.Webhooks = append(answer.Webhooks, s)
	}
	return http.StatusOK, answer, nil
}
