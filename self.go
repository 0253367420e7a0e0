package till

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/till-proxy/till/admin"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/commit"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
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
// what is left, DELETE revokes it. path is the one that is routed, which clients may
// write with more slashes at its beginning.
func (h *Handler) serveSelf(w http.ResponseWriter, r *http.Request, l *limiter.Limiter, by *holder, path string) error {
	k, t := by.k, by.target
	if path == childrenPath && r.Method == http.MethodPost {
		return h.mintChild(w, r, l, by)
	}
	refuse := func(refusal *record.Refusal, status int) error {
		setRefusedHeaders(w.Header(), k.Key(), k, refusal)
		return h.refuse(w, r, t, selfPath, refusal, status)
	}
	if refusal := k.Touch(r.Context(), clientAddr(r)); refusal != nil {
		return refuse(refusal, 0)
	}
	key := k.Key()
	if path == childrenPath {
		w.Header().Set("Allow", "POST")
		return refuse(key.Refuse(record.CodeMethodNotAllowed, "may use POST on %s, not %s", childrenPath, r.Method), http.StatusMethodNotAllowed)
	}
	if path != selfPath {
		return refuse(key.Refuse(record.CodePathNotAllowed, "asked for %s, which does not exist: till answers on %s", path, selfPath), http.StatusNotFound)
	}
	view := k.View()
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodDelete:
		if !view.SelfRevoke {
			return refuse(key.Refuse(record.CodeMethodNotAllowed, "may not be revoked by its holder"), 0)
		}
		var err error
		if view, _, err = l.Revoke(r.Context(), limiter.Holder(key, clientAddr(r).String()), key.ID, "revoked by its holder"); err != nil {
			h.logger.Error("revoking a key for its holder", zap.String("key_id", key.ID), zap.Error(err))
			return refuse(storeClosed(), 0)
		}
	default:
		w.Header().Set("Allow", "GET, HEAD, DELETE")
		return refuse(key.Refuse(record.CodeMethodNotAllowed, "may use GET and DELETE on %s, not %s", selfPath, r.Method), http.StatusMethodNotAllowed)
	}
	left := record.NoLimits()
	if view.Status == record.Active || view.Status == record.Exhausted {
		left = view.Remaining
	}
	return h.answerHolder(w, r, key, left, http.StatusOK, admin.HolderJSON(view))
}

// answerHolder answers the holder of a key. left is what the key has left, if it goes on
// working.
func (h *Handler) answerHolder(w http.ResponseWriter, r *http.Request, key *record.Key, left record.Amounts, status int, answer any) error {
	body, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	closeIfUnread(w, r)
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	values := new(headerValues)
	values.setKey(header, key)
	values.setRemaining(header, left)
	w.WriteHeader(status)
	if _, err := w.Write(append(body, '\n')); err != nil {
		h.logger.Debug("answering a holder", zap.Error(err))
	}
	return nil
}

// childrenPath is where the holder of a key mints child keys.
const childrenPath = selfPath + "/keys"

