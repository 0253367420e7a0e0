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
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/till-proxy/till/upstream/upstreamtest"
)

// replayed is what the stand-in of a vendor saw of one case.
type replayed struct {
	second int64 // tokens of the second request, at least; 0: none came
	stored int64 // tokens of the first answer, which is kept at the vendor
}

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
		if !ok || len(list) < 3 {
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
	for _, name := range m.wire.said {
		saw.stored = m.tokens(answer[name], "")
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
		case v["type"] == "tool_reference":
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
const replayMax = 4096

// TestWhatAVendorAnswersMayBeSentBack has every answer that the vendors' types
// allow sent back by the vendor's own SDK, on keys that are limited in dollars:
// the next request is admitted, and no less is held for it than it counts.
func TestWhatAVendorAnswersMayBeSentBack(t *testing.T) {
	t.Parallel()
	for dialect, answers := range schemaAnswers(t) {
		w, ok := wires[dialect]
		if !ok {
			t.Fatalf("nothing is known of dialect %s", dialect)
		}
		modes := []string{"plain"}
		if w.stream != nil {
			modes = append(modes, "stream")
		}
		for _, mode := range modes {
			t.Run(dialect+" "+mode, func(t *testing.T) {
				t.Parallel()
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
						t.Errorf("%s: request %d: %s", kind, one.Turn, one.Error)
						continue
					}
					s.used(ids[one.Case])
					held := int64(s.show(ids[one.Case])["tokens_by_kind"].(object)["unmeasured"].(float64)) - replayMax
					if counted := m.seen[one.Case].second; counted == 0 || held < counted {
						t.Errorf("%s: %d tokens were held for a request of %d", kind, held, counted)
					}
				}
			})
		}
	}
}
