package record

import (
	"errors"
	"fmt"

	"github.com/till-proxy/till/limiter/store"
)

// maxDepth bounds how many ancestors a child may have.
const maxDepth = 4

var (
	// ErrNoDelegate says that the key was minted without the right to mint children.
	ErrNoDelegate = errors.New(`the key may not mint child keys: it was minted without "delegate"`)
	// ErrDepth says that the key has too many ancestors.
	ErrDepth = fmt.Errorf("the key may not mint child keys: there are %d keys above it, and no more are allowed", maxDepth)
)

// Attached reports whether the key is a child whose ancestors still decide about it.
func (k *Key) Attached() bool { return k.Parent != "" && k.ReturnedAt.IsZero() }

// CarvedFrom reports whether CarvedNow was taken in the window that the parent's account
// is in. The lineage says so: an epoch also moves when the parent is changed to renew at
// other times, or the clock is repaired, and then the window goes on.
func (k *Key) CarvedFrom(parent *Account) bool {
	if k.CarvedLineage == 0 {
		return k.CarvedIn == parent.Epoch
	}
	return k.CarvedLineage == parent.Lineage
}

// CheckAncestry refuses records that do not lead up to a key without a parent.
func CheckAncestry(r store.Reader, key *Key) error {
	for key.Parent != "" {
		var err error
		if key, err = ReadParent(r, key); err != nil {
			return err
		}
	}
	return nil
}

// ReadParent reads the key above a child. It is one level nearer to the root, so walking up
// comes to an end.
func ReadParent(r store.Reader, key *Key) (*Key, error) {
	b, err := r.Get(RecordKey(key.Parent))
	if err != nil {
		return nil, fmt.Errorf("key %s: its parent %s: %w", key.ID, key.Parent, Missing(err))
	}
	above, err := DecodeKey(b)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", key.Parent, err)
	}
	if key.Depth < 1 || key.Depth > maxDepth || above.Depth != key.Depth-1 {
		return nil, fmt.Errorf("key %s: %w: it is %d below its root, and its parent %d", key.ID, ErrRecord, key.Depth, above.Depth)
	}
	return above, nil
}

// ChildrenOf lists the children of a key whose remaining budget has not come back.
func ChildrenOf(r store.Reader, id string) (ids []string, err error) {
	prefix := childPrefix(id)
	err = r.Scan(prefix, nil, false, func(key, _ []byte) (bool, error) {
		ids = append(ids, string(key[len(prefix):]))
		return true, nil
	})
	return ids, err
}

func CountChildren(r store.Reader, id string) (int, error) {
	ids, err := ChildrenOf(r, id)
	return len(ids), err
}

// Below turns a refusal by an ancestor into one for the holder of this key.
func (k *Key) Below(r *Refusal) *Refusal {
	mine := k.Refuse(r.Code, "is a child key: %s", r.Message)
	mine.RetryAfter = r.RetryAfter
	return mine
}

// Child starts the record of a child: everything that a mint may leave out is as in
// the parent, except for the limits, which have to be given.
func (k *Key) Child() *Key {
	child, parent := &Key{Limit: NoLimits()}, k.Clone()
	for _, f := range KeyFields {
		if f.Inherited {
			f.copy(child, parent)
		}
	}
	return child
}

// ChildOf makes a new key a child, if the parent may have one and the new key is no
// wider than the parent.
func (k *Key) ChildOf(parent *Key) error {
	switch {
	case !parent.Delegate:
		return ErrNoDelegate
	case parent.Depth >= maxDepth:
		return ErrDepth
	}
	k.Parent, k.Depth = parent.ID, parent.Depth+1
	return k.Within(nil, parent)
}
