package limiter

import (
	"reflect"
)

// facts are what the audit log says of a key, under the names of the
// management API: everything that somebody chose or decided, no counter and no
// secret. What is not set is left out.
func (k *Key) facts() map[string]any {
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

// changes are the fields in which two states of a key differ. Either may be
// nil.
func changes(old, key *Key) map[string]Delta {
	var before, after map[string]any
	if old != nil {
		before = old.facts()
	}
	if key != nil {
		after = key.facts()
	}
	return deltas(before, after)
}

func deltas(before, after map[string]any) map[string]Delta {
	d := make(map[string]Delta)
	for name, v := range before {
		if now := after[name]; !reflect.DeepEqual(v, now) {
			d[name] = Delta{v, now}
		}
	}
	for name, v := range after {
		if _, was := before[name]; !was {
			d[name] = Delta{nil, v}
		}
	}
	return d
}
