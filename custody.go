package till

import (
	"crypto/sha256"
	"errors"

	"go.uber.org/zap"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// unsealed is a sealed key's credential as its [limiter.Live] keeps it. It is valid
// for one key string under one configuration only.
type unsealed struct {
	*credential
	hash   [sha256.Size]byte // of the key's whole string
	sealer *token.Sealer
}

// credentialOf returns the credential for requests with a key, or why the key is
// invalid. A sealed key is authenticated by its box before anything else happens. There
// is no credential to return for a held key, nor for a revoked one, whose box is never
// opened again.
func (h *Handler) credentialOf(k *limiter.Live, key *record.Key, parsed token.Parsed, box record.Box) (*credential, *record.Refusal) {
	garbled := &record.Refusal{Code: record.CodeKeyInvalid, Message: "the key is not known here in this form: check that all of it was copied, and nothing else"}
	switch {
	case key.Custody != record.CustodySealed && parsed.Box == "":
		return nil, nil
	case key.Custody != record.CustodySealed:
		return nil, garbled
	case key.EndedStatus == record.Revoked:
		return nil, nil
	case parsed.Box == "":
		return nil, garbled
	}
	sealer, err := h.app.sealing.get()
	if err != nil {
		h.logger.Error("the seal key cannot be read", zap.Error(err))
		return nil, storeClosed()
	}
	hash := wholeHash(parsed)
	if u, ok := k.Kept().(*unsealed); ok && u.hash == hash && u.sealer == sealer {
		return u.credential, nil
	}
	secret, err := sealer.Open(parsed.Box, box.SealKey, box.Salt,
		token.Binding{Lookup: parsed.Lookup, Upstream: key.Upstream, Origins: box.Origins})
	switch {
	case errors.Is(err, token.ErrNoSealKey):
		h.logger.Error("a sealed key cannot be opened: the seal key it was made with is not configured; add it as another seal_key line",
			zap.String("key_id", key.ID), zap.Stringer("seal_key_id", box.SealKey))
		return nil, storeClosed()
	case err != nil:
		k.Count(record.CodeKeyInvalid)
		return nil, garbled
	}
	u := &unsealed{newCredential(secret), hash, sealer}
	k.Keep(u)
	return u.credential, nil
}

// wholeHash is the hash of a key's whole string: the lookup is the hash of the part
// before the box.
func wholeHash(p token.Parsed) [sha256.Size]byte {
	var buf [sha256.Size + 1024]byte
	b := append(append(buf[:0], p.Lookup[:]...), p.Box...)
	return sha256.Sum256(b)
}
