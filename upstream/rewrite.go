package upstream

import (
	"math"
	"strconv"
)

// Rewrite returns the request's body with what a limit needs, and everything
// else as it was: answers bounded by output tokens, where that is not below 0,
// and usage asked for in a stream that would not report it. It is called once.
func (e *Estimate) Rewrite(output int64) []byte {
	b := []byte(e.object)
	e.Forget()
	if output >= 0 && e.outer != "" {
		name := e.outer
		if _, _, ok := memberOf(b, "generation_config"); ok && name == "generationConfig" {
			name = "generation_config"
		}
		inner := []byte("{}")
		if from, to, ok := memberOf(b, name); ok && b[from] == '{' {
			inner = b[from:to]
		}
		b = setMember(b, name, setMember(inner, e.field, strconv.AppendInt(nil, output, 10)))
	} else if output >= 0 && e.field != "" {
		value := strconv.AppendInt(nil, output, 10)
		for _, name := range []string{e.also, e.field} {
			if from, _, ok := memberOf(b, name); name == e.field || e.both || ok && b[from] != 'n' {
				b = setMember(b, name, value)
			}
		}
		for _, name := range bounds {
			if e.statedBeside <= output {
				break
			}
			if from, to, ok := memberOf(b, name); ok && name != e.field && name != e.also {
				if n, err := count(name, b[from:to], math.MaxInt32); err == nil && n > output {
					b = setMember(b, name, value)
				}
			}
		}
	}
	if e.askUsage {
		options := []byte("{}")
		if from, to, ok := memberOf(b, "stream_options"); ok && b[from] == '{' {
			options = b[from:to]
		}
		b = setMember(b, "stream_options", setMember(options, "include_usage", []byte("true")))
	}
	return b
}

// DontAsk leaves a stream as it is that would be asked for its usage.
func (e *Estimate) DontAsk() { e.askUsage = false }

// Written names the fields that Rewrite adds to a request and its client did not
// send: that of the output bound where none was stated, and the one that asks for
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

// Forget drops the request's text, which otherwise stays in memory for as long as
// the estimate is used.
func (e *Estimate) Forget() { e.object, e.list, e.reader = nil, nil, content{} }

// HidesUsage reports whether the stream will hold an event that the client did
// not ask for; see [Meter.Hide].
func (e *Estimate) HidesUsage() bool { return e.askUsage }

// memberOf finds the value of a member in a valid JSON object.
func memberOf(b []byte, want string) (from, to int, ok bool) {
	i := 1
	for {
		i += spaces(b[i:])
		if b[i] == '}' {
			return 0, 0, false
		}
		n := skipString(b[i:])
		name, err := text(b[i : i+n])
		i += n
		i += spaces(b[i:])
		n = skipValue(b[i:])
		if err == nil && name == want {
			return i, i + n, true
		}
		i += n
	}
}

// setMember returns a valid JSON object with one member changed, or put first.
func setMember(b []byte, name string, value []byte) []byte {
	out := make([]byte, 0, len(b)+len(name)+len(value)+4)
	if from, to, ok := memberOf(b, name); ok {
		out = append(append(out, b[:from]...), value...)
		return append(out, b[to:]...)
	}
	out = append(append(append(out, '{', '"'), name...), '"', ':')
	out = append(out, value...)
	if rest := b[1+spaces(b[1:]):]; rest[0] != '}' {
		out = append(out, ',')
	}
	return append(out, b[1:]...)
}
