package storetest

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/till-proxy/till/limiter/store"
)

// table is one state of a simulated store. It is never changed, so that many
// may look at it.
type table []row // by key

type row struct {
	key   string
	value []byte
}

// change is what a transaction does to a row: its new value, or its end.
type change struct {
	value   []byte
	deleted bool
}

// overlay is a state as seen by a transaction that has changed something.
type overlay struct {
	base    table
	changes map[string]change
}

// Get implements store.Reader.
func (o *overlay) Get(key []byte) ([]byte, error) {
	ch, written := o.changes[string(key)]
	switch {
	case !written:
		return o.base.Get(key)
	case ch.deleted:
		return nil, store.ErrNotFound
	}
	return bytes.Clone(ch.value), nil
}

// Scan implements store.Reader.
func (o *overlay) Scan(prefix, after []byte, reverse bool, fn func(key, value []byte) (bool, error)) error {
	rows := o.base
	if len(o.changes) > 0 {
		rows = rows.with(o.changes)
	}
	return rows.Scan(prefix, after, reverse, fn)
}

func (t table) find(key string) (int, bool) {
	return slices.BinarySearchFunc(t, key, func(r row, key string) int { return cmp.Compare(r.key, key) })
}

// with is the state after changes.
func (t table) with(changes map[string]change) table {
	next := make(table, 0, len(t)+len(changes))
	rest := t
	for _, key := range slices.Sorted(maps.Keys(changes)) {
		at, found := rest.find(key)
		next, rest = append(next, rest[:at]...), rest[at:]
		if found {
			rest = rest[1:]
		}
		if ch := changes[key]; !ch.deleted {
			next = append(next, row{key, ch.value})
		}
	}
	return append(next, rest...)
}

// Get implements store.Reader.
func (t table) Get(key []byte) ([]byte, error) {
	at, found := t.find(string(key))
	if !found {
		return nil, store.ErrNotFound
	}
	return bytes.Clone(t[at].value), nil
}

// Scan implements store.Reader.
func (t table) Scan(prefix, after []byte, reverse bool, fn func(key, value []byte) (bool, error)) error {
	from, _ := t.find(string(prefix))
	to := from
	for to < len(t) && strings.HasPrefix(t[to].key, string(prefix)) {
		to++
	}
	found := t[from:to]
	if after != nil {
		at, is := found.find(string(after))
		switch {
		case reverse:
			found = found[:at]
		case is:
			found = found[at+1:]
		default:
			found = found[at:]
		}
	}
	for i := range found {
		if reverse {
			i = len(found) - 1 - i
		}
		if more, err := fn([]byte(found[i].key), bytes.Clone(found[i].value)); err != nil || !more {
			return err
		}
	}
	return nil
}