// mintChild mints a child key for the holder of its parent. The real key that is sealed
// into the parent's string, which is available only now, is also sealed into the
// child's, with a salt of its own.
func (h *Handler) mintChild(w http.ResponseWriter, r *http.Request, l *limiter.Limiter, by *holder) error {
	key, t := by.key, by.target
	sealed := key.Custody == record.CustodySealed
	ask := &limiter.Ask{Own: true, Addr: clientAddr(r), Method: r.Method, Path: childrenPath, String: by.number}
	refusal := by.k.Precheck(r.Context(), ask)
	switch {
	case refusal != nil:
	case sealed && by.credential == nil:
		refusal = storeClosed() // revoked a moment ago
	case sealed && !slices.Equal(by.box.Origins, t.declared):
		// A new box would be bound to the address that is configured now.
		refusal = key.Refuse(record.CodeUpstreamChanged, "was sealed for upstream %s at another address than the one configured now, and so may not mint child keys", t.name)
	case !sealed && t.held.Load() == nil && !h.Guard:
		refusal = key.Refuse(record.CodeUpstreamUnknown, "is for upstream %s, which has no credential here any more", t.name)
	}
	if refusal != nil {
		setRefusedHeaders(w.Header(), key, by.k, refusal)
		return h.refuse(w, r, t, childrenPath, refusal, 0)
	}
	spec, unlimited, err := admin.ReadChild(r, key, string(t.preset.Dialect), l.Time())
	if err != nil {
		return h.refuseChild(w, r, by, err)
	}
	text, lookup, err := token.MintKey()
	if err != nil {
		return h.refuseChild(w, r, by, err)
	}
	birth := limiter.Birth{Lookup: lookup, Unlimited: unlimited, Unmetered: t.preset.Dialect == ""}
	scopedKey := text.Reveal()
	if sealed {
		if birth.Salt, err = token.NewSalt(); err != nil {
			return h.refuseChild(w, r, by, err)
		}
		box, made, err := h.app.Seal(t.name, lookup, birth.Salt, by.credential.secret)
		if err != nil {
			return h.refuseChild(w, r, by, err)
		}
		spec.SealKey, spec.Origins, spec.Fingerprint = made.SealKey, made.Origins, l.Fingerprint(by.credential.secret)
		scopedKey += "." + box.Reveal()
	}
	view, err := l.Delegate(r.Context(), by.k, ask, spec, birth)
	if err != nil {
		return h.refuseChild(w, r, by, err)
	}
	left, _ := by.k.Remaining()
	return h.answerHolder(w, r, key, left, http.StatusCreated, admin.ChildJSON(view, scopedKey, h.app.BaseURL()))
}

// refuseChild answers why no child was minted.
func (h *Handler) refuseChild(w http.ResponseWriter, r *http.Request, by *holder, err error) error {
	key := by.key
	var refusal *record.Refusal
	var short *limiter.ShortError
	status := admin.StatusOf(err)
	switch {
	case errors.As(err, &refusal):
	case errors.As(err, &short):
		refusal = key.Refuse(record.CodeBudgetTooSmall, "could not mint a child key: %s", short)
		if short.Held {
			refusal = key.Refuse(record.CodeBudgetHeld, "could not mint a child key: %s", short)
		}
	case errors.Is(err, record.ErrNoDelegate), errors.Is(err, record.ErrDepth):
		refusal = key.Refuse(record.CodeMethodNotAllowed, "could not mint a child key: %s", err)
	case errors.Is(err, limiter.ErrChildren):
		refusal = key.Refuse(record.CodeConcurrency, "could not mint a child key: %s", err)
		refusal.RetryAfter = 10 * time.Second
	case errors.Is(err, limiter.ErrParentEnded):
		refusal = key.Refuse(record.CodeKeySuspended, "could not mint a child key: %s", err)
	case status == http.StatusRequestEntityTooLarge:
		refusal = key.Refuse(record.CodeBodyTooLarge, "could not mint a child key: %s", err)
	case status != 0:
		refusal = key.Refuse(record.CodeBadRequest, "could not mint a child key: %s", err)
	case errors.Is(err, commit.ErrOutcome):
		h.logger.Error("minting a child key", zap.String("key_id", key.ID), zap.Error(err))
		refusal = key.Refuse(record.CodeStoreUnavailable, "may have minted a child key: the store began and did not say that it was done; see what is left at GET %s before you send this again", selfPath)
		status = http.StatusInternalServerError // with which clients are told not to retry
	default:
		h.logger.Error("minting a child key", zap.String("key_id", key.ID), zap.Error(err))
		refusal, status = storeClosed(), 0
	}
	by.k.Count(refusal.Code)
	setRefusedHeaders(w.Header(), key, by.k, refusal)
	return h.refuse(w, r, by.target, childrenPath, refusal, status)
}
