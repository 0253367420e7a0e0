package till

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/till-proxy/till/token"
	"github.com/till-proxy/till/upstream"
)

// credential is the real key that a request goes out with.
type credential struct {
	secret token.Secret
	forms  atomic.Pointer[[]token.Secret] // how it and its predecessor can look in an answer that repeats them
}

func newCredential(secret token.Secret) *credential {
	c, all := &credential{secret: secret}, forms(secret.Reveal())
	c.forms.Store(&all)
	return c
}

// noCredential is sent to servers that do not read a credential.
const noCredential = "none"

// envPlaceholder matches a credential that is one environment variable.
var envPlaceholder = regexp.MustCompile(`^\{env\.([^{}]+)\}$`)

func (u *Upstream) credentialEnv() string {
	if m := envPlaceholder.FindStringSubmatch(u.Credential); m != nil {
		return m[1]
	}
	return ""
}

// scrubbed replaces an error of net/http that quotes what a broken upstream sent,
// and with it the credential: errors are logged.
type scrubbed struct{ timeout bool }

func (scrubbed) Error() string {
	return "the upstream's answer is not valid HTTP; its text is left out because it holds the credential"
}
func (s scrubbed) Timeout() bool { return s.timeout }
func (scrubbed) Temporary() bool { return false }

// scrub returns an error that does not show the credential.
func (c *credential) scrub(err error) error {
	if err == nil || !c.shownIn(err.Error()) {
		return err
	}
	network, ok := errors.AsType[net.Error](err)
	return scrubbed{timeout: ok && network.Timeout()}
}

// provisionCredential loads the credential for requests of keys with held custody.
func (a *App) provisionCredential(t *target, text string) error {
	if text == "" {
		if t.preset.Keyless {
			t.setHeld(token.NewSecret(noCredential))
		}
		return nil
	}
	return a.followFiles("the credential of upstream "+t.name, []string{text}, func(_ context.Context, values []string) (bool, error) {
		value := strings.TrimSpace(values[0])
		if wrong, _ := t.checkCredential(value); wrong != nil {
			return false, fmt.Errorf("credential %w", wrong)
		}
		return t.setHeld(token.NewSecret(value)), nil
	})
}

// setHeld puts a credential into force for requests that begin from now on. Requests
// in flight keep the previous one; meanwhile answers to both are searched for both.
func (t *target) setHeld(secret token.Secret) (changed bool) {
	former := t.held.Load()
	if former != nil && former.secret.Reveal() == secret.Reveal() {
		return false
	}
	next := newCredential(secret)
	if former != nil {
		both := slices.Concat(forms(former.secret.Reveal()), *next.forms.Load())
		next.forms.Store(&both)
		former.forms.Store(&both)
	}
	t.held.Store(next)
	return true
}

// checkCredential returns why a text cannot be this upstream's credential, or why
// that is doubtful.
func (t *target) checkCredential(text string) (wrong, doubtful error) {
	if err := token.CheckCredential(text); err != nil {
		return err, nil
	}
	if token.HoldsKey(text) {
		err := errors.New("is a scoped key of till, not the upstream's own key")
		if t.presetAddress {
			return err, nil
		}
		return nil, err // perhaps of another till server
	}
	err := token.DoubtCredential(text)
	switch {
	case err == nil || t.auth.In == upstream.InHeader && t.auth.Scheme == "" && http.CanonicalHeaderKey(t.auth.Name) == "Authorization":
		return nil, nil // the value of a whole header may be meant
	case t.auth == t.preset.Auth || strings.EqualFold(t.auth.Scheme, "Bearer"):
		return err, nil
	}
	return nil, err
}

// doubtful lists the secrets that may not be what the operator meant, by what they
// are for.
func (a *App) doubtful() iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, name := range slices.Sorted(maps.Keys(a.targets)) {
			held := a.targets[name].held.Load()
			if held == nil {
				continue
			}
			if _, err := a.targets[name].checkCredential(held.secret.Reveal()); err != nil && !yield("the credential of upstream "+name, err) {
				return
			}
		}
		for i, h := range a.hooks {
			for _, secret := range h.Secrets() {
				if err := token.DoubtCredential(secret.Reveal()); err != nil && utf8.ValidString(secret.Reveal()) && !yield(fmt.Sprintf("the secret of webhook %d", i+1), err) {
					return
				}
			}
		}
	}
}

func (a *App) warnDoubtful() {
	for what, err := range a.doubtful() {
		a.logger.Warn("a secret may not be what was intended", zap.String("what", what), zap.Error(err))
	}
}
