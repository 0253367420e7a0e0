package upstream

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Usage is what an upstream reports that a request used, in tokens. Fields that it
// did not report are -1, so that nothing is mistaken for zero.
type Usage struct {
	Input        int64 // all input, cached and written to a cache included
	CachedInput  int64 // of Input: read from a cache
	CacheWrite   int64 // of Input: written to a cache
	CacheWrite1h int64 // of CacheWrite: kept for an hour or longer, which costs more
	Output       int64 // all output, reasoning included
	// Nanodollars is the cost, if the upstream reports one.
	Nanodollars int64
}

// unreported is a Usage of which nothing is known.
var unreported = Usage{-1, -1, -1, -1, -1, -1}

// Unreported returns a Usage of which nothing is known.
func Unreported() Usage { return unreported }

// Known reports whether the upstream reported how many tokens were used.
func (u Usage) Known() bool { return u.Input >= 0 && u.Output >= 0 }

// Tokens returns the sum that a token limit counts.
func (u Usage) Tokens() int64 { return add(max(u.Input, 0), max(u.Output, 0)) }

// nothing reports whether no count is above 0, known or not.
func (u Usage) nothing() bool {
	return max(u.Input, u.CachedInput, u.CacheWrite, u.CacheWrite1h, u.Output, u.Nanodollars) <= 0
}

// merge keeps the highest report of each field: streams repeat their counts, which
// only grow.
func (u *Usage) merge(v Usage) {
	u.Input = max(u.Input, v.Input)
	u.CachedInput = max(u.CachedInput, v.CachedInput)
	u.CacheWrite = max(u.CacheWrite, v.CacheWrite)
	u.CacheWrite1h = max(u.CacheWrite1h, v.CacheWrite1h)
	u.Output = max(u.Output, v.Output)
	u.Nanodollars = max(u.Nanodollars, v.Nanodollars)
}

// add adds the counts of another report, as far as it has them.
func (u *Usage) add(v Usage) {
	sum := func(a *int64, b int64) {
		if b >= 0 {
			*a = add(max(*a, 0), b)
		}
	}
	sum(&u.Input, v.Input)
	sum(&u.CachedInput, v.CachedInput)
	sum(&u.CacheWrite, v.CacheWrite)
	sum(&u.CacheWrite1h, v.CacheWrite1h)
	sum(&u.Output, v.Output)
}

