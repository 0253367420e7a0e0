package admintest

import (
	"bytes"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"

	"github.com/till-proxy/till/limiter/store"
)

// unreadable is a store in which single rows cannot be read.
type unreadable struct {
	store.Store
	mu   sync.Mutex
	rows [][]byte
}

// Unreadable makes a world, and a function that makes a row of its store unreadable.
func Unreadable(t *testing.T) (w *World, lose func(row []byte)) {
	t.Helper()
	s, err := store.OpenBadger(filepath.Join(t.TempDir(), "store"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.(*store.Badger).ClosePatience = patience
	u := &unreadable{Store: s}
	return on(t, u, nil), func(row []byte) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.rows = append(u.rows, row)
	}
}

// View implements store.Store.
func (u *unreadable) View(fn func(store.Reader) error) error {
	return u.Store.View(func(r store.Reader) error { return fn(unreadableReader{r, u}) })
}

type unreadableReader struct {
	store.Reader
	of *unreadable
}

// Get implements store.Reader.
func (r unreadableReader) Get(key []byte) ([]byte, error) {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	for _, row := range r.of.rows {
		if bytes.Equal(row, key) {
			return nil, errors.New("the disk cannot read this row")
		}
	}
	return r.Reader.Get(key)
}

// Interface guards
var (
	_ store.Store  = (*unreadable)(nil)
	_ store.Reader = unreadableReader{}
)
