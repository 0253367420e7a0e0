package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// model is a stand-in for the vendors whose model follows the prompt: it calls the
// client's own tools, some in a row or several at once, and ends with a sentence. Its
// answers carry every field that the vendors' own types call possible, because
// clients send back what they were given. It keeps books.
type model struct {
	*httptest.Server
	streams chan struct{} // one value for each endless answer that began, while there is room

	mu          sync.Mutex
	books       books
	faults      []string
	finished    map[string]bool // errands whose results all came back
	environment bool            // was printed
}

// What the prompt asks of the model: which errand, of which kind, how many turns, and
// whether the last turn's answer never ends.
const assignmentForm = "[[errand=%s work=%s turns=%d endless=%t dir=%s]]"

var assignmentText = regexp.MustCompile(`\[\[errand=([\w-]+) work=(\w+) turns=(\d+) endless=(true|false) dir=([\w/.-]+)\]\]`)

// The kinds of work.
const (
	workLoop     = "loop"     // one file in each turn
	workParallel = "parallel" // two files in one turn, then one in each
	workPicture  = "picture"  // a picture first
	workShell    = "shell"    // prints its environment first
)

const (
	doneSaying = "The errand is done: every file came back."
	lostSaying = "The errand is lost: no result came back."
	leafMark   = "leaf-of-"
	pngMark    = "iVBORw0KGgo" // how a PNG begins in base64
)

// asked is a request, as every dialect has it.
type asked struct {
	errand, work, dir string
	turns             int
	endless           bool
	results           int    // of calls, that the request carries
	body              []byte // of the request
	tools             []ownTool
	model             string
	stream            bool
	thinks            bool // the client asked for thoughts
	sealed            bool // it wants them to send them back itself
	n                 int64
}

func newModel(t *testing.T) *model {
	m := &model{streams: make(chan struct{}, 64), finished: make(map[string]bool)}
	m.Server = httptest.NewServer(http.HandlerFunc(m.serve))
	t.Cleanup(func() {
		m.CloseClientConnections()
		m.Close()
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, f := range m.faults {
			t.Error("at the vendor: ", f)
		}
	})
	return m
}

func (m *model) fault(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = append(m.faults, fmt.Sprintf(format, args...))
}

// inItsPlace reports whether a request has the real key where the vendor of the path
// expects it, and nowhere else. What is no path of Gemini's can be that of several
// vendors.
func inItsPlace(r *http.Request) bool {
	at := []string{"X-Api-Key", "Authorization"}
	if rest, ok := strings.CutPrefix(r.URL.Path, "/v1beta/"); ok {
		at = []string{"X-Goog-Api-Key"}
		if strings.HasPrefix(rest, "openai/") || rest == "chat/completions" {
			at = []string{"Authorization"}
		}
	}
	var found []string
	for _, name := range []string{"X-Api-Key", "X-Goog-Api-Key", "Authorization"} {
		for _, value := range r.Header[name] {
			if want := map[bool]string{true: "Bearer "}[name == "Authorization"] + realKey; value != want {
				return false
			}
			found = append(found, name)
		}
	}
	return len(found) == 1 && slices.Contains(at, found[0]) && !strings.Contains(r.URL.RawQuery, "key=")
}

func (m *model) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // who asks went away before it had asked
	}
	if !inItsPlace(r) {
		m.fault("%s %s came with the credential elsewhere: %.12q, %.12q, %.20q", r.Method, r.URL.Path, r.Header["X-Api-Key"], r.Header["X-Goog-Api-Key"], r.Header["Authorization"])
		http.Error(w, "{}", http.StatusBadRequest)
		return
	}
	if bytes.Contains(body, []byte(realKey)) {
		m.fault("%s: the client knows the real key", r.URL.Path)
	}
	w.Header().Set("Content-Type", "application/json")
	if r.Method != http.MethodPost {
		fmt.Fprint(w, `{"object":"list","data":[],"models":[]}`)
		return
	}
	var q map[string]any
	if err := json.Unmarshal(body, &q); err != nil {
		m.fault("%s: %v", r.URL.Path, err)
		http.Error(w, "{}", http.StatusBadRequest)
		return
	}
	t := &asked{body: body, sealed: bytes.Contains(body, []byte("reasoning.encrypted_content"))}
	t.model, _ = q["model"].(string)
	t.stream, _ = q["stream"].(bool)
	t.thinks = q["thinking"] != nil
	t.tools = toolsIn(q["tools"], "", toolsIn(q["input"], "", nil))
	if found := assignmentText.FindSubmatch(body); found != nil {
		t.errand, t.work, t.dir = string(found[1]), string(found[2]), string(found[5])
		fmt.Sscan(string(found[3]), &t.turns)
		t.endless = string(found[4]) == "true"
	}
	name, method, _ := strings.Cut(path.Base(r.URL.Path), ":")
	a := &spoken{m: m, w: w, r: r, t: t}
	switch {
	case name == "count_tokens" || name == "input_tokens":
		fmt.Fprintf(w, `{"object":"response.input_tokens","input_tokens":%d}`, tokensIn(body))
		return
	case method == "countTokens":
		fmt.Fprintf(w, `{"totalTokens":%d}`, tokensIn(body))
		return
	case name == "messages":
		t.results, a.say = countOf(q["messages"], "type", "tool_result"), a.messages
	case name == "responses":
		t.results, a.say = countOf(q["input"], "type", "function_call_output")+countOf(q["input"], "type", "custom_tool_call_output"), a.responses
	case name == "completions":
		t.results, a.say = countOf(q["messages"], "role", "tool"), a.completions
	case name == "chat":
		t.results, a.say = countOf(q["messages"], "role", "tool"), a.cohere
	case method == "generateContent" || method == "streamGenerateContent":
		t.model, t.stream = name, method == "streamGenerateContent"
		t.results, a.say = countOf(q["contents"], "functionResponse", ""), a.gemini
	default:
		http.Error(w, `{"error":{"message":"no such path"}}`, http.StatusNotFound)
		return
	}
	if err := a.answer(); err != nil && r.Context().Err() == nil {
		m.fault("%s: %v", r.URL.Path, err)
	}
}

