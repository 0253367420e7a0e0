package till

import (
	"encoding/json"
	"net/http"

	"go.uber.org/zap"

	"github.com/till-proxy/till/admin"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
)

// holder is the sender of a request with a key, and what the request has proved about
// the key.
type holder struct {
	k          *limiter.Live
	key        *record.Key
	target     *target
	credential *credential // of a sealed key that is not revoked
	box        record.Box
	number     int64 // of the key's string
}

// serveSelf answers a holder about the key, active or not: GET shows its limits and
// what is left, DELETE revokes it.
func (h *Handler) serveSelf(w http.ResponseWriter, r *http.Request, l *limiter.Limiter, by *holder) error {
	k, t := by.k, by.target
	if r.URL.Path == childrenPath && r.Method == http.MethodPost {
		return h.mintChild(w, r, l, by)
	}
	if refusal := k.Touch(clientAddr(r)); refusal != nil {
		return h.refuse(w, r, t, selfPath, refusal, 0)
	}
	key := k.Key()
	if r.URL.Path == childrenPath {
		w.Header().Set("Allow", "POST")
		return h.refuse(w, r, t, selfPath, keyRefusal(key, record.CodeMethodNotAllowed, "may use POST on %s, not %s", childrenPath, r.Method), http.StatusMethodNotAllowed)
	}
	if r.URL.Path != selfPath {
		return h.refuse(w, r, t, selfPath, keyRefusal(key, record.CodePathNotAllowed, "asked for %s, which does not exist: till answers on %s", r.URL.Path, selfPath), http.StatusNotFound)
	}
	view := k.View()
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodDelete:
		if !view.SelfRevoke {
			return h.refuse(w, r, t, selfPath, keyRefusal(key, record.CodeMethodNotAllowed, "may not be revoked by its holder"), 0)
		}
		var err error
		if view, _, err = l.Revoke(r.Context(), limiter.Holder(key, clientAddr(r).String()), key.ID, "revoked by its holder"); err != nil {
			h.logger.Error("revoking a key for its holder", zap.String("key_id", key.ID), zap.Error(err))
			return h.refuse(w, r, t, selfPath, storeClosed(), 0)
		}
	default:
		w.Header().Set("Allow", "GET, HEAD, DELETE")
		return h.refuse(w, r, t, selfPath, keyRefusal(key, record.CodeMethodNotAllowed, "may use GET and DELETE on %s, not %s", selfPath, r.Method), http.StatusMethodNotAllowed)
	}
	return h.answerHolder(w, r, key, http.StatusOK, admin.HolderJSON(view))
}

func (h *Handler) answerHolder(w http.ResponseWriter, r *http.Request, key *record.Key, status int, answer any) error {
	body, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	closeIfUnread(w, r)
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Till-Key", key.ID)
	w.WriteHeader(status)
	if _, err := w.Write(append(body, '\n')); err != nil {
		h.logger.Debug("answering a holder", zap.Error(err))
	}
	return nil
}
