package upstream

import (
	"math"
	"slices"
	"strconv"
)

// rewriting is an object whose members are being changed or added.
type rewriting struct {
	rawObject
	fields []field
	more   []field // members that replace others, or are new
}

func (w *rewriting) get(name string) []byte {
	for _, f := range w.fields {
		if f.name == name {
			return f.value
		}
	}
	return nil
}

func (w *rewriting) set(name string, value []byte) { w.more = append(w.more, field{name, value}) }

// pieces returns the object with the members that were set, new ones first. Everything
// else shares the object's memory.
func (w *rewriting) pieces() [][]byte {
	size := len("{")
	for _, f := range w.more {
		size += len(f.name) + len(f.value) + len(`"":,`)
	}
	head := append(make([]byte, 0, size), '{')
	for i := len(w.more) - 1; i >= 0; i-- {
		if f := w.more[i]; w.get(f.name) == nil {
			head = append(append(append(head, '"'), f.name...), '"', ':')
			head = append(append(head, f.value...), ',')
		}
	}
	if len(w.fields) == 0 && len(head) > 1 {
		head = head[:len(head)-1] // no comma after the last member
	}
	all := [][]byte{head}
	done := 1
	for _, f := range w.fields {
		for _, changed := range w.more {
			if changed.name == f.name {
				at := cap(w.rawObject) - cap(f.value) // the value is a part of the object
				all = append(all, w.rawObject[done:at], changed.value)
				done = at + len(f.value)
			}
		}
	}
	return append(all, w.rawObject[done:])
}

// Rewrite returns the request's body with what a limit needs, and otherwise as it was:
// with answers bounded by output tokens, unless that is negative, with usage requested
// in a stream that would not report it, and with the standard tier named if NameTier
// says so. It may be called once. The body is returned in pieces, to be sent one after
// the other, because most of a large one is unchanged.
func (e *Estimate) Rewrite(output int64) [][]byte {
	w := rewriting{rawObject: e.object, fields: e.fields}
	e.Forget()
	value := strconv.AppendInt(nil, output, 10)
	if output >= 0 && e.outer != "" {
		name := e.outer
		if name == "generationConfig" && w.get("generation_config") != nil {
			name = "generation_config"
		}
		w.set(name, with(w.get(name), e.field, value))
	} else if output >= 0 && e.field != "" {
		for _, name := range []string{e.also, e.field} {
			if old := w.get(name); name == e.field || e.both || old != nil && old[0] != 'n' {
				w.set(name, value)
			}
		}
		for _, name := range bounds {
			if e.statedBeside <= output {
				break
			}
			if old := w.get(name); old != nil && name != e.field && name != e.also {
				if n, err := parseCount(name, old, math.MaxInt32); err == nil && n > output {
					w.set(name, value)
				}
			}
		}
	}
	if e.named {
		w.set(tierField, []byte(`"`+DefaultTier+`"`))
	}
	if e.askUsage {
		const options = "stream_options"
		w.set(options, with(w.get(options), "include_usage", []byte("true")))
	}
	return w.pieces()
}

// with returns an object with one member changed or added; if object is not an object,
// it makes one.
func with(object []byte, name string, value []byte) []byte {
	if len(object) == 0 || object[0] != '{' {
		object = []byte("{}")
	}
	w := rewriting{rawObject: object, fields: rawObject(object).fields()}
	w.set(name, value)
	return slices.Concat(w.pieces()...)
}

// DontAsk keeps Rewrite from requesting usage in a stream.
func (e *Estimate) DontAsk() { e.askUsage = false }

// Written returns the names of the fields that Rewrite adds and the client did not
// send: that of the output bound, if none was stated, and the one that requests
// usage.
func (e *Estimate) Written(bounded bool) (output, usage string) {
	if bounded && e.Stated < 0 {
		output = e.field
	}
	if e.askUsage && !e.ownOptions {
		usage = "stream_options"
	}
	return output, usage
}

// Forget drops the request's text, which otherwise stays in memory for as long as the
// estimate does.
func (e *Estimate) Forget() {
	e.object, e.fields, e.turns, e.stored, e.sent, e.reader = nil, nil, nil, nil, nil, content{}
}

// HidesUsage reports whether the stream will hold an event that the client did not
// request; see [Meter.Hide].
func (e *Estimate) HidesUsage() bool { return e.askUsage }
