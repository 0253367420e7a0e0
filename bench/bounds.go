package main

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/till-proxy/till/upstream"
)

// vocabulary is a vocabulary of tokenizers/count.mjs, with an upstream whose models
// use one like it.
type vocabulary struct{ name, preset string }

var vocabularies = []vocabulary{
	{"o200k", "openai"}, {"cl100k", "openai"}, {"claude2", "anthropic"}, {"gemini", "gemini"}, {"gemma3", "together"},
	{"qwen3", "fireworks"}, {"deepseek3", "deepseek"}, {"llama3", "groq"}, {"llama2", "together"}, {"mistral", "mistral"},
}

const (
	promptBytes = 40_000 // of the first request: the size with which agents begin
	turnBytes   = 900    // of each later question, and of each answer
	lastTurn    = 10
	// goalTurn is the largest bound from the second turn on, relative to the true
	// count.
	goalTurn = 1.3
	// A chat template adds about this many tokens: per message, and once.
	ofMessage, ofTemplate = 4, 3
)

// reportBounds prints the ratio of held to true input tokens, for texts in all
// scripts. It fails if a bound is below the truth, and with strict also if it misses
// the goal.
func reportBounds(w io.Writer, strict bool) error {
	counts, end, err := startCounting()
	if err != nil {
		return err
	}
	defer end()
	printed := []struct {
		turn int
		rows [][]float64
	}{{turn: 1}, {turn: 2}, {turn: lastTurn}}
	var worst error
	for i, script := range scripts {
		messages := talk(script.sentences, uint64(i))
		tokens, err := counts(messages)
		if err != nil {
			return err
		}
		for i := range printed {
			printed[i].rows = append(printed[i].rows, nil)
		}
		for i, v := range append(slices.Clone(vocabularies), vocabularies[0]) {
			escaped := i == len(vocabularies)
			ratios, err := boundsOf(v, messages, tokens, escaped)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", script.name, v.name, err)
			}
			worst = errors.Join(worst, judgeBounds(script.name, v.name, ratios, strict))
			for _, p := range printed {
				last := len(p.rows) - 1
				p.rows[last] = append(p.rows[last], ratios[p.turn-1])
			}
		}
		worst = errors.Join(worst, judgeHostile(script, uint64(i), counts))
	}
	for _, p := range printed {
		title := fmt.Sprintf("turn %d of a conversation", p.turn)
		if p.turn == 1 {
			title = fmt.Sprintf("first request, %d bytes of text", promptBytes)
		}
		printBounds(w, "Bound ÷ true count, "+title+":", p.rows)
	}
	return worst
}

func judgeBounds(script, vocabulary string, ratios []float64, strict bool) error {
	for i, r := range ratios {
		if r < 1 {
			return fmt.Errorf("%s by %s: turn %d is held at %.3f of its tokens", script, vocabulary, i+1, r)
		}
		if strict && i > 0 && r > goalTurn {
			return fmt.Errorf("%s by %s: turn %d is held at %.2f × its tokens, want at most %.2f", script, vocabulary, i+1, r, goalTurn)
		}
	}
	return nil
}

// judgeHostile returns an error if a conversation that begins with ordinary text, and
// goes on with any letters of its script, has a bound below its true count.
func judgeHostile(s script, seed uint64, counts func([]string) ([]map[string]int64, error)) error {
	messages := []string{strings.Join(s.sentences, " "), "", ""}
	first, _ := utf8.DecodeRuneInString(messages[0])
	var letters []rune // those of the script's block, rare ones included
	for r := first &^ 0x7f; r <= first|0x7f; r++ {
		if unicode.In(r, unicode.L, unicode.M, unicode.N) {
			letters = append(letters, r)
		}
	}
	random := rand.New(rand.NewPCG(seed, 2027))
	for i := 1; i < len(messages); i++ {
		for len(messages[i]) < 2*turnBytes {
			messages[i] += string(letters[random.IntN(len(letters))])
			if random.IntN(8) == 0 {
				messages[i] += " "
			}
		}
	}
	tokens, err := counts(messages)
	if err != nil {
		return err
	}
	var worst error
	for _, v := range vocabularies {
		ratios, err := boundsOf(v, messages, tokens, false)
		if err != nil {
			return fmt.Errorf("%s, %s: %w", s.name, v.name, err)
		}
		worst = errors.Join(worst, judgeBounds(s.name+" of any letters", v.name, ratios, false))
	}
	return worst
}

