package limiter

import (
	"errors"
	"slices"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/limiter/store"
)

// followTokens lets memory follow the admin tokens with these ids; nil: all of them.
func (l *Limiter) followTokens(ids []string) error {
	var found []*record.AdminToken
	var gone []string
	looked := make(chan error, 1)
	l.committer.Look(func(r store.Reader) error {
		found, gone = nil, nil
		known := ids
		if ids == nil {
			known = l.tokens.ids()
			err := r.Scan(record.TokenKey(""), nil, false, func(at, _ []byte) (bool, error) {
				if id := string(at[len(record.TokenKey("")):]); !slices.Contains(known, id) {
					known = append(known, id)
				}
				return true, nil
			})
			if err != nil {
				return err
			}
		}
		for _, id := range known {
			rec, err := record.ReadToken(r, id)
			switch {
			case errors.Is(err, store.ErrNotFound):
				gone = append(gone, id)
			case err != nil:
				return err
			default:
				found = append(found, rec)
			}
		}
		return nil
	}, func(err error) {
		if err == nil {
			for _, rec := range found {
				l.tokens.put(rec)
			}
			for _, id := range gone {
				l.tokens.drop(id)
			}
		}
		looked <- err
	})
	return <-looked
}

func (t *tokens) ids() []string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	ids := make([]string, 0, len(t.byID))
	for id := range t.byID {
		ids = append(ids, id)
	}
	return ids
}
