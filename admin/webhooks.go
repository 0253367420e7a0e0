package admin

import (
	"net/http"
	"net/url"
	"time"

	"github.com/till-proxy/till/limiter"
)

// Delivery is how the deliveries to a webhook went since the server started.
type Delivery struct {
	Delivered       int64      `json:"delivered"`
	Failed          int64      `json:"failed_attempts"`
	GivenUp         int64      `json:"given_up"`
	LastDeliveredAt *time.Time `json:"last_delivered_at,omitempty"`
	FailingSince    *time.Time `json:"failing_since,omitempty"`
	LastError       string     `json:"last_error,omitempty"`
}

// webhookState is a webhook as the management API shows it, without secrets.
type webhookState struct {
	URL     string              `json:"url"` // without its query, which may hold a token
	Events  []limiter.EventName `json:"events,omitempty"`
	Pending int64               `json:"pending"`
	Dropped int64               `json:"dropped"`
	Delivery
}

type webhooksAnswer struct {
	Webhooks []webhookState `json:"webhooks"`
}

func (a *api) webhooks(l *limiter.Limiter, r *http.Request) (int, any, error) {
	hooks, err := l.ListHooks(r.Context(), a.caller)
	if err != nil {
		return 0, nil, err
	}
	answer := webhooksAnswer{Webhooks: make([]webhookState, 0, len(hooks))}
	for _, h := range hooks {
		s := webhookState{Events: h.Events, Pending: h.Pending, Dropped: h.Dropped, Delivery: a.backend.Delivery(h.URL)}
		if u, err := url.Parse(h.URL); err == nil {
			u.RawQuery, u.User = "", nil
			s.URL = u.String()
		}
		answer.Webhooks = append(answer.Webhooks, s)
	}
	return http.StatusOK, answer, nil
}