// add returns a+b for counts, saturating on overflow.
func add(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// usageCounts are the uninterpreted numbers of a usage object, by the field's name,
// preceded by the names of the objects around it.
type usageCounts map[string]int64

var spareCounts = sync.Pool{New: func() any { return make(usageCounts, 16) }}

// countedPaths are the fields that are looked for, each mapped to itself.
var countedPaths = func() map[string]string {
	m := make(map[string]string)
	for _, fields := range [][]string{inputFields, outputFields, cachedFields, writtenFields, longFields, shortFields, totalFields, thoughtFields, reasoningFields, toolFields, otherFields} {
		for _, field := range fields {
			m[field] = field
		}
	}
	return m
}()

// These are the vendors' names for the parts of their usage; the first that is
// present counts.
var (
	inputFields  = []string{"prompt_tokens", "input_tokens", "promptTokenCount", "total_input_tokens", "inputTokens", "prompt_eval_count"}
	outputFields = []string{"completion_tokens", "output_tokens", "candidatesTokenCount", "total_output_tokens", "outputTokens", "eval_count"}
	detailFields = []string{"prompt_tokens_details.cached_tokens", "input_tokens_details.cached_tokens"}
	cachedFields = append(slices.Clone(detailFields), "cachedContentTokenCount",
		"total_cached_tokens", "prompt_cache_hit_tokens", "cached_tokens", "num_cached_tokens")
	writtenFields = []string{"prompt_tokens_details.cache_write_tokens", "input_tokens_details.cache_write_tokens",
		"prompt_tokens_details.cache_creation_input_tokens", "prompt_tokens_details.cache_creation_tokens",
		"prompt_tokens_details.cached_creation_tokens", "input_tokens_details.cached_creation_tokens"}
	// The parts of what was written, by how long they are kept, as OpenAI (openai-ruby,
	// models/responses/response_usage.rb) and LiteLLM (CacheCreationTokenDetails) name them.
	longFields = []string{"input_tokens_details.cache_write_tokens_details.ttl_12h_tokens", "prompt_tokens_details.cache_write_tokens_details.ttl_12h_tokens",
		"prompt_tokens_details.cache_creation_token_details.ephemeral_1h_input_tokens"}
	shortFields = []string{"input_tokens_details.cache_write_tokens_details.ttl_30m_tokens", "prompt_tokens_details.cache_write_tokens_details.ttl_30m_tokens",
		"prompt_tokens_details.cache_creation_token_details.ephemeral_5m_input_tokens"}
	totalFields   = []string{"total_tokens", "totalTokenCount", "totalTokens"}
	thoughtFields = []string{"thoughtsTokenCount", "total_thought_tokens"}
	// Reasoning that is meant to be a part of the output; the last is SGLang's.
	reasoningFields = []string{"completion_tokens_details.reasoning_tokens", "output_tokens_details.reasoning_tokens", "output_tokens_details.thinking_tokens", "reasoning_tokens"}
	toolFields      = []string{"toolUsePromptTokenCount", "total_tool_use_tokens"}
	otherFields     = []string{"billed_units.input_tokens", "billed_units.output_tokens", "billed_units.image_tokens", "billed_units.images", "cache_read_input_tokens", "cache_creation_input_tokens",
		"cacheReadInputTokens", "cacheWriteInputTokens",
		"cache_creation.ephemeral_1h_input_tokens", "cache_creation.ephemeral_5m_input_tokens", "cost", "cost_in_usd_ticks",
		"cost_details.upstream_inference_cost", "is_byok"}
)

// maxUsageDepth bounds how deep a usage object is searched.
const maxUsageDepth = 3

// collect gathers the numbers in a usage object. null does not count; a count that is
// negative or a fraction is noted under noNumber, and a cost, which may be a fraction, under
// "$" and its field. path leads to the object, and its memory is reused.
func (c usageCounts) collect(path []byte, o rawObject, depth int) {
	for name, value := range o.members {
		if len(name) > maxFieldName {
			continue
		}
		path := append(path, name...)
		if value[0] == '{' && depth < maxUsageDepth {
			c.collect(append(path, '.'), rawObject(value), depth+1)
			continue
		}
		field, ok := countedPaths[string(path)]
		if !ok {
			continue
		}
		number := string(bytes.Trim(value, `"`))
		switch n, whole := wholeNumber(number); {
		case whole:
			c[field] = max(n, c[field])
		case field == "is_byok" && (value[0] == 't' || value[0] == 'f'):
			n := int64(0)
			if value[0] == 't' {
				n = 1
			}
			if old, twice := c[field]; twice && old != n {
				c[noNumber] = 1
			}
			c[field] = n
		case value[0] == 'n':
		case slices.Contains(inputFields, field), slices.Contains(outputFields, field), strings.HasPrefix(field, "billed_units."):
			c[noNumber] = 1
		default:
			if cost, ok := parseUSD(number); ok {
				c["$"+field] = max(cost, c["$"+field])
			}
		}
	}
}

// noNumber stands for an invalid count: negative, beyond reason, a fraction or words.
// A vendor that writes such a count is not believed in the rest either, like one that
// leaves a count out.
const noNumber = "!"

var (
	errNoNumber = errors.New("a count is no number")
	errNoRoom   = errors.New("the output has no room for the reasoning")
)

// wholeNumber reads a count. Some vendors write 100.0 (Cohere), 1e2 or "100".
func wholeNumber(s string) (int64, bool) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, n >= 0 && s[0] != '-' && s[0] != '+'
	}
	if len(s) == 0 || s[0] < '0' || s[0] > '9' || strings.ContainsAny(s, "xXpP_") {
		return 0, false
	}
	const most = 1 << 53 // up to here a float is exact
	f, err := strconv.ParseFloat(s, 64)
	return int64(f), err == nil && f == math.Trunc(f) && f < most
}

// maxFieldName is longer than the name of any field that is looked for.
const maxFieldName = 64

// parseUSD reads a decimal number of dollars as nano-dollars, rounded up.
func parseUSD(s string) (int64, bool) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f >= 0 && f <= 1e6) {
		return 0, false
	}
	return int64(math.Ceil(f * 1e9)), true
}

