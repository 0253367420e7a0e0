// Command genprices makes till's price table from collected figures:
//
//	go run ./upstream/genprices FIGURES.json > upstream/prices.json
//
// It reads a file of the schema till.prices/1 with any further notes of its
// collector, keeps what till reads, and leaves out what cannot be right. It reports
// what it leaves out on standard error. It fails if a price ends and no other follows
// it, and if a price is temporary but its end is not stated.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// providers maps the collector's names to those of till's presets.
var providers = map[string]string{"google": "gemini"}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: genprices FIGURES.json > prices.json")
	}
	b, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	var in struct {
		Schema string           `json:"schema"`
		AsOf   string           `json:"as_of"`
		Models []map[string]any `json:"models"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		log.Fatal(err)
	}
	if in.Schema != "till.prices/1" {
		log.Fatalf("schema %q is not till.prices/1", in.Schema)
	}
	if err := stillNeeded(in.AsOf); err != nil {
		log.Fatal(err)
	}
	var lines []map[string]any
	for _, m := range in.Models {
		line := keep(m)
		if line == nil {
			continue
		}
		lines = append(lines, line)
		if later, ok := successors[name(line)]; ok {
			next := maps.Clone(line)
			delete(next, "until")
			maps.Copy(next, later)
			lines = append(lines, next)
		}
	}
	slices.SortStableFunc(lines, func(a, b map[string]any) int { return strings.Compare(name(a), name(b)) })
	if err := endless(lines); err != nil {
		log.Fatal(err)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "{\"schema\":%q,\"as_of\":%q,\"models\":[\n", in.Schema, in.AsOf)
	for i, line := range lines {
		b, err := json.Marshal(line)
		if err != nil {
			log.Fatal(err)
		}
		out.Write(b)
		if i < len(lines)-1 {
			out.WriteByte(',')
		}
		out.WriteByte('\n')
	}
	out.WriteString("]}\n")
	if _, err := os.Stdout.WriteString(out.String()); err != nil {
		log.Fatal(err)
	}
	log.Printf("%d rows from %d models", len(lines), len(in.Models))
}

func name(m map[string]any) string { return fmt.Sprint(m["provider"], "/", m["id"]) }

// corrected are figures that collectors get wrong, each with its source.
var corrected = map[string]map[string]any{
	// fastgpt-plugin#297; OpenAI documents the siblings gpt-5.1- and
	// gpt-5.2-chat-latest with these figures.
	"openai/gpt-5-chat-latest": {"context_window": 128_000, "max_output_tokens": 16_384},
	// Pictures have a price of their own: https://cohere.com/pricing, Embed 4.
	"cohere/embed-v4.0": {"input_image": 0.47},
	// The model's card states a window of 256k, as its siblings have.
	"mistral/ministral-3b-2512": {"context_window": 262_144},
	// Promotional, and more since 1 December 2026: see successors. Its longest answer is
	// documented at https://ai.google.dev/gemini-api/docs/generate-content/latest-model.
	"gemini/gemini-4-argon":           {"until": "2026-11-30", "max_output_tokens": 65_536},
	"openai/gpt-5.6-sol":              {"until": "2026-11-30"},
	"openai/gpt-daybreak-blue-latest": {"until": "2026-11-30"},
	// No model that is called pro has a price for cached input
	// (https://vercel.com/ai-gateway/models/gpt-5.5-pro/faq); 0 leaves it out.
	"openai/gpt-5.5-pro": {"cached_input": 0.0},
}

// successors are the prices from the day after a promotion, as the vendors published
// them beside it. Where a source is uncertain about the day, the dearer price begins on
// the earlier one.
var successors = map[string]map[string]any{
	// https://ai.google.dev/gemini-api/docs/generate-content/latest-model and
	// https://github.com/BerriAI/litellm/discussions/46238
	"gemini/gemini-4-argon": {"from": "2026-12-01", "input": 4, "output": 20, "cached_input": 0.2, "as_of": "2026-12-01", "source": "ai.google.dev", "confidence": "high"},
	// https://ai.google.dev/gemini-api/docs/pricing: the price before the promotion.
	"gemini/gemini-3.6-flash": flashIn2027,
	"gemini/gemini-3.7-flash": flashIn2027,
	"gemini/gemini-3.8-flash": flashIn2027,
	"openai/gpt-5.6-sol":      solAfterPromotion,
	// It stands for gpt-5.6-sol: https://developers.openai.com/api/docs/models/gpt-daybreak-blue-latest
	"openai/gpt-daybreak-blue-latest": solAfterPromotion,
}

var (
	flashIn2027 = map[string]any{"from": "2027-01-01", "input": 1.5, "output": 7.5, "cached_input": 0.15, "as_of": "2026-12-01", "source": "ai.google.dev", "confidence": "high"}
	// OpenAI promised the lower price until 21 November 2026 at least, and returned to
	// the former one in December:
	// https://docs.apiyi.com/en/live/2026-12/gpt-5-6-gemini-4-price-adjustment
	solAfterPromotion = map[string]any{"from": "2026-12-01", "input": 5, "output": 30, "cached_input": 0.5, "cache_write": 6.25, "as_of": "2026-12-01", "source": "docs.apiyi.com", "confidence": "single-source",
		"tiers": []map[string]any{{"above_input_tokens": 272_000, "input": 10, "output": 45, "cached_input": 1, "cache_write": 12.5}}}
)

// stillNeeded returns an error if the collector may by now have the price that follows
// one corrected here: its figure would be replaced by an older one.
func stillNeeded(asOf string) error {
	for name, fields := range corrected {
		if until, ok := fields["until"].(string); ok && asOf > until {
			return fmt.Errorf("%s: the figures of %s may have the price after %s: compare, and remove the correction and its successor", name, asOf, until)
		}
	}
	return nil
}

// temporary matches notes about a price that ends.
var temporary = regexp.MustCompile(`(?i)promo|introduct|launch (price|rate|discount)|limited[- ]time`)

// dated returns an error if the notes say that a price ends, but not when.
func dated(line map[string]any, notes string) error {
	if line["until"] == nil && temporary.MatchString(notes) {
		return fmt.Errorf("%s: its price is for a time, and no end is said: %s", name(line), notes)
	}
	return nil
}

// endless returns an error if a price ends and no other follows it on the next day.
func endless(lines []map[string]any) error {
	begins := make(map[string]bool)
	for _, line := range lines {
		begins[fmt.Sprint(name(line), " ", line["from"])] = true
	}
	for _, line := range lines {
		until, ok := line["until"].(string)
		if !ok {
			continue
		}
		last, err := time.Parse(time.DateOnly, until)
		if err != nil {
			return fmt.Errorf("%s: until must be a date, got %q", name(line), until)
		}
		if next := last.AddDate(0, 0, 1).Format(time.DateOnly); !begins[name(line)+" "+next] {
			return fmt.Errorf("%s: the price ends on %s, and there is none from %s", name(line), until, next)
		}
	}
	return nil
}

var fields = []string{"provider", "id", "alias_regex", "input", "output", "cached_input", "cache_write", "cache_write_1h",
	"context_window", "max_output_tokens", "from", "until", "as_of", "source", "confidence"}

func keep(m map[string]any) map[string]any {
	if mode := m["mode"]; mode != "chat" && mode != "embedding" {
		log.Printf("%s: left out: %v is not billed by tokens of text alone", name(m), mode)
		return nil
	}
	if strings.Contains(fmt.Sprint(m["id"]), "latest") && m["disagrees_with"] != nil {
		log.Printf("%s: left out: what it points at moves, and so does its price", name(m))
		return nil
	}
	if strings.Contains(fmt.Sprint(m["id"]), "voxtral") {
		log.Printf("%s: left out: sound is billed by the minute", name(m))
		return nil
	}
	line := make(map[string]any)
	for _, field := range fields {
		if v, ok := m[field]; ok && v != nil && v != 0.0 {
			line[field] = v
		}
	}
	if provider, ok := providers[fmt.Sprint(m["provider"])]; ok {
		line["provider"] = provider
	}
	line["input"], line["output"] = m["input"], m["output"]
	maps.Copy(line, corrected[name(line)])
	if line["cached_input"] == 0.0 {
		delete(line, "cached_input")
	}
	input, _ := m["input"].(float64)
	if cached, ok := line["cached_input"].(float64); ok && (cached < input/50 || cached > input) {
		log.Printf("%s: cached input %g beside input %g is odd: the input's price applies", name(m), cached, input)
		delete(line, "cached_input")
	}
	units, _ := m["other_units"].(map[string]any)
	for field, names := range map[string][]string{"input_image": {"input_image_mtok"}, "input_media": {"input_audio_mtok", "input_video_mtok"}} {
		rate := input
		for _, unit := range names {
			r, _ := units[unit].(float64)
			rate = max(rate, r)
		}
		if rate > input {
			line[field] = rate
		}
	}
	notes := fmt.Sprint(m["notes"])
	if strings.Contains(notes, "weekdays 09-12 and 14-18 Beijing") && strings.Contains(notes, "off-peak is half") {
		line["off_peak"] = map[string]any{"permille": 500, "utc_offset_minutes": 480, "weekday_peaks": []string{"09:00-12:00", "14:00-18:00"}}
	}
	if _, until, ok := strings.Cut(notes, "through "); ok && len(until) >= len(time.DateOnly) {
		if _, err := time.Parse(time.DateOnly, until[:len(time.DateOnly)]); err == nil {
			line["until"] = until[:len(time.DateOnly)]
		}
	}
	if err := dated(line, notes); err != nil {
		log.Fatal(err)
	}
	if tiers, ok := m["tiers"].([]any); ok {
		var kept []map[string]any
		for _, t := range tiers {
			from, ok := t.(map[string]any)
			if !ok {
				continue
			}
			tier := make(map[string]any)
			for _, field := range []string{"above_input_tokens", "input", "output", "cached_input", "cache_write"} {
				if v, ok := from[field]; ok && v != nil {
					tier[field] = v
				}
			}
			if above, ok := from["above_input_tokens"].(float64); ok && strings.Contains(name(line), "grok-") {
				// A prompt of 200,000 tokens already costs more: https://docs.x.ai/developers/pricing
				tier["above_input_tokens"] = above - 1
			}
			kept = append(kept, tier)
		}
		line["tiers"] = kept
	}
	return line
}
