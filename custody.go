package till

import (
	"crypto/sha256"
	"errors"
	"net"
	"regexp"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/token"
)

// credential is the real key that a request goes out with.
type credential struct {
	secret token.Secret
	forms  atomic.Pointer[[]token.Secret] // how it, and what it took over from, can look in an answer that repeats it
}

func newCredential(secret token.Secret) *credential {
	c, all := &credential{secret: secret}, forms(secret.Reveal())
	c.forms.Store(&all)
	return c
}

// noCredential goes to servers that read none.
const noCredential = "none"

// literal reports whether the credential stands in the configuration itself.
func (u *Upstream) literal() bool {
	return literal(u.Credential)
}

// envPlaceholder is a credential that is one environment variable.
var envPlaceholder = regexp.MustCompile(`^\{env\.([^{}]+)\}$`)

// credentialEnv names the environment variable that the credential comes from,
// if it is one.
func (u *Upstream) credentialEnv() string {
	if m := envPlaceholder.FindStringSubmatch(u.Credential); m != nil {
		return m[1]
	}
	return ""
}

// scrubbed stands for an error of net/http whose text repeats what a broken
// upstream sent, and so the credential: errors are logged.
type scrubbed struct{ timeout bool }

func (scrubbed) Error() string {
	return "the upstream's answer is no HTTP, and its text is not repeated"
}
func (s scrubbed) Timeout() bool { return s.timeout }
func (scrubbed) Temporary() bool { return false }

// scrub returns an error that does not show the credential.
func (c *credential) scrub(err error) error {
	if err == nil || !c.shownIn(err.Error()) {
		return err
	}
	var network net.Error
	return scrubbed{timeout: errors.As(err, &network) && network.Timeout()}
}

// unsealed is a sealed key's credential as its [limiter.Live] keeps it. It is
// good for one string under one configuration only.
type unsealed struct {
	*credential
	hash   [sha256.Size]byte // of the key's whole string
	sealer *token.Sealer
}

// credentialOf returns what requests with a key go out with, or why the key is
// not what it should be. A sealed key is authenticated by its box before
// anything else is said or done. Of a held key, and of a revoked one, whose
// box opens for nobody any more, there is none to return.
func (h *Handler) credentialOf(k *limiter.Live, key *limiter.Key, parsed token.Parsed, box limiter.Box) (*credential, *limiter.Refusal) {
	garbled := &limiter.Refusal{Code: limiter.CodeKeyInvalid, Message: "the key is not known here in this form: check that it was copied whole and alone"}
	switch {
	case key.Custody != limiter.CustodySealed && parsed.Box == "":
		return nil, nil
	case key.Custody != limiter.CustodySealed:
		return nil, garbled
	case key.EndedStatus == limiter.Revoked:
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
		k.Count(limiter.CodeKeyInvalid)
		return nil, garbled
	}
	u := &unsealed{newCredential(secret), hash, sealer}
	k.Keep(u)
	return u.credential, nil
}

// wholeHash stands for a key's whole string: the lookup is the hash of what
// stands before the box.
func wholeHash(p token.Parsed) [sha256.Size]byte {
	var buf [sha256.Size + 1024]byte
	b := append(append(buf[:0], p.Lookup[:]...), p.Box...)
	return sha256.Sum256(b)
}
