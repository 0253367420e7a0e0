package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// replayed is what the stand-in of a vendor saw of one case.
type replayed struct {
	first  int64 // tokens of the first request
	stored int64 // tokens of its answer, which is kept at the vendor
	second int64 // tokens of the second request, at least; 0: none came
}

// hiddenThought is what each first answer has beyond what it shows.
const hiddenThought = 17_000

// memoir is a stand-in for a vendor that gives made answers, and reads the
// requests that hold them again. The second answer says nothing of what was
// used, so that the request is charged what was held for it.
type memoir struct {
	*httptest.Server
	wire    wire
	answers []schemaAnswer
	words   *vocabulary

	mu   sync.Mutex
	seen map[int]replayed
	errs []string
}

func newMemoir(t *testing.T, w wire, answers []schemaAnswer) *memoir {
	words, err := newVocabulary()
	if err != nil {
		t.Fatal(err)
	}
	m := &memoir{wire: w, answers: answers, words: words, seen: make(map[int]replayed)}
	m.Server = httptest.NewServer(m)
	t.Cleanup(func() {
		m.CloseClientConnections()
		m.Close()
		for _, e := range m.errs {
			t.Error("at the vendor: ", e)
		}
	})
	return m
}

func (m *memoir) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := m.serve(w, r); err != nil {
		m.mu.Lock()
		m.errs = append(m.errs, fmt.Sprintf("%s %s: %v", r.Method, r.URL.Path, err))
		m.mu.Unlock()
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

func (m *memoir) serve(w http.ResponseWriter, r *http.Request) error {
	n, err := strconv.Atoi(r.Header.Get("X-Test-Case"))
	if err != nil || n >= len(m.answers) {
		return fmt.Errorf("case %q: %w", r.Header.Get("X-Test-Case"), err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	var ask object
	if err := json.Unmarshal(body, &ask); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	tools := m.tokens(ask["tools"], "")
	input := m.tokens(ask[m.wire.list], "") + tools
	saw := m.seen[n]
	answer := with(m.answers[n].Answer, nil)
	if r.Header.Get("X-Test-Turn") == "2" {
		list, ok := ask[m.wire.list].([]any)
		switch {
		case ok && ask["previous_response_id"] == answer["id"] && answer["id"] != nil:
			input += saw.first + saw.stored - tools
		case !ok || len(list) < 3:
			return fmt.Errorf("%s holds no history: %.200s", m.wire.list, body)
		}
		saw.second = input + m.referred(list, tools, saw.stored)
		m.seen[n] = saw
		delete(answer, m.wire.usage)
		if m.wire.silent != nil {
			answer[m.wire.usage] = m.wire.silent
		}
		return m.write(w, answer, "")
	}
	saw.first = input
	for _, name := range m.wire.said {
		saw.stored = m.tokens(answer[name], "") + hiddenThought
	}
	m.seen[n] = saw
	answer[m.wire.usage] = copied(answer[m.wire.usage])
	m.wire.reports(answer, input, saw.stored)
	stream := ""
	if ask["stream"] == true || strings.Contains(r.URL.Path, ":stream") {
		stream = m.wire.stream(answer)
	}
	return m.write(w, answer, stream)
}

func (m *memoir) write(w http.ResponseWriter, answer object, stream string) error {
	if stream != "" {
		w.Header().Set("Content-Type", "text/event-stream")
		_, err := io.WriteString(w, stream)
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(answer)
}

// copied is a usage that can be written into.
func copied(value any) any {
	o, ok := value.(object)
	if !ok {
		return value
	}
	c := make(object, len(o))
	for name, value := range o {
		c[name] = copied(value)
	}
	return c
}

// tokens counts the strings in a value, and the names of what is in it: a vendor
// may read all of them. Of pictures it reads the picture.
func (m *memoir) tokens(value any, name string) (sum int64) {
	switch v := value.(type) {
	case string:
		if isPicture(v) {
			return 0
		}
		return m.words.count(v)
	case []any:
		for _, element := range v {
			sum += m.tokens(element, name)
		}
	case object:
		for name, member := range v {
			sum += m.words.count(name) + m.tokens(member, name)
		}
	}
	return sum
}

// pixel is how the only picture begins, in base64.
const pixel = "iVBORw0KGgo"

func isPicture(s string) bool {
	return strings.HasPrefix(s, pixel) || strings.HasPrefix(s, "data:image/png;base64,"+pixel)
}

// counted is what the second request of a case counts; 0: none came.
func (m *memoir) counted(n int) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen[n].second
}

// referred is what is not in a request but is read for it: a tool for each
// reference to one, and what was thought and is kept at the vendor.
func (m *memoir) referred(value any, tools, stored int64) (sum int64) {
	switch v := value.(type) {
	case []any:
		for _, element := range v {
			sum += m.referred(element, tools, stored)
		}
	case object:
		switch {
		case v["type"] == "tool_reference" && v["tool_name"] != nil: // Mistral's names one of its own
			sum += tools
		case v["type"] == "reasoning" && v["encrypted_content"] == nil:
			sum += stored
		}
		for _, member := range v {
			sum += m.referred(member, tools, stored)
		}
	}
	return sum
}

// turns is how far a case came.
type turns struct {
	Case  int
	Turn  int
	Error *thrown
}

// replay has the vendor's SDK send each answer back, with a key for each.
func replay(t *testing.T, s *server, dialect, mode string, keys []string) []turns {
	t.Helper()
	var cases strings.Builder
	for i, key := range keys {
		fmt.Fprintf(&cases, "{\"case\":%d,\"key\":%q}\n", i, key)
	}
	cmd := exec.Command("node", "sdk/replay.mjs", dialect, mode, "http://"+s.addr)
	endWithTests(cmd)
	cmd.Stdin = strings.NewReader(cases.String())
	said := new(syncBuffer)
	cmd.Stderr = said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []turns
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var one turns
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			t.Errorf("%v: %s", err, lines.Text())
		}
		all = append(all, one)
	}
	if err := cmd.Wait(); err != nil || len(all) != len(keys) {
		t.Fatalf("node: %v; %d outcomes of %d\n%s", err, len(all), len(keys), said)
	}
	return all
}

// replayMax is the longest answer that sdk/replay.mjs asks for.
const replayMax = 21_000

// exception is what is refused by design, or what an SDK itself cannot do.
type exception struct {
	kinds *regexp.Regexp
	says  string // in the error
}

func except(kinds, says string) exception { return exception{regexp.MustCompile(kinds), says} }

const runsThere = "may run at the provider"

// exceptions are all that there are, by dialect: definitions of tools that the
// provider would run, for fees of its own; stored files, which may hold anything;
// and what asks the provider to act.
var exceptions = map[string][]exception{
	"openai-chat": {
		// Sound is only made where modalities ask for it, which is refused.
		except(`/audio$`, `"audio" may point at what is not in the request`),
		// The accumulator of openai 6.49.0 knows calls of functions alone.
		except(`/custom$`, "missing choices[0].tool_calls[0].function.name"),
	},
	"openai-responses": {
		except(`^(additional_tools|tool_search_output)/(code_interpreter|file_search|image_generation|mcp|programmatic_tool_calling|shell|tool_search|web_search)`, runsThere),
		except(`_output/(input_image|computer_screenshot)`, `"file_id" points at what is not in the request`),
		except(`_output/input_file`, `"file_url" points at what is not in the request`),
		// The provider calls a server of tools once it is approved, in the request
		// that the approval is sent with.
		except(`^mcp_approval_(request|response)`, `content of type "mcp_approval_response"`),
	},
	"anthropic-beta-messages": {
		except(`/tool_definition/(advisor|code_execution|mcp_toolset|web_fetch|web_search)`, runsThere),
	},
	"gemini": {
		except(`fileData`, `"fileData" points at what is not in the request`),
	},
	"mistral": {
		except(`/file`, `"file_id" points at what is not in the request`),
	},
}

// TestWhatAVendorAnswersMayBeSentBack has every answer that the vendors' types
// allow sent back by the vendor's own SDK, on keys that are limited in dollars:
// the next request is admitted, and no less is held for it than it counts.
func TestWhatAVendorAnswersMayBeSentBack(t *testing.T) {
	if raced {
		t.Skip("with the race detector a vendor's counting of tokens takes minutes; make thorough runs it without")
	}
	t.Parallel()
	made := schemaAnswers(t)
	for dialect, w := range wires {
		answers := made[dialect]
		if len(answers) == 0 {
			t.Errorf("no answers are made for %s", dialect)
		}
		used := make([]atomic.Int64, len(exceptions[dialect]))
		t.Run(dialect, func(t *testing.T) {
			t.Parallel()
			t.Cleanup(func() {
				for i, e := range exceptions[dialect] {
					if used[i].Load() == 0 && !t.Failed() {
						t.Errorf("nothing is refused any more because it says %s: take that off the exceptions", e.says)
					}
				}
			})
			for _, mode := range w.modes() {
				t.Run(mode, func(t *testing.T) {
					t.Parallel()
					sendBack(t, dialect, mode, answers, used)
				})
			}
		})
	}
	for dialect := range made {
		if _, ok := wires[dialect]; !ok {
			t.Errorf("how answers of %s look on the wire is not known", dialect)
		}
	}
}

// sendBack has the answers of one dialect sent back, and counts the exceptions.
func sendBack(t *testing.T, dialect, mode string, answers []schemaAnswer, used []atomic.Int64) {
	w := wires[dialect]
	m := newMemoir(t, w, answers)
	prices := filepath.Join(t.TempDir(), "prices.json")
	row := fmt.Sprintf(`{"schema":"till.prices/1","models":[{"provider":%q,"id":"m","input":1,"output":2,"context_window":400000,"max_output_tokens":32000}]}`, w.vendor)
	if err := os.WriteFile(prices, []byte(row), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newServer(t, options{vendor: upstreamtest.Vendor(w.vendor), to: m.URL, more: "prices " + prices})
	ids, keys := make([]string, len(answers)), make([]string, len(answers))
	for i := range answers {
		ids[i], keys[i] = s.mint(object{"max_spend_usd": "1000"})
	}
	for _, one := range replay(t, s, dialect, mode, keys) {
		kind := answers[one.Case].Kind
		if one.Error != nil {
			i := slices.IndexFunc(exceptions[dialect], func(e exception) bool {
				return e.kinds.MatchString(kind) && strings.Contains(one.Error.Message, e.says)
			})
			if i < 0 {
				t.Errorf("%s: request %d: %s", kind, one.Turn, one.Error)
				continue
			}
			used[i].Add(1)
			continue
		}
		s.used(ids[one.Case])
		held := int64(s.show(ids[one.Case])["tokens_by_kind"].(object)["unmeasured"].(float64)) - replayMax
		if counted := m.counted(one.Case); counted == 0 || held < counted {
			t.Errorf("%s: %d tokens were held for a request of %d", kind, held, counted)
		}
	}
}

// TestAnswersHoldWhatTheTypesHave names a few, so that types which are not read
// any more are noticed.
func TestAnswersHoldWhatTheTypesHave(t *testing.T) {
	t.Parallel()
	for dialect, kinds := range map[string][]string{
		"openai-chat":             {"assistant/url_citation/function", "assistant/url_citation/custom"},
		"openai-responses":        {"reasoning/summary_text/reasoning_text", "message/output_text/container_file_citation", "tool_search_output/namespace/function", "function_call/direct"},
		"anthropic-messages":      {"tool_use/direct", "text/search_result_location", "tool_search_tool_result/tool_search_tool_search_result/tool_reference"},
		"anthropic-beta-messages": {"compaction/tool_addition/tool_reference", "mcp_tool_result/text", "thinking"},
		"gemini":                  {"functionCall", "toolCall", "text"},
		"mistral":                 {"assistant/thinking/reference", "assistant/function"},
		"cohere":                  {"assistant/function/text/TEXT_CONTENT/tool"},
		"groq":                    {"assistant/function_citation/bar/function"},
	} {
		for _, kind := range kinds {
			if !slices.ContainsFunc(schemaAnswers(t)[dialect], func(a schemaAnswer) bool { return a.Kind == kind }) {
				t.Errorf("%s: no answer is of kind %s", dialect, kind)
			}
		}
	}
}
