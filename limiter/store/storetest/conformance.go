// Package storetest is what every store.Store must pass, and a Store in
// memory for tests that need to see a disk fail at a chosen moment.
//
// It knows the contract in store.Store and nothing about any real store.
package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/till-proxy/till/limiter/store"
)

// Run checks one kind of store. open opens the store in a directory, making
// it when it is new; it is called again on the same directory after Close.
func Run(t *testing.T, open func(dir string) (store.Store, error)) {
	openPatient := func(dir string) (store.Store, error) {
		s, err := open(dir)
		return patient{s}, err
	}
	tests := []struct {
		name string
		test func(t *testing.T, s store.Store)
	}{
		{"AMissingKeyIsNotFound", missingKey},
		{"ATransactionSeesItsOwnWrites", ownWrites},
		{"AFailedTransactionLeavesNothing", failedTransaction},
		{"ATransactionThatIsTooBigLeavesNothing", tooBig},
		{"ASnapshotDoesNotChange", snapshot},
		{"AScanIsOrderedAndStaysInItsPrefix", scanOrder},
		{"AScanResumesAfterAKey", scanResumes},
		{"AScanStopsWhenTold", scanStops},
		{"ValuesHandedOutAreNotOverwritten", valuesStay},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := must(openPatient(t.TempDir()))(t)
			defer func() { check(t, s.Close()) }()
			test.test(t, s)
		})
	}
	t.Run("WhatWasAcknowledgedIsThereAfterReopening", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		for round := range 3 {
			s := must(openPatient(dir))(t)
			for earlier := range round {
				want(t, s, fmt.Sprintf("k/%d", earlier), fmt.Sprintf("round %d", earlier))
			}
			put(t, s, fmt.Sprintf("k/%d", round), fmt.Sprintf("round %d", round))
			check(t, s.Close())
		}
	})
	t.Run("ALargeBatchIsOneTransaction", func(t *testing.T) {
		t.Parallel()
		s := must(openPatient(t.TempDir()))(t)
		defer func() { check(t, s.Close()) }()
		value := bytes.Repeat([]byte("v"), 100)
		check(t, s.Update(func(tx store.Tx) error {
			for i := range 8192 {
				if err := tx.Set(fmt.Appendf(nil, "k/%05d", i), value); err != nil {
					return err
				}
			}
			return nil
		}))
		if n := len(scan(t, s, "k/", nil, false, -1)); n != 8192 {
			t.Fatalf("%d entries are there, want 8192", n)
		}
	})
}

// patient tries a transaction again that a database could not take or finish: on a busy
// machine a test may pause for longer than a node may in the middle of one.
type patient struct{ store.Store }

func (p patient) Update(fn func(store.Tx) error) error {
	return p.again(func() error { return p.Store.Update(fn) })
}

func (p patient) View(fn func(store.Reader) error) error {
	return p.again(func() error { return p.Store.View(fn) })
}

func (patient) again(transaction func() error) error {
	for {
		if err := transaction(); !errors.Is(err, store.ErrUnavailable) {
			return err
		}
	}
}

func missingKey(t *testing.T, s store.Store) {
	check(t, s.View(func(r store.Reader) error {
		if _, err := r.Get([]byte("k/none")); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Get of a missing key: %v, want ErrNotFound", err)
		}
		return nil
	}))
	put(t, s, "k/1", "")
	want(t, s, "k/1", "")
	check(t, s.Update(func(tx store.Tx) error { return tx.Delete([]byte("k/1")) }))
	check(t, s.View(func(r store.Reader) error {
		if _, err := r.Get([]byte("k/1")); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Get of a deleted key: %v, want ErrNotFound", err)
		}
		return nil
	}))
}

func ownWrites(t *testing.T, s store.Store) {
	put(t, s, "k/old", "1")
	check(t, s.Update(func(tx store.Tx) error {
		check(t, tx.Set([]byte("k/new"), []byte("2")))
		check(t, tx.Delete([]byte("k/old")))
		if b, err := tx.Get([]byte("k/new")); err != nil || string(b) != "2" {
			t.Errorf("a write is not seen: %q, %v", b, err)
		}
		if _, err := tx.Get([]byte("k/old")); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a deletion is not seen: %v", err)
		}
		var keys []string
		check(t, tx.Scan([]byte("k/"), nil, false, func(k, _ []byte) (bool, error) {
			keys = append(keys, string(k))
			return true, nil
		}))
		if !slices.Equal(keys, []string{"k/new"}) {
			t.Errorf("a scan inside sees %q", keys)
		}
		return nil
	}))
}

