package record

import "reflect"

// Facts are what the audit log says of a key, under the names of the management API:
// everything that somebody chose or decided, but no counter and no secret. Unset
// fields are left out.
func (k *Key) Facts() map[string]any {
	facts := make(map[string]any, 16)
	for _, f := range KeyFields {
		if f.Name == "" {
			continue
		}
		if fact := f.Fact(k); fact != nil {
			facts[f.Name] = fact
		}
	}
	return facts
}

// Changes are the fields in which two states of a key differ. Either may be nil.
func Changes(old, key *Key) map[string]Delta {
	var before, after map[string]any
	if old != nil {
		before = old.Facts()
	}
	if key != nil {
		after = key.Facts()
	}
	return Deltas(before, after)
}

func Deltas(before, after map[string]any) map[string]Delta {
	d := make(map[string]Delta)
	for name, v := range before {
		if now := after[name]; !reflect.DeepEqual(v, now) {
			d[name] = Delta{Before: v, After: now}
		}
	}
	for name, v := range after {
		if _, was := before[name]; !was {
			d[name] = Delta{Before: nil, After: v}
		}
	}
	return d
}

// Delta is what a field was and what it is now; nil where it was or is not set. A
// value is text, a whole number, true or false, or a list or map of them.
type Delta struct {
	Before, After any
}
