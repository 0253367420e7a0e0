package till

import (
	"net/http"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// rereads bounds how often a request is read again because its key changed in the
// meantime.
const rereads = 16

// admit reads from a request what its key's limits depend on, and reserves it. If
// the key, an ancestor or its role's budget changed in between, the request is read
// again under the new terms: its body is in memory, or was not touched.
func (h *Handler) admit(w http.ResponseWriter, r *http.Request, x *exchange, key *record.Key, k *limiter.Live, ask *limiter.Ask, expects bool) (refusal *record.Refusal) {
	asked := *ask
	for range rereads {
		*ask, x.usage, x.models = asked, nil, nil
		ask.Terms = k.Terms()
		if refusal = h.readAsk(w, r, x, key, k, ask); refusal != nil {
			return refusal
		}
		if !expects {
			if refusal = h.readSmall(r, x, key, k, ask); refusal != nil {
				return refusal
			}
		}
		ask.Waits, ask.Keeps = true, x.body.keeps()
		if refusal = k.Reserve(r.Context(), ask, &x.grant); refusal == nil || !refusal.Moved {
			return refusal
		}
	}
	return k.Refuse(ask, refusal)
}