func printBounds(w io.Writer, title string, rows [][]float64) {
	fmt.Fprintf(w, "%s\n\n%-11s", title, "")
	for _, v := range vocabularies {
		fmt.Fprintf(w, "%10s", v.name)
	}
	fmt.Fprintf(w, "%10s\n", `o200k, \u`)
	for i, row := range rows {
		fmt.Fprintf(w, "%-11s", scripts[i].name)
		for _, r := range row {
			fmt.Fprintf(w, "%10.2f", r)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
}

// scripts are ordinary texts of our own in fourteen scripts: a few sentences each on
// subjects that people discuss with a model.
var scripts = func() (all []script) {
	for text := range strings.SplitSeq(strings.TrimSpace(scriptsFile), "\n\n") {
		lines := strings.Split(text, "\n")
		all = append(all, script{lines[0], lines[1:]})
	}
	return all
}()

type script struct {
	name      string
	sentences []string
}

//go:embed scripts.txt
var scriptsFile string

// talk returns a conversation: alternating questions and answers, no two of them
// alike.
func talk(sentences []string, seed uint64) []string {
	random := rand.New(rand.NewPCG(seed, 2026))
	messages := make([]string, 2*lastTurn-1)
	for i := range messages {
		size := turnBytes
		if i == 0 {
			size = promptBytes
		}
		var b strings.Builder
		for b.Len() < size {
			b.WriteString(sentences[random.IntN(len(sentences))])
			b.WriteString(" ")
			if random.IntN(4) == 0 {
				b.WriteString(strconv.Itoa(random.IntN(2000)) + ". ")
			}
		}
		messages[i] = b.String()
	}
	return messages
}

// boundsOf returns the ratio of bound to true count for each turn's request, after
// the turns before it were answered and reported their counts.
func boundsOf(v vocabulary, messages []string, tokens []map[string]int64, escaped bool) ([]float64, error) {
	preset, ok := upstream.Lookup(v.preset)
	if !ok {
		return nil, fmt.Errorf("no preset %s", v.preset)
	}
	var excess error
	memory := upstream.NewMemory(func(x upstream.Excess) {
		excess = fmt.Errorf("%d tokens were held for %d", x.Bound, x.Reported)
	})
	var ratios []float64
	for turn := range (len(messages) + 1) / 2 {
		sent := 2*turn + 1
		call := &upstream.Call{Method: "POST", ContentType: "application/json", Body: chatBody(preset, messages[:sent], escaped)}
		call.Path = map[upstream.Dialect]string{upstream.Anthropic: "/v1/messages", upstream.Gemini: "/v1beta/models/m:generateContent"}[preset.Dialect]
		if call.Path == "" {
			call.Path = preset.Prefix + "/chat/completions"
		}
		e, err := preset.Estimate(call)
		if err != nil {
			return nil, err
		}
		actual := int64(ofTemplate)
		for _, n := range tokens[:sent] {
			actual += n[v.name] + ofMessage
		}
		bound := e.Input
		if recall := memory.Recall("key", v.preset, preset, call, e); recall != nil {
			if recall.Input >= 0 {
				bound = min(bound, recall.Input)
			}
			memory.Learn(recall, actual, "m", true)
		}
		ratios = append(ratios, float64(bound)/float64(actual))
	}
	return ratios, excess
}

// chatBody returns a request in the preset's own form.
func chatBody(p *upstream.Preset, messages []string, escaped bool) []byte {
	var b strings.Builder
	open, end, roles := `{"model":"m","max_tokens":100,"messages":[`, "]}", [2]string{"user", "assistant"}
	form := `{"role":"%s","content":%s}`
	if p.Dialect == upstream.Gemini {
		open, form, roles[1] = `{"contents":[`, `{"role":"%s","parts":[{"text":%s}]}`, "model"
	}
	b.WriteString(open)
	for i, m := range messages {
		if i > 0 {
			b.WriteByte(',')
		}
		text := `"` + m + `"` // nothing in it needs escaping
		if escaped {
			text = strconv.QuoteToASCII(m)
		}
		fmt.Fprintf(&b, form, roles[i%2], text)
	}
	b.WriteString(end)
	return []byte(b.String())
}

// startCounting runs the vocabularies. The function that it returns counts texts with
// all of them.
func startCounting() (counts func([]string) ([]map[string]int64, error), end func(), err error) {
	const dir = "bench/tokenizers"
	if _, err := os.Stat(dir + "/node_modules/gpt-tokenizer"); err != nil {
		return nil, nil, errors.New("the vocabularies are not installed; run: make bounds (or: npm ci, in " + dir + "), in the checkout")
	}
	cmd := exec.Command("node", dir+"/count.mjs")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	lines := bufio.NewReader(out)
	counts = func(texts []string) ([]map[string]int64, error) {
		all := make([]map[string]int64, len(texts))
		for i, text := range texts {
			if err := json.NewEncoder(in).Encode(text); err != nil {
				return nil, err
			}
			line, err := lines.ReadBytes('\n')
			if err == nil {
				err = json.Unmarshal(line, &all[i])
			}
			if err != nil {
				return nil, fmt.Errorf("counting: %w", err)
			}
		}
		return all, nil
	}
	return counts, func() { _ = in.Close(); _ = cmd.Wait() }, nil
}