func failedTransaction(t *testing.T, s store.Store) {
	put(t, s, "k/1", "before")
	boom := errors.New("boom")
	err := s.Update(func(tx store.Tx) error {
		check(t, tx.Set([]byte("k/1"), []byte("after")))
		check(t, tx.Set([]byte("k/2"), []byte("after")))
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatalf("Update returned %v, want the error of the function", err)
	}
	if got := scan(t, s, "k/", nil, false, -1); !slices.Equal(got, []string{"k/1=before"}) {
		t.Errorf("after a failed transaction: %q", got)
	}
}

// tooBig writes more than some stores take, and gives up where a store takes it.
func tooBig(t *testing.T, s store.Store) {
	put(t, s, "k/1", "before")
	takesIt := errors.New("the store takes it")
	err := s.Update(func(tx store.Tx) error {
		check(t, tx.Set([]byte("k/1"), []byte("after")))
		for i := range 30_000 {
			if err := tx.Delete(fmt.Appendf(nil, "k/%05d", i)); err != nil {
				return err
			}
		}
		return takesIt
	})
	if !errors.Is(err, takesIt) && !errors.Is(err, store.ErrTooBig) {
		t.Fatalf("a write that is too much for a transaction: %v, want ErrTooBig", err)
	}
	want(t, s, "k/1", "before")
	put(t, s, "k/1", "after")
	want(t, s, "k/1", "after")
}

func snapshot(t *testing.T, s store.Store) {
	put(t, s, "k/1", "before")
	check(t, s.View(func(r store.Reader) error {
		if _, err := r.Get([]byte("k/2")); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a row that there is not: %v", err)
		}
		put(t, s, "k/1", "after")
		if b, err := r.Get([]byte("k/1")); err != nil || string(b) != "before" {
			t.Errorf("a snapshot changed: %q, %v", b, err)
		}
		return nil
	}))
	want(t, s, "k/1", "after")
}

var scanned = []string{"a/9", "k/", "k/1", "k/10", "k/2", "k/~", "l/1"}

func scanOrder(t *testing.T, s store.Store) {
	for _, k := range scanned {
		put(t, s, k, "")
	}
	up := []string{"k/=", "k/1=", "k/10=", "k/2=", "k/~="}
	if got := scan(t, s, "k/", nil, false, -1); !slices.Equal(got, up) {
		t.Errorf("ascending: %q, want %q", got, up)
	}
	down := slices.Clone(up)
	slices.Reverse(down)
	if got := scan(t, s, "k/", nil, true, -1); !slices.Equal(got, down) {
		t.Errorf("descending: %q, want %q", got, down)
	}
	if got := scan(t, s, "none/", nil, false, -1); len(got) != 0 {
		t.Errorf("a scan of an empty prefix found %q", got)
	}
}

func scanResumes(t *testing.T, s store.Store) {
	for _, k := range scanned {
		put(t, s, k, "")
	}
	for _, test := range []struct {
		after   string
		reverse bool
		want    []string
	}{
		{"k/1", false, []string{"k/10=", "k/2=", "k/~="}},
		{"k/10", true, []string{"k/1=", "k/="}},
		{"k/11", false, []string{"k/2=", "k/~="}}, // which is not there
		{"k/11", true, []string{"k/10=", "k/1=", "k/="}},
		{"k/~", false, nil},
	} {
		if got := scan(t, s, "k/", []byte(test.after), test.reverse, -1); !slices.Equal(got, test.want) {
			t.Errorf("after %s, reverse %v: %q, want %q", test.after, test.reverse, got, test.want)
		}
	}
}

func scanStops(t *testing.T, s store.Store) {
	for _, k := range scanned {
		put(t, s, k, "")
	}
	if got := scan(t, s, "k/", nil, false, 2); len(got) != 2 {
		t.Errorf("a scan told to stop after 2 went on: %q", got)
	}
	boom := errors.New("boom")
	err := s.View(func(r store.Reader) error {
		return r.Scan([]byte("k/"), nil, false, func(_, _ []byte) (bool, error) { return true, boom })
	})
	if !errors.Is(err, boom) {
		t.Errorf("a scan whose function fails returned %v", err)
	}
}

func valuesStay(t *testing.T, s store.Store) {
	put(t, s, "k/1", "one")
	put(t, s, "k/2", "two")
	check(t, s.View(func(r store.Reader) error {
		one, err := r.Get([]byte("k/1"))
		check(t, err)
		_, err = r.Get([]byte("k/2"))
		check(t, err)
		if string(one) != "one" {
			t.Errorf("a value changed while its transaction ran: %q", one)
		}
		return nil
	}))
}

func put(t *testing.T, s store.Store, key, value string) {
	t.Helper()
	check(t, s.Update(func(tx store.Tx) error { return tx.Set([]byte(key), []byte(value)) }))
}

func want(t *testing.T, s store.Store, key, value string) {
	t.Helper()
	check(t, s.View(func(r store.Reader) error {
		b, err := r.Get([]byte(key))
		if err != nil || string(b) != value {
			t.Errorf("%s = %q, %v; want %q", key, b, err, value)
		}
		return nil
	}))
}

func scan(t *testing.T, s store.Store, prefix string, after []byte, reverse bool, limit int) []string {
	t.Helper()
	var found []string
	check(t, s.View(func(r store.Reader) error {
		return r.Scan([]byte(prefix), after, reverse, func(k, v []byte) (bool, error) {
			found = append(found, string(k)+"="+string(v))
			return len(found) != limit, nil
		})
	}))
	return found
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		check(t, err)
		return v
	}
}
