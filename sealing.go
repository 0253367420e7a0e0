package till

import (
	"fmt"
	"sync"

	"github.com/caddyserver/caddy/v2"

	"github.com/till-proxy/till/admin"
	"github.com/till-proxy/till/limiter"
	"github.com/till-proxy/till/token"
)

// sealing is a configuration's seal keys, read when they are first needed and
// not while a configuration is only being validated: the file may be made.
type sealing struct {
	file  string // where they are, unless
	named bool   // the configuration names them

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

// read reads the file of seal keys. Callers hold s.
func (s *sealing) read() (*token.Sealer, error) {
	keys, err := token.LoadOrCreateSealKeys(s.file)
	if err != nil {
		return nil, err
	}
	sealer, err := token.NewSealer(keys...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.file, err)
	}
	s.sealer = sealer
	return sealer, nil
}

// set takes the seal keys that the configuration names.
func (s *sealing) set(texts []string) error {
	var keys []token.SealKey
	for i, text := range texts {
		text, err := caddy.NewReplacer().ReplaceOrErr(text, true, true)
		if err != nil {
			return fmt.Errorf("seal_key %d: %w", i+1, err)
		}
		key, err := token.ParseSealKey(text)
		if err != nil {
			return fmt.Errorf("seal_key %d: %w", i+1, err)
		}
		keys = append(keys, key)
	}
	sealer, err := token.NewSealer(keys...)
	if err != nil {
		return fmt.Errorf("seal_key: %w", err)
	}
	s.sealer, s.named = sealer, true
	return nil
}

// Seal puts an upstream's real key into a box for a new scoped key.
func (a *App) Seal(upstreamName string, lookup token.Lookup, salt, secret token.Secret) (admin.Sealed, error) {
	t := a.targets[upstreamName]
	if t == nil {
		return admin.Sealed{}, fmt.Errorf("upstream %q is not configured", upstreamName)
	}
	sealer, err := a.sealing.get()
	if err != nil {
		return admin.Sealed{}, err
	}
	box, id, err := sealer.Seal(salt, token.Binding{Lookup: lookup, Upstream: t.name, Origins: t.declared}, secret)
	return admin.Sealed{Box: box, SealKey: id, Origins: t.declared}, err
}

// SealKeyIDs names the seal keys: the first seals, the others still open.
func (a *App) SealKeyIDs() ([]token.SealKeyID, error) {
	sealer, err := a.sealing.get()
	if err != nil {
		return nil, err
	}
	return sealer.IDs(), nil
}

// sealFile lets one rotation at a time write the file of seal keys.
var sealFile sync.Mutex

// RotateSeal makes a new seal key, which seals from here on. Those before it
// still open. The log of the store knows of it before the file does.
func (a *App) RotateSeal(by limiter.Caller) error {
	l, err := a.Limiter()
	if err != nil {
		return err
	}
	if a.sealing.named {
		return admin.ErrSealKeyNamed
	}
	if _, err := a.sealing.get(); err != nil { // also where there is no file yet
		return err
	}
	key, err := token.NewSealKey()
	if err != nil {
		return err
	}
	sealFile.Lock()
	defer sealFile.Unlock()
	if err := l.SealRotated(by, key.ID()); err != nil {
		return err
	}
	if err := token.AddSealKey(a.sealing.file, key); err != nil {
		return err
	}
	a.sealing.mu.Lock()
	defer a.sealing.mu.Unlock()
	_, err = a.sealing.read()
	return err
}
