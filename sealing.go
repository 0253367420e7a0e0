package till

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/till-proxy/till/admin"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/token"
)

// sealing holds a configuration's seal keys. They are read when they are first needed
// and not while a configuration is only being validated, because reading may create the
// file.
type sealing struct {
	file  string // where they are, unless named is set
	named bool   // the configuration itself names the keys

	mu     sync.Mutex
	sealer *token.Sealer
}

func (s *sealing) get() (*token.Sealer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sealer != nil {
		return s.sealer, nil
	}
	return s.read()
}

// read reads the file of seal keys. The caller holds s.mu.
func (s *sealing) read() (*token.Sealer, error) {
	keys, err := token.LoadOrCreateSealKeys(s.file)
	if err != nil {
		return nil, explainReadOnly(err)
	}
	sealer, err := token.NewSealer(keys...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.file, err)
	}
	s.sealer = sealer
	return sealer, nil
}

// present returns the seal keys as get does, but makes no file: without one, there are none.
func (s *sealing) present() (*token.Sealer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sealer != nil {
		return s.sealer, nil
	}
	if _, err := os.Stat(s.file); errors.Is(err, fs.ErrNotExist) {
		return new(token.Sealer), nil
	}
	return s.read()
}

// provisionSealing finds out where the seal keys are, and loads those that the
// configuration names.
func (a *App) provisionSealing() error {
	a.sealing = &sealing{file: a.SealKeyFile, named: len(a.SealKeys) > 0}
	if a.SealKeyFile == "" {
		a.sealing.file = filepath.Join(caddy.AppDataDir(), "till", "seal.key")
	}
	switch {
	case a.sealing.named && a.SealKeyFile != "":
		return errors.New("seal_keys and seal_key_file exclude each other: the server makes the keys in the file itself")
	case a.sealing.named:
		return a.followFiles("the seal keys", a.SealKeys, func(ctx context.Context, texts []string) (bool, error) {
			var keys []token.SealKey
			for i, text := range texts {
				key, err := token.ParseSealKey(text)
				if err != nil {
					return false, fmt.Errorf("seal_key %d: %w", i+1, err)
				}
				keys = append(keys, key)
			}
			return a.applySealKeys(ctx, keys)
		})
	}
	// The file is created when it is first needed, so there is nothing to load yet.
	a.sources = append(a.sources, &fileSource{what: "the file of seal keys", paths: []string{a.sealing.file}, maxSize: maxSealKeyFile,
		apply: func(ctx context.Context, _ contents) (bool, error) {
			// If the file is gone, no other is created: keys are sealed with the one in
			// force.
			keys, err := token.LoadSealKeys(a.sealing.file)
			if err != nil {
				return false, err
			}
			return a.applySealKeys(ctx, keys)
		}})
	return nil
}

const maxSealKeyFile = 1 << 20

// applySealKeys puts seal keys into force. If one of the present keys is missing and
// still needed, it keeps the present ones, because the missing key could not be
// recovered.
func (a *App) applySealKeys(ctx context.Context, keys []token.SealKey) (changed bool, err error) {
	next, err := token.NewSealer(keys...)
	if err != nil {
		return false, fmt.Errorf("seal_key: %w", err)
	}
	s := a.sealing
	s.mu.Lock()
	before := s.sealer
	s.mu.Unlock()
	if before != nil {
		if err := a.sealKeysGone(ctx, before, next); err != nil {
			return false, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sealer != before || before != nil && slices.Equal(before.IDs(), next.IDs()) {
		return false, nil // a rotation was faster, or nothing has changed
	}
	s.sealer = next
	return true, nil
}

// keepSealKeys returns an error if this configuration lacks a seal key that the former one
// has and that is still needed.
func (a *App) keepSealKeys(former *App) error {
	before, err := former.sealing.present()
	if err != nil {
		return nil // it could not use them either
	}
	next, err := a.sealing.present()
	if err != nil {
		return err
	}
	return a.sealKeysGone(a.ctx, before, next)
}

func (a *App) sealKeysGone(ctx context.Context, before, next *token.Sealer) error {
	gone := slices.DeleteFunc(before.IDs(), next.Has)
	if len(gone) == 0 {
		return nil
	}
	l := a.engine.current()
	if l == nil {
		return fmt.Errorf("seal key %s is gone, and whether keys need it cannot be seen while the store is closed", gone[0])
	}
	uses, err := l.SealUses(ctx, limiter.Operator)
	if err != nil {
		return fmt.Errorf("seal key %s is gone, and whether keys need it cannot be seen: %w", gone[0], err)
	}
	for _, id := range gone {
		if use := uses[id]; use != (limiter.SealUse{}) {
			return fmt.Errorf("seal key %s is gone, and %d live and %d ended keys need it: put it back behind the new one; caddy till seal says when no key needs it any more", id, use.Live, use.Ended)
		}
	}
	return nil
}

// Seal puts an upstream's real key into a box for a new scoped key.
func (a *App) Seal(upstreamName string, lookup token.Lookup, salt, secret token.Secret) (token.Secret, record.Box, error) {
	t := a.targets[upstreamName]
	if t == nil {
		return token.Secret{}, record.Box{}, fmt.Errorf("upstream %q is not configured", upstreamName)
	}
	if wrong, _ := t.checkCredential(secret.Reveal()); wrong != nil {
		return token.Secret{}, record.Box{}, &record.InvalidError{Field: "upstream_key", Msg: wrong.Error()}
	}
	sealer, err := a.sealing.get()
	if err != nil {
		return token.Secret{}, record.Box{}, err
	}
	box, id, err := sealer.Seal(salt, token.Binding{Lookup: lookup, Upstream: t.name, Origins: t.declared}, secret)
	return box, record.Box{SealKey: id, Origins: t.declared, Salt: salt}, err
}

// SealKeyIDs returns the ids of the seal keys: the first seals new boxes, the others
// still open old ones.
func (a *App) SealKeyIDs() ([]token.SealKeyID, error) {
	sealer, err := a.sealing.get()
	if err != nil {
		return nil, err
	}
	return sealer.IDs(), nil
}

// sealFile is held while a rotation writes the file of seal keys.
var sealFile sync.Mutex

// RotateSeal makes a new seal key, which seals from now on. The previous ones still
// open old boxes. The audit log records the new key before the file contains it.
func (a *App) RotateSeal(by limiter.Caller) error {
	l, err := a.Limiter()
	if err != nil {
		return err
	}
	if a.sealing.named {
		return admin.ErrSealKeyNamed
	}
	if _, err := a.sealing.get(); err != nil { // creates the file if there is none
		return err
	}
	key, err := token.NewSealKey()
	if err != nil {
		return err
	}
	sealFile.Lock()
	defer sealFile.Unlock()
	present, err := token.LoadSealKeys(a.sealing.file)
	if err != nil {
		return err
	}
	if _, err := a.applySealKeys(a.ctx, present); err != nil { // a key that was deleted from the file would be lost for good
		return err
	}
	if err := l.SealRotated(by, key.ID()); err != nil {
		return err
	}
	if err := token.AddSealKey(a.sealing.file, key); err != nil {
		return explainReadOnly(err)
	}
	if present, err = token.LoadSealKeys(a.sealing.file); err != nil {
		return err
	}
	_, err = a.applySealKeys(a.ctx, present)
	return err
}

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
