package till

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/till-proxy/till/limiter/record"
	"github.com/till-proxy/till/upstream"
)

func newLearnt(t *testing.T, dir string) (*contradictions, *bytes.Buffer) {
	t.Helper()
	log := new(bytes.Buffer)
	count := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "contradictions_total"}, []string{"upstream", "option"})
	return newContradictions(filepath.Join(dir, "contradictions"), count, slog.New(slog.NewTextHandler(log, nil))), log
}

func localTarget(t *testing.T, c *contradictions, u Upstream) *target {
	t.Helper()
	if u.To == nil {
		u.To = []string{"http://127.0.0.1:8000"}
	}
	u.Preset = "openai"
	target, err := u.provision("mine")
	if err != nil {
		t.Fatal(err)
	}
	target.contradictions = c
	return target
}

// TestWhatWasLearntStandsUntilTheOptionIsSet: each case says whether a contradiction of
// an upstream with one configuration applies to it with another.
func TestWhatWasLearntStandsUntilTheOptionIsSet(t *testing.T) {
	t.Parallel()
	extra := func(n int64) *int64 { return &n }
	for _, test := range []struct {
		name, option string
		then, now    Upstream
		stands       bool
	}{
		{"nothing is set", outputFieldOption, Upstream{}, Upstream{}, true},
		{"another option is set", outputFieldOption, Upstream{}, Upstream{InputExtra: extra(9)}, true},
		{"it is set", outputFieldOption, Upstream{}, Upstream{OutputField: "both"}, false},
		{"it is set as it was", outputFieldOption, Upstream{OutputField: "both"}, Upstream{OutputField: "both"}, true},
		{"it is no longer set", outputFieldOption, Upstream{OutputField: "both"}, Upstream{}, true},
		{"it is set in another way", outputFieldOption, Upstream{OutputField: "both"}, Upstream{OutputField: "max_tokens"}, false},
		{"another address", outputFieldOption, Upstream{}, Upstream{To: []string{"http://127.0.0.1:8001"}}, false},
		{"one more address", outputFieldOption, Upstream{}, Upstream{To: []string{"http://127.0.0.1:8001", "http://127.0.0.1:8000"}}, true},
		{"input, nothing is set", inputExtraOption, Upstream{}, Upstream{}, true},
		{"input, the output is set", inputExtraOption, Upstream{}, Upstream{OutputField: "both"}, true},
		{"input, it is set", inputExtraOption, Upstream{}, Upstream{InputExtra: extra(200)}, false},
		{"input, it is set to less", inputExtraOption, Upstream{InputExtra: extra(200)}, Upstream{InputExtra: extra(100)}, true},
		{"input, it is set to as much", inputExtraOption, Upstream{InputExtra: extra(200)}, Upstream{InputExtra: extra(200)}, true},
		{"input, it is set to more", inputExtraOption, Upstream{InputExtra: extra(200)}, Upstream{InputExtra: extra(300)}, false},
		{"usage, nothing is set", askUsageOption, Upstream{}, Upstream{}, true},
		{"usage, it is to be asked for", askUsageOption, Upstream{}, Upstream{AskUsage: "on"}, false},
	} {
		c, _ := newLearnt(t, t.TempDir())
		if _, news := c.add(localTarget(t, c, test.then), contradiction{Option: test.option, Held: 100, Seen: 900}); !news {
			t.Errorf("%s: it is no news", test.name)
		}
		if got := c.find(localTarget(t, c, test.now), test.option); (got != nil) != test.stands {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

func TestWhatWasLearntIsKeptInAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, _ := newLearnt(t, dir)
	mine := localTarget(t, c, Upstream{})
	c.add(mine, contradiction{Option: outputFieldOption, Held: 1911, Seen: 40_000, KeyID: "key_x"})
	c.save()
	again, log := newLearnt(t, dir)
	if got := again.find(mine, outputFieldOption); got == nil || got.Seen != 40_000 || got.KeyID != "key_x" || got.At.IsZero() || log.Len() > 0 {
		t.Errorf("%+v %s", got, log)
	}
	// A file that cannot be read may contain a contradiction of any upstream.
	path := filepath.Join(dir, "contradictions")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := localTarget(t, c, Upstream{To: []string{"http://127.0.0.1:8001"}, OutputField: "both"})
	for name, content := range map[string]string{"cut": `[{"upstream":"mi`, "empty": "", "too long": "[" + strings.Repeat(" ", maxContradictionsFile) + "]", "exposed": string(whole)} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if name == "exposed" {
			if err := os.Chmod(path, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		broken, log := newLearnt(t, dir)
		for range 3 {
			got := broken.find(other, outputFieldOption)
			if got == nil || !strings.Contains(got.String(), "look into its log") || strings.Count(log.String(), "cannot be read") != 1 {
				t.Errorf("%s: %v; %s", name, got, log)
			}
		}
		if _, news := broken.add(other, contradiction{Option: askUsageOption}); news {
			t.Errorf("%s: something is learnt, which would replace the file", name)
		}
		if err := errors.Join(os.WriteFile(path, whole, 0o600), os.Chmod(path, 0o600)); err != nil {
			t.Fatal(err)
		}
		broken.nextTry = time.Time{}
		if broken.find(other, outputFieldOption) != nil || broken.find(mine, outputFieldOption) == nil {
			t.Errorf("%s: it was put back", name)
		}
	}
	// A store's directory that was moved away is not recreated.
	gone := filepath.Join(dir, "gone")
	c, log = newLearnt(t, gone)
	c.add(mine, contradiction{Option: outputFieldOption})
	c.save()
	if _, err := os.Stat(gone); !errors.Is(err, os.ErrNotExist) || !strings.Contains(log.String(), "a restart will forget it") {
		t.Errorf("%v: %s", err, log)
	}
}

func TestWhatIsLearntIsBoundedAndCountedOnce(t *testing.T) {
	t.Parallel()
	c, _ := newLearnt(t, t.TempDir())
	mine := localTarget(t, c, Upstream{})
	var news atomic.Int64
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if _, isNews := c.add(mine, contradiction{Option: outputFieldOption}); isNews {
				news.Add(1)
			}
		})
	}
	all.Wait()
	registry := prometheus.NewRegistry()
	if err := registry.Register(c.total); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil || len(families) != 1 || len(families[0].Metric) != 1 {
		t.Fatal(families, err)
	}
	if n := families[0].Metric[0].GetCounter().GetValue(); news.Load() != 1 || n != 1 {
		t.Errorf("it was news %d times, and counted %g", news.Load(), n)
	}
	for i := range 2 * maxContradictions {
		other := localTarget(t, c, Upstream{})
		other.name = fmt.Sprint("other", i)
		c.add(other, contradiction{Option: outputFieldOption})
	}
	if n := len(*c.list.Load()); n != maxContradictions {
		t.Errorf("%d are kept", n)
	}
}

