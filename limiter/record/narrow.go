package record

import "github.com/till-proxy/till/limiter/store"

// Within says in which field a child would be wider than its parent. For a child that
// changes, old is what it was before, and only what changes is judged.
func (k *Key) Within(old, parent *Key) error {
	for _, f := range KeyFields {
		if old != nil && f.beyond(k, old) == "" {
			continue // no wider than it was
		}
		if msg := f.beyond(k, parent); msg != "" {
			return &InvalidError{Field: f.Name, Msg: msg}
		}
	}
	return nil
}

// KeepsFamily refuses a change that a child, or a key with children, must not undergo.
// window is the key's account in the present window.
func (k *Key) KeepsFamily(r store.Reader, old *Key, window *Account) error {
	if k.Attached() {
		parent, _, err := ReadKey(r, k.Parent)
		if err != nil {
			return err
		}
		for _, kind := range LimitKinds {
			if had, limit := old.Limit[kind], k.Limit[kind]; had != NoLimit && (limit == NoLimit || limit > had) {
				return Invalid(kind.LimitField(), "of a child key cannot be raised by a change: grant it more, which comes out of its parent")
			}
		}
		if err := k.Within(old, parent); err != nil {
			return err
		}
	}
	if !k.Delegate {
		return nil
	}
	children, err := CountChildren(r, k.ID)
	if err != nil || children == 0 {
		return err
	}
	if k.Charge != old.Charge {
		return Invalid("charge", "cannot be changed while the key has child keys, %d of them, whose it is, too: revoke them first", children)
	}
	for _, kind := range LimitKinds {
		had, limit, least := old.Limit[kind], k.Limit[kind], window.Given[kind]+window.Reserved[kind]
		switch {
		case limit == NoLimit:
		case had == NoLimit:
			return Invalid(kind.LimitField(), "cannot be set while the key has child keys, %d of them, which it would not bind: revoke them first", children)
		case limit < had && limit < least && window.Given[kind] > 0:
			return Invalid(kind.LimitField(), "cannot be lowered to %s: %s of it are used, held or given to child keys, which it would not bind. Lower it to no less than that, or revoke all child keys first", kind.Format(limit), FormatAmount(kind, least))
		}
	}
	return nil
}

// Widens reports whether a change lets a key do more than before.
func (k *Key) Widens(old *Key) bool {
	for _, f := range KeyFields {
		if f.widens != nil && f.widens(k, old) || f.widens == nil && f.beyond(k, old) != "" {
			return true
		}
	}
	return false
}