// countOf counts the objects anywhere in v that have a field of that value, or
// of any where it is "".
func countOf(v any, name, value string) (n int) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			n += countOf(e, name, value)
		}
	case map[string]any:
		if got, ok := v[name]; ok && (value == "" || got == value) {
			n++
		}
		for _, e := range v {
			n += countOf(e, name, value)
		}
	}
	return n
}

// What the clients call their tools, the best first.
var (
	readers  = []string{"Read", "read", "read_file", "view", "read_files", "ReadFile", "builtin_read_file"}
	shells   = []string{"Bash", "bash", "exec_command", "shell_command", "shell", "run_shell_command", "run_commands", "execute_command", "run_terminal_command", "builtin_run_terminal_command"}
	pictures = append([]string{"view_image"}, readers...)
)

// tokensIn is what the vendor counts for a request: fewer than any bound.
func tokensIn(body []byte) int64 { return int64(len(body))/8 + 1 }

// spoken is one answer.
type spoken struct {
	m      *model
	w      http.ResponseWriter
	r      *http.Request
	t      *asked
	say    func(said string, calls []call, in, out int64) error
	events int
}

// endlessPause is between two events of an answer that does not end.
const endlessPause = 20 * time.Millisecond

func (a *spoken) answer() error {
	calls, err := a.t.calls()
	if err != nil {
		return err
	}
	said := "Reading."
	if len(calls) == 0 {
		said = a.t.saying()
	}
	in, out := tokensIn(a.t.body), int64(40)
	a.m.mu.Lock()
	b := &a.m.books
	b.answers++
	a.t.n = b.answers
	b.input, b.output = b.input+in, b.output+out
	price, priced := matrixBooks[a.t.model]
	b.nano += in*price.input + out*price.output
	a.m.environment = a.m.environment || bytes.Contains(a.t.body, []byte("TILL_KEY=till_sk_"))
	if said == doneSaying {
		a.m.finished[a.t.errand] = true
	}
	a.m.mu.Unlock()
	if !priced {
		return fmt.Errorf("the books have no price of %q", a.t.model)
	}
	if a.t.stream {
		a.w.Header().Set("Content-Type", "text/event-stream")
	}
	return a.say(said, calls, in, out)
}

// isEndless reports whether this is the answer that never ends.
func (a *spoken) isEndless() bool {
	return a.t.endless && a.t.stream && a.t.results > 0 && len(a.t.tools) > 0
}

// forever says one thing again and again until who asks is gone.
func (a *spoken) forever(one func() error) error {
	select {
	case a.m.streams <- struct{}{}:
	default:
	}
	for {
		if err := one(); err != nil {
			return err
		}
		select {
		case <-a.r.Context().Done():
			return a.r.Context().Err()
		case <-time.After(endlessPause):
		}
	}
}

// event sends one event of a stream.
func (a *spoken) event(name string, data object) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	if name != "" {
		fmt.Fprintf(a.w, "event: %s\n", name)
	}
	if _, err := fmt.Fprintf(a.w, "data: %s\n\n", text); err != nil {
		return err
	}
	a.events++
	return http.NewResponseController(a.w).Flush()
}

func (a *spoken) whole(data object) error { return json.NewEncoder(a.w).Encode(data) }

// books are what the vendor counted.
type books struct{ answers, input, output, nano int64 }

func (b books) less(before books) books {
	return books{b.answers - before.answers, b.input - before.input, b.output - before.output, b.nano - before.nano}
}

func (m *model) book() books {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.books
}

// sawEnvironment reports whether a client's shell printed what is around it.
func (m *model) sawEnvironment() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.environment
}

func (m *model) hasFinished(errand string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.finished[errand]
}
