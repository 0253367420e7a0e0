package upstream

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// aVendor stores what was said, and counts all that a request refers to.
type aVendor struct {
	words   map[string]int64    // tokens of items
	context map[string][]string // items that an answer was given, and its own
	n       int
}

// TestWhatIsStoredIsNeverBoundedBelowWhatItCounts lets two keys talk to a vendor in
// every way that names what it stored: whole histories with thoughts by id or
// everything by reference, continuations of any answer, and ids of other keys and
// invented ones. Answers may leave out thoughts, as vendors do, be cut short, or end
// early.
func TestWhatIsStoredIsNeverBoundedBelowWhatItCounts(t *testing.T) {
	t.Parallel()
	const window, longest = 1_000_000, 20_000
	p := preset(t, "openai")
	price := &Price{Context: window, MaxOutput: longest}
	near, wide := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		v := &aVendor{words: map[string]int64{}, context: map[string][]string{}}
		m := NewMemory(func(x Excess) { t.Fatalf("%+v", x) })
		clock := time.Unix(1e9, 0)
		m.now = func() time.Time { return clock }
		var answers []string // of all keys
		own := map[string][]string{}
		for range rapid.IntRange(2, 30).Draw(t, "requests") {
			key := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key")
			model := rapid.SampledFrom([]string{"m", "m", "m", "n"}).Draw(t, "model")
			if rapid.IntRange(0, 20).Draw(t, "pause") == 0 {
				clock = clock.Add(answerLifetime / 2)
			}
			var items, members []string
			var context []string    // what the vendor reads
			pick := func() string { // an answer that the request goes on from, of this key or another
				from := own[key]
				if len(from) == 0 || rapid.IntRange(0, 9).Draw(t, "another's") == 0 {
					from = answers
				}
				if len(from) == 0 || rapid.IntRange(0, 19).Draw(t, "nobody's") == 0 {
					return ""
				}
				return from[max(0, len(from)-1-rapid.IntRange(0, 3).Draw(t, "back"))]
			}
			from, sealed := pick(), rapid.Bool().Draw(t, "sealed")
			switch how := rapid.IntRange(0, 3).Draw(t, "how"); {
			case from == "":
			case how == 0:
				members = append(members, `"previous_response_id":"`+from+`"`)
				context = append(context, v.context[from]...)
			default: // all that it was given, and its items
				for _, id := range v.context[from] {
					switch {
					case how == 1 && !strings.HasPrefix(id, "rs_"), strings.HasPrefix(id, "in_"): // it is written out
						items = append(items, `{"role":"user","content":"`+strings.Repeat("x", int(v.words[id]))+`"}`)
					case strings.HasPrefix(id, "rs_") && how == 1 && sealed:
						items = append(items, `{"type":"reasoning","id":"`+id+`","summary":[],"encrypted_content":"`+strings.Repeat("x", int(v.words[id]))+`"}`)
					case strings.HasPrefix(id, "rs_") && how < 3:
						items = append(items, `{"type":"reasoning","id":"`+id+`","summary":[]}`)
					default:
						items = append(items, `{"type":"item_reference","id":"`+id+`"}`)
					}
					context = append(context, id)
				}
			}
			v.n++
			fresh := fmt.Sprintf("in_%d", v.n)
			v.words[fresh] = int64(rapid.IntRange(1, 400).Draw(t, "said"))
			items = append(items, `{"role":"user","content":"`+strings.Repeat("x", int(v.words[fresh]))+`"}`)
			context = append(context, fresh)
			auto := rapid.IntRange(0, 7).Draw(t, "shortened") == 0
			if auto {
				members = append(members, `"truncation":"auto"`)
			}
			members = append(members, `"model":"`+model+`"`, `"input":[`+strings.Join(items, ",")+`]`)
			body := "{" + strings.Join(members, ",") + "}"
			e, err := p.Estimate(&Call{Method: "POST", Path: "/v1/responses", ContentType: "application/json", Body: []byte(body)})
			if err != nil {
				t.Fatalf("%v: %s", err, body)
			}
			r := m.Earlier(key, "u", p, e)
			bound, ok := r.Bound(e.Input, price, longest)
			all, read := int64(3), int64(3)
			for _, id := range context {
				n := v.words[id] + int64(rapid.IntRange(0, itemMargin).Draw(t, "template"))
				all += n
				if left := auto || strings.HasPrefix(id, "rs_"); !left || rapid.Bool().Draw(t, "is read") {
					read += n
				}
			}
			if all > window {
				continue // the vendor refuses it
			}
			if !ok || bound < all {
				t.Fatalf("bounded by %d, and has %d: %s", bound, all, body)
			}
			if r.Names() {
				if bound < 20*all+1000 {
					near++
				}
				wide++
			}
			// The same with the ids of other keys, and with invented ones.
			made := body
			for id := range v.words {
				if !strings.HasPrefix(id, "in_") && !slices.ContainsFunc(own[key], func(a string) bool { return slices.Contains(v.context[a], id) }) {
					begin, _, _ := strings.Cut(id, "_")
					made = strings.ReplaceAll(made, `"`+id+`"`, `"`+begin+`_`+strings.Repeat("z", len(id)-len(begin)-1)+`"`)
				}
			}
			for _, id := range answers {
				if !slices.Contains(own[key], id) {
					made = strings.ReplaceAll(made, `"`+id+`"`, `"resp_`+strings.Repeat("z", len(id)-5)+`"`)
				}
			}
			if made != body {
				other, err := p.Estimate(&Call{Method: "POST", Path: "/v1/responses", ContentType: "application/json", Body: []byte(made)})
				if err != nil {
					t.Fatal(err)
				}
				if n, _ := m.Earlier(key, "u", p, other).Bound(other.Input, price, longest); n != bound {
					t.Fatalf("%d for what others were given, %d for what nobody was: %s", bound, n, body)
				}
			}
			v.answer(t, m, r, key, model, context, read, bound, &answers, own)
		}
	})
	if near < wide/10 || wide == 0 {
		t.Errorf("only %d of %d bounds are anywhere near what is counted", near, wide)
	}
}