// first returns the first of the fields that was reported and is not 0; otherwise 0
// if one was reported, and -1 if none was.
func (c usageCounts) first(names ...string) int64 {
	found := int64(-1)
	for _, name := range names {
		if n, ok := c[name]; ok && found <= 0 {
			found = n
		}
	}
	return found
}

// usageOf reads a usage object by its contents, whichever vendor it is from: the
// vendors copy each other, and their copies differ. several says that it may be the
// sum of several answers. If there is an error, the returned Usage is what the rest of the
// object reports.
//
// Anthropic's counts leave out some of the iterations that it bills: those that write a
// summary (platform.claude.com/docs/en/build-with-claude/compaction-threshold), and the
// attempts of a model before another took over (ccusage/ccusage#1552).
func usageOf(o rawObject, several bool) (Usage, error) {
	u, err := countsOf(o, several)
	list := o.get("iterations")
	if err != nil || len(list) == 0 || list[0] != '[' {
		return u, err
	}
	all := unreported
	for iteration := range rawList(list).elements {
		one, err := unreported, errNoNumber
		if iteration[0] == '{' {
			one, err = countsOf(rawObject(iteration), several)
		}
		if err != nil {
			u.Input = -1
			return u, err
		}
		all.add(one)
	}
	u.merge(all)
	return u, nil
}

// countsOf reads the counts of a usage object, or of one of its iterations.
func countsOf(o rawObject, several bool) (Usage, error) {
	c := spareCounts.Get().(usageCounts)
	defer func() {
		clear(c)
		spareCounts.Put(c)
	}()
	var path [4 * maxFieldName]byte
	c.collect(path[:0], o, 0)
	if c.first("billed_units.input_tokens", "billed_units.output_tokens", "billed_units.image_tokens", "billed_units.images") >= 0 {
		// Cohere bills less than its model read. The tokens of pictures are not in those
		// of the text (cohere-ai, api/types, ApiMetaBilledUnits).
		u, pictures := unreported, max(c.first("billed_units.image_tokens"), 0)
		if pictures > 0 || c["billed_units.images"] == 0 {
			u.Input, u.Output = add(max(c.first("billed_units.input_tokens"), 0), pictures), max(c.first("billed_units.output_tokens"), 0)
		}
		return u, c.sound()
	}
	u := unreported
	u.Input = c.first(inputFields...)
	u.Output = c.first(outputFields...)
	u.CachedInput = c.first(cachedFields...)
	u.CacheWrite, u.CacheWrite1h = cacheWrites(c.first(writtenFields...), c.first(longFields...), c.first(shortFields...))
	total := c.first(totalFields...)
	stored, kept := cacheWrites(c.first("cache_creation_input_tokens", "cacheWriteInputTokens"), c.first("cache_creation.ephemeral_1h_input_tokens"), c.first("cache_creation.ephemeral_5m_input_tokens"))
	if read := c.first("cache_read_input_tokens", "cacheReadInputTokens"); read >= 0 || stored >= 0 {
		u.CachedInput, u.CacheWrite, u.CacheWrite1h = max(read, u.CachedInput, 0), max(stored, u.CacheWrite, 0), max(kept, u.CacheWrite1h)
		cached := add(max(read, 0), max(stored, 0))
		if (u.Input > 0 || u.Input == 0 && cached >= leastCached) && c.beside(u, cached, total) {
			u.Input = add(u.Input, cached)
		}
	}
	// Gemini counts thoughts and what its tools read separately.
	if n := c.first(thoughtFields...); n > 0 {
		u.Output = add(max(u.Output, 0), n)
	}
	if n := c.first(toolFields...); n > 0 {
		u.Input = add(max(u.Input, 0), n)
	}
	// OpenAI's names mean a part of the input. Gateways that write Claude's counts under
	// them leave the input as Claude counts it, without that part (QuantumNous/new-api#2744,
	// Helicone/helicone#5652). A prompt of 0 is not believed for that. Whether a total
	// includes that part is not known, so anything in it beyond the input and the output
	// counts as output, unless it is exactly the sum of all three: either way, never less
	// than was used.
	leftOut := int64(0)
	if cached, stored := c.first(detailFields...), c.first(writtenFields...); u.Input > 0 && max(cached, stored) > u.Input {
		leftOut = add(max(cached, 0), max(stored, 0))
	}
	switch {
	case total < 0:
	case u.Input < 0 && u.Output < 0:
		u.Input = total // embeddings have no output; for anything else the output stays unknown
	case u.Input >= 0 && u.Output < 0:
		u.Output = max(total-u.Input, 0) // 0 for embeddings
	}
	switch reasoning := c.first(reasoningFields...); {
	case u.Known() && total > u.Tokens() && total != add(u.Tokens(), leftOut):
		// xAI, for one, leaves reasoning out of the parts of its total. A total without room
		// for the reasoning contradicts it, and one of the two says too little.
		u.Output = add(u.Output, total-u.Tokens())
		if reasoning > u.Output {
			u.Output = -1
		}
	case reasoning > u.Output && u.Output > 0 && total < 0:
		u.Output = add(u.Output, reasoning) // it cannot be a part of that (vercel/ai#11487)
	case reasoning > u.Output && u.Output > 0:
		u.Output = reasoning // the total has no place for both (Kilo-Org/kilocode#9168)
	case reasoning > 0 && u.Output == 0:
		u.Output = -1
	}
	switch {
	case leftOut == 0:
	case several:
		// It may also be the sum of what each answer read from a cache, as SGLang once
		// counted, so the input is not known.
		u.Input = -1
	default:
		u.Input = add(u.Input, leftOut)
	}
	u.Nanodollars = c.cost()
	if u.Output < 0 && c.first(reasoningFields...) > 0 && c.first(outputFields...) >= 0 {
		return u, errNoRoom
	}
	return u, c.sound()
}

