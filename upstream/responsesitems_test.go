package upstream

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestWhatARequestNamesIsFound(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, body, want string }{
		{"thoughts", `"input":[{"role":"user","content":"x"},{"type":"reasoning","id":"rs_1","summary":[]}]`, `input[1] (reasoning "rs_1")`},
		{"thoughts that are here", `"input":[{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"gAAA"}]`, ""},
		{"thoughts of nothing", `"input":[{"type":"reasoning","id":"rs_1","encrypted_content":""}]`, `input[0] (reasoning "rs_1")`},
		{"thoughts of null", `"input":[{"encrypted_content":null,"id":"rs_1","type":"reasoning"}]`, `input[0] (reasoning "rs_1")`},
		{"thoughts of two contents", `"input":[{"encrypted_content":"x","encrypted_content":"","id":"rs_1","type":"reasoning"}]`, `input[0] (reasoning "")`},
		{"thoughts without a name", `"input":[{"type":"reasoning","summary":[]}]`, `input[0] (reasoning "")`},
		{"a reference", `"input":[{"type":"item_reference","id":"msg_1"}]`, `input[0] (item_reference "msg_1")`},
		{"a reference without its type", `"input":[{"id":"msg_1"}]`, `input[0] (item_reference "msg_1")`},
		{"a reference of no type", `"input":[{"id":"msg_1","type":null}]`, `input[0] (item_reference "msg_1")`},
		{"a reference of no type, or a message", `"input":[{"type":null,"id":"msg_1","type":"message"}]`, `input[0] (item_reference "msg_1")`},
		{"a reference of two names", `"input":[{"type":"item_reference","id":"msg_1","id":"msg_2"}]`, `input[0] (item_reference "")`},
		{"a message with a name", `"input":[{"id":"msg_1","role":"assistant","content":"x"}]`, ""},
		{"a call with a name", `"input":[{"id":"fc_1","type":"function_call","call_id":"c","name":"f","arguments":"{}"}]`, ""},
		{"escaped", `"input":[{"t\u0079pe":"item\u005freference","i\u0064":"msg\u005f1"}]`, `input[0] (item_reference "msg_1")`},
		{"an answer", `"input":"x","previous_response_id":"resp_1"`, `previous_response_id "resp_1"`},
		{"no answer", `"input":"x","previous_response_id":null,"conversation":null`, ""},
		{"a conversation", `"input":"x","conversation":"conv_1"`, `conversation "conv_1"`},
		{"a conversation in an object", `"input":"x","conversation":{"id":"conv_1"}`, `conversation "conv_1"`},
		{"a conversation that is none", `"input":"x","conversation":[1]`, `conversation ""`},
		{"text that looks so", `"input":"{\"type\":\"item_reference\",\"id\":\"x\"}","instructions":"previous_response_id"`, ""},
		{"what is no name", `"input":[{"type":"item_reference","id":"` + strings.Repeat("a\\n", 90) + `"}]`, `input[0] (item_reference "` + strings.Repeat(`a\n`, 32) + `")`},
	} {
		e, err := estimate(t, "openai", "/v1/responses", `{"model":"m",`+test.body+`}`)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		var got []string
		for _, s := range e.stored {
			got = append(got, s.String())
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: %q", test.name, got)
		}
	}
}

func FuzzStoredItems(f *testing.F) {
	for _, s := range []string{`[{"type":"item_reference","id":"x"}]`, `[{"id":"x"},[],1,"",null,{}]`, `[{"type":"reasoning","id":7,"encrypted_content":{}}]`, `[{"type":["reasoning"],"id":null}]`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, input string) {
		p, _ := Lookup("openai")
		e, err := p.Estimate(&Call{Method: "POST", Path: "/v1/responses", ContentType: "application/json", Body: []byte(`{"model":"m","input":` + input + `}`)})
		if err != nil || e == nil {
			return
		}
		var body struct{ Input any }
		if json.Unmarshal([]byte(`{"input":`+input+`}`), &body) != nil {
			return
		}
		list, _ := body.Input.([]any)
		want := 0
		for _, item := range list {
			o, ok := item.(map[string]any)
			if !ok {
				continue
			}
			sealed, _ := o["encrypted_content"].(string)
			if o["type"] == "item_reference" || o["type"] == nil && o["role"] == nil && o["id"] != nil || slices.Contains([]any{"reasoning", "compaction", "context_compaction"}, o["type"]) && sealed == "" {
				want++
			}
		}
		if len(e.stored) < want && len(e.stored) < maxStored { // members that stand twice may name more
			t.Fatalf("%d are named, found %+v", want, e.stored)
		}
		for _, s := range e.stored {
			if len(s.id) > maxStoredID || len(s.String()) > 600 {
				t.Fatalf("%q", s.id)
			}
		}
	})
}
