package storetest

import (
	"bytes"
	"runtime"
	"sync"
)

// nesting holds that nobody opens a view of a store within a view or a transaction of it. A
// store that has room for few would have its caller wait for itself.
type nesting struct {
	inside sync.Map // the goroutines that are in one, by name
}

// view runs what is within a view.
func (n *nesting) view(fn func() error) error {
	if _, nested := n.inside.Load(goroutine()); nested {
		panic("a view is opened within a view or a transaction of the same store, which may have room for one only")
	}
	return n.transaction(fn)
}

// transaction runs what is within a transaction.
func (n *nesting) transaction(fn func() error) error {
	name := goroutine()
	if _, nested := n.inside.LoadOrStore(name, nil); nested {
		return fn()
	}
	defer n.inside.Delete(name)
	return fn()
}

// goroutine names the one that calls, as its stack trace does.
func goroutine() string {
	b := make([]byte, 64)
	name, _, _ := bytes.Cut(b[:runtime.Stack(b, false)], []byte(" ["))
	return string(name)
}