// answer has the vendor answer, and the memory learn.
func (v *aVendor) answer(t *rapid.T, m *Memory, r *Earlier, key, model string, context []string, read, held int64, answers *[]string, own map[string][]string) {
	v.n++
	id := fmt.Sprintf("resp_%d", v.n)
	var items []map[string]any
	var output int64
	for i := range rapid.IntRange(0, 12).Draw(t, "items") {
		item := fmt.Sprintf("%s_%d_%d", rapid.SampledFrom([]string{"rs", "rs", "fc", "msg"}).Draw(t, "kind"), v.n, i)
		v.words[item] = int64(rapid.IntRange(1, 1200).Draw(t, "words"))
		output += v.words[item]
		items = append(items, map[string]any{"id": item, "type": "x"})
		context = append(slices.Clone(context), item)
	}
	response := map[string]any{"id": id, "model": model + "-1", "output": items, "usage": map[string]any{"input_tokens": read, "output_tokens": output}}
	var said strings.Builder
	stream := rapid.Bool().Draw(t, "streamed")
	write := func(value any) {
		b, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		if stream {
			b = fmt.Appendf(nil, "data: %s\n\n", b)
		}
		said.Write(b)
	}
	if stream {
		write(map[string]any{"type": "response.created", "response": map[string]any{"id": id, "model": model + "-1", "output": []any{}}})
		for _, item := range items {
			write(map[string]any{"type": "response.output_item.done", "item": item})
		}
		write(map[string]any{"type": "response.completed", "response": response})
	} else {
		write(response)
	}
	passed := said.String()
	cut := rapid.IntRange(0, 4).Draw(t, "cut") == 0
	if cut {
		passed = passed[:rapid.IntRange(0, len(passed)-1).Draw(t, "at")]
	}
	meter := reads(passed, stream, rapid.IntRange(1, 50).Draw(t, "piece"))
	o := Outcome{Model: meter.Model(), Input: meter.Usage().Input, Output: 15_000, Held: held}
	if meter.Whole() {
		o.Output, o.Final = meter.Usage().Output, true
	}
	m.Teach(r, meter.IDs(), o)
	// It is stored whether or not it arrived.
	v.context[id] = context
	*answers = append(*answers, id)
	own[key] = append(own[key], id)
}
