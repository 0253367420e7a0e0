package store_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/till-proxy/till/limiter/store"
)

func TestASecondOpenOfTheSameDirectoryNamesTheProcessThatHasIt(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "badger")
	s, err := store.OpenBadger(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = store.OpenBadger(dir, slog.New(slog.DiscardHandler))
	if !errors.Is(err, store.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("(process %d)", os.Getpid())) {
		t.Errorf("second open: %v, want ErrLocked with process %d", err, os.Getpid())
	}
}

func TestAReaderIsNotCutOffByAStoreThatCloses(t *testing.T) {
	t.Parallel()
	s, err := store.OpenBadger(filepath.Join(t.TempDir(), "badger"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.(*store.Badger).ClosePatience = 5 * time.Minute // others may keep the machine busy
	if err := s.Update(func(tx store.Tx) error { return tx.Set([]byte("k/1"), []byte("one")) }); err != nil {
		t.Fatal(err)
	}
	inside, closed := make(chan struct{}), make(chan error, 1)
	go func() {
		<-inside
		closed <- s.Close()
	}()
	err = s.View(func(r store.Reader) error {
		close(inside)
		for range 10000 { // while it closes
			if _, err := r.Get([]byte("k/1")); err != nil {
				return err
			}
		}
		select {
		case <-closed:
			return errors.New("closed under a reader")
		default:
			return nil
		}
	})
	if err != nil {
		t.Error(err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if err := s.View(func(store.Reader) error { return nil }); !errors.Is(err, store.ErrClosed) {
		t.Errorf("a read from a closed store: %v", err)
	}
}

func TestClosingAStoreWhoseDiskDoesNotAnswerWaitsOnlySoLong(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "badger")
	s, err := store.OpenBadger(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.(*store.Badger).ClosePatience = 50 * time.Millisecond
	if err := s.Update(func(tx store.Tx) error { return tx.Set([]byte("k/1"), []byte("one")) }); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+".old"); err != nil { // Badger tries to write its tables until it is there
		t.Fatal(err)
	}
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("closing: %v", err)
	}
	if err := s.View(func(store.Reader) error { return nil }); !errors.Is(err, store.ErrClosed) {
		t.Errorf("a read while it is being closed: %v", err)
	}
	if _, err := store.OpenBadger(dir, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "still closing") {
		t.Errorf("opening it meanwhile: %v", err)
	}
	if err := os.Rename(dir+".old", dir); err != nil {
		t.Fatal("opening it meanwhile has made another: ", err)
	}
	deadline := time.Now().Add(5 * time.Minute)
	for s, err = store.OpenBadger(dir, slog.New(slog.DiscardHandler)); err != nil; s, err = store.OpenBadger(dir, slog.New(slog.DiscardHandler)) {
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	defer s.Close()
	if err := s.View(func(r store.Reader) error { _, err := r.Get([]byte("k/1")); return err }); err != nil {
		t.Error(err)
	}
}

func TestATransactionThatIsTooBigIsSaidToBe(t *testing.T) {
	t.Parallel()
	s, err := store.OpenBadger(filepath.Join(t.TempDir(), "badger"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for name, write := range map[string]func(tx store.Tx, i int) error{
		"many entries":   func(tx store.Tx, i int) error { return tx.Set(fmt.Appendf(nil, "k/%d", i), nil) },
		"many deletions": func(tx store.Tx, i int) error { return tx.Delete(fmt.Appendf(nil, "k/%d", i)) },
		"many bytes":     func(tx store.Tx, i int) error { return tx.Set(fmt.Appendf(nil, "k/%d", i), make([]byte, 100<<10)) },
	} {
		err := s.Update(func(tx store.Tx) error {
			for i := range 30_000 {
				if err := write(tx, i); err != nil {
					return err
				}
			}
			return nil
		})
		if !errors.Is(err, store.ErrTooBig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	err = s.Update(func(tx store.Tx) error { // what makes it so is not passed on
		for i := range 30_000 {
			if tx.Set(fmt.Appendf(nil, "k/%d", i), nil) != nil {
				return nil
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, store.ErrTooBig) {
		t.Errorf("a transaction that ends where no more fits: %v", err)
	}
}