// leastCached is how many cached tokens a report needs for an input of 0 beside them to be
// believed. Anthropic caches 1,024 or more
// (platform.claude.com/docs/en/build-with-claude/prompt-caching), and servers that cache fewer
// compute, and count, at least the last token. A report with fewer leaves the prompt out.
const leastCached = 256

// cacheWrites returns how many tokens were written to a cache, and how many of them are
// kept for an hour or longer, from what a report says of all, of these, and of the rest;
// -1 for what it does not say. The parts may come without their sum, and parts of 0 beside
// a sum say nothing (anthropics/anthropic-sdk-java#353).
func cacheWrites(sum, long, short int64) (all, kept int64) {
	parts := add(max(long, 0), max(short, 0))
	if max(long, short) < 0 || parts == 0 && sum > 0 {
		return sum, -1
	}
	return max(sum, parts), long
}

// sound returns errNoNumber if a count was invalid.
func (c usageCounts) sound() error {
	if c[noNumber] > 0 {
		return errNoNumber
	}
	return nil
}

// beside reports whether so many cached tokens, under Anthropic's names, are counted
// beside the input and not within it. Anthropic and Bedrock count them beside it.
// Gateways copy the names into OpenAI's form, where they are within it (LiteLLM);
// they cannot be if there are more of them than input. If a total agrees with one of
// the two, it decides.
func (c usageCounts) beside(u Usage, cached, total int64) bool {
	parts := add(u.Input, max(u.Output, 0))
	switch _, bedrock := c["inputTokens"]; {
	case bedrock, cached > u.Input, cached > 0 && total == add(parts, cached):
		return true
	case total == parts:
		return false
	}
	return c["prompt_tokens"] != u.Input // the input came under another name
}

// cost returns what the upstream says that the request cost: OpenRouter in dollars,
// xAI in ticks of 10^-10 dollars.
func (c usageCounts) cost() int64 {
	if ticks, ok := c["cost_in_usd_ticks"]; ok {
		return ticks/10 + min(ticks%10, 1)
	}
	cost, theirs := c.dollars("cost"), c.dollars("cost_details.upstream_inference_cost")
	// If the account uses its own key at the provider, OpenRouter's cost is only its
	// fee, and the provider's charge is reported separately, if it is known. (If the
	// answer does not say whose key it was, the fee is lower than that charge.)
	switch byok, said := c["is_byok"]; {
	case said && byok == 0:
	case said && theirs <= 0:
		return -1 // use the price table
	case said, theirs > 0 && cost < theirs:
		return add(max(cost, 0), theirs)
	}
	return cost
}

// dollars returns a field in dollars as nano-dollars, or -1. Of several with the name it
// is the largest.
func (c usageCounts) dollars(field string) int64 {
	cost, ok := c["$"+field]
	if !ok {
		cost = -1
	}
	if whole, ok := c[field]; ok && whole <= 1e6 {
		cost = max(cost, whole*1e9)
	}
	return cost
}