// TestWhatAnAnswerContradicts: only a measured answer does, and only beyond the
// differences between servers' counts.
func TestWhatAnAnswerContradicts(t *testing.T) {
	t.Parallel()
	reported := func(input, output int64) string {
		return fmt.Sprintf(`{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}}`, input, output, input+output)
	}
	for _, test := range []struct {
		name, answer             string
		status                   int
		answers, natural, output int64
		want                     string
		held                     int64
	}{
		{"as it was bounded", reported(50, 100), 200, 1, 100, -1, "", 0},
		{"the end is counted", reported(50, 101), 200, 1, 100, -1, "", 0},
		{"more than was stated", reported(50, 117), 200, 1, 100, -1, outputFieldOption, 100},
		{"more than was written", reported(50, 80), 200, 1, 100, 50, outputFieldOption, 50},
		{"several answers", reported(50, 330), 200, 3, 100, -1, "", 0},
		{"more than several answers", reported(50, 349), 200, 3, 100, -1, outputFieldOption, 300},
		{"more input", reported(101, 100), 200, 1, 100, -1, inputExtraOption, 100},
		{"half a report", reported(0, 400), 200, 1, 100, -1, outputFieldOption, 100},
		{"more input, and no end", `data: {"choices":[]}`, 200, 1, 100, -1, "", 0},
		{"an error", reported(101, 400), 400, 1, 100, -1, "", 0},
		{"no answer is bounded", reported(50, 20), 200, 1, 0, -1, "", 0},
		{"nothing is said", `{"choices":[]}`, 200, 1, 100, -1, "", 0},
	} {
		u := &usage{estimate: &upstream.Estimate{Answers: test.answers, Input: 90, Permille: 1000, Asked: 1000}, input: 100,
			natural: test.natural, output: test.output, now: time.Now, meter: upstream.NewMeter(false), readToEnd: true}
		u.meter.Write([]byte(test.answer))
		u.meter.Close()
		if c, ok := u.contradicts(test.status); c.Option != test.want || ok != (test.want != "") || c.Held != test.held {
			t.Errorf("%s: %+v", test.name, c)
		}
	}
}

// TestARegionsPriceIsHeldAndCharged for the region in the address.
func TestARegionsPriceIsHeldAndCharged(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	price, ok := upstream.BuiltInPrices().Find("openai", "gpt-6-sol", now)
	if !ok {
		t.Fatal("no price")
	}
	plain := price.Cost(upstream.Usage{Input: 1000, Output: 100, CachedInput: -1, CacheWrite: -1, CacheWrite1h: -1, Nanodollars: -1}, 1000)
	for _, test := range []struct {
		to, multiply string
		permille     int64
	}{
		{"https://api.openai.com", "", 1000},
		{"https://eu.api.openai.com", "", 1100},
		{"https://eu.api.openai.com:8443/base", "", 1100},
		{"https://EU.api.openai.com.", "", 1100},
		{"https://reseller.example.com", "1.05", 1050},
		{"https://eu.api.openai.com", "1.05", 1155},
	} {
		target, err := (&Upstream{Preset: "openai", To: []string{test.to}, Multiply: json.Number(test.multiply)}).provision("mine")
		if err != nil {
			t.Fatal(err)
		}
		e, err := target.preset.Estimate(&upstream.Call{Method: "POST", Path: "/v1/chat/completions", ContentType: "application/json",
			Body: []byte(`{"model":"gpt-6-sol","max_tokens":100,"messages":[]}`)})
		if err != nil {
			t.Fatal(err)
		}
		u := &usage{estimate: e, price: price, priced: true, prices: upstream.BuiltInPrices(), provider: "openai", began: now,
			input: 1000, natural: 100, output: -1, now: func() time.Time { return now }, meter: target.preset.Meter(false), readToEnd: true}
		u.meter.Write([]byte(`{"model":"gpt-6-sol","choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":1000,"completion_tokens":100,"total_tokens":1100}}`))
		u.meter.Close()
		_, charged, measured := u.used(200)
		if want := (plain*test.permille + 999) / 1000; charged != want || !measured {
			t.Errorf("%s %s: charged %d, want %d", test.to, test.multiply, charged, want)
		}
		if held := u.bound(100)[record.Nanodollars]; held < charged {
			t.Errorf("%s %s: held %d, charged %d", test.to, test.multiply, held, charged)
		}
	}
}
