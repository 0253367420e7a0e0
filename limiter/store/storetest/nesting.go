package storetest

import (
	"bytes"
	"runtime"
	"sync"
)

// nesting makes sure that nobody opens a view of a store within a view or a transaction of
// it. In a store with room for few, the caller would wait for itself.
type nesting struct {
	inside sync.Map // the goroutines that are in one, by name
}

// view runs fn, the content of a view.
func (n *nesting) view(fn func() error) error {
	if _, nested := n.inside.Load(goroutine()); nested {
		panic("a view is opened within a view or a transaction of the same store, which may have room for one only")
	}
	return n.transaction(fn)
}

// transaction runs fn, the content of a transaction.
func (n *nesting) transaction(fn func() error) error {
	name := goroutine()
	if _, nested := n.inside.LoadOrStore(name, nil); nested {
		return fn()
	}
	defer n.inside.Delete(name)
	return fn()
}

// goroutine names the calling goroutine, as its stack trace does.
func goroutine() string {
	b := make([]byte, 64)
	name, _, _ := bytes.Cut(b[:runtime.Stack(b, false)], []byte(" ["))
	return string(name)
}
