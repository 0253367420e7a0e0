// Command genprices makes till's price table from collected figures:
//
//	go run ./upstream/genprices FIGURES.json > upstream/prices.json
//
// It reads a file of the schema till.prices/1 with any further notes of its
// collector, keeps what till reads, and leaves out what cannot be right. It reports
// what it leaves out on standard error.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
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
	var lines []map[string]any
	for _, m := range in.Models {
		if line := keep(m); line != nil {
			lines = append(lines, line)
		}
	}
	slices.SortFunc(lines, func(a, b map[string]any) int { return strings.Compare(name(a), name(b)) })
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
	log.Printf("%d of %d models kept", len(lines), len(in.Models))
}

func name(m map[string]any) string { return fmt.Sprint(m["provider"], "/", m["id"]) }

// corrected are figures that collectors have wrong, each with its source.
var corrected = map[string]map[string]any{
	// fastgpt-plugin#297; OpenAI documents the siblings gpt-5.1- and
	// gpt-5.2-chat-latest with these figures.
	"openai/gpt-5-chat-latest": {"context_window": 128_000, "max_output_tokens": 16_384},
	// Pictures have a price of their own: https://cohere.com/pricing, Embed 4.
	"cohere/embed-v4.0": {"input_image": 0.47},
	// The model's card states a window of 256k, as its siblings have.
	"mistral/ministral-3b-2512": {"context_window": 262_144},
}

var fields = []string{"provider", "id", "alias_regex", "input", "output", "cached_input", "cache_write", "cache_write_1h",
	"context_window", "max_output_tokens", "as_of", "source", "confidence"}

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
	for field, v := range corrected[name(line)] {
		line[field] = v
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
			kept = append(kept, tier)
		}
		line["tiers"] = kept
	}
	return line
}
