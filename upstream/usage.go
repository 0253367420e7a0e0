package upstream

import (
	"math"
	"strconv"
)

// Usage is what an upstream says that a request used, in tokens. Fields that
// it did not report are -1, so that nothing is taken for zero.
type Usage struct {
	Input        int64 // all input, cached and written to a cache included
	CachedInput  int64 // of Input: read from a cache
	CacheWrite   int64 // of Input: written to a cache
	CacheWrite1h int64 // of CacheWrite: kept for an hour, which costs more
	Output       int64 // all output, reasoning included
	// Nanodollars is the cost, where the upstream reports one.
	Nanodollars int64
}

// unreported is a Usage of which nothing is known.
var unreported = Usage{-1, -1, -1, -1, -1, -1}

// Known reports whether the upstream said how many tokens were used.
func (u Usage) Known() bool { return u.Input >= 0 && u.Output >= 0 }

// Tokens is the sum that a token limit counts.
func (u Usage) Tokens() int64 { return add(max(u.Input, 0), max(u.Output, 0)) }

// merge keeps the most that was reported of each field: streams restate their
// counts, and they only grow.
func (u *Usage) merge(v Usage) {
	u.Input = max(u.Input, v.Input)
	u.CachedInput = max(u.CachedInput, v.CachedInput)
	u.CacheWrite = max(u.CacheWrite, v.CacheWrite)
	u.CacheWrite1h = max(u.CacheWrite1h, v.CacheWrite1h)
	u.Output = max(u.Output, v.Output)
	u.Nanodollars = max(u.Nanodollars, v.Nanodollars)
}

// add is a+b for counts, without overflow.
func add(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// usageCounts are the numbers of a usage object before they mean something: a
// field's name, with the names of the objects it stands in.
type usageCounts map[string]int64

// maxUsageDepth bounds how deep a usage object is looked into.
const maxUsageDepth = 3

// count collects the numbers in a usage object. A number that is negative or
// not whole is left out.
func (c usageCounts) count(prefix string, o rawObject, depth int) error {
	return o.members(func(name string, value []byte) error {
		switch {
		case value[0] == '{' && depth < maxUsageDepth:
			return c.count(prefix+name+".", rawObject(value), depth+1)
		case value[0] >= '0' && value[0] <= '9':
			if n, err := strconv.ParseInt(string(value), 10, 64); err == nil {
				c[prefix+name] = max(n, c[prefix+name])
			} else if cost, ok := parseUSD(string(value)); ok {
				c["$"+prefix+name] = cost
			}
		}
		return nil
	})
}

// parseUSD reads a decimal number of dollars as nano-dollars, rounded up.
func parseUSD(s string) (int64, bool) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f < 0 || f > 1e6 {
		return 0, false
	}
	return int64(math.Ceil(f * 1e9)), true
}

// first returns the first of the fields that was reported, or -1.
func (c usageCounts) first(names ...string) int64 {
	for _, name := range names {
		if n, ok := c[name]; ok {
			return n
		}
	}
	return -1
}

// usageOf reads a usage object by what is in it, not by whose it is: the
// vendors copy each other, and their copies differ.
func usageOf(o rawObject) (Usage, error) {
	c := make(usageCounts, 16)
	if err := c.count("", o, 0); err != nil {
		return unreported, err
	}
	if c.first("billed_units.input_tokens", "billed_units.output_tokens") >= 0 {
		// Cohere; what it bills is less than what its model read.
		u := unreported
		u.Input, u.Output = max(c.first("billed_units.input_tokens"), 0), max(c.first("billed_units.output_tokens"), 0)
		return u, nil
	}
	u := unreported
	u.Input = c.first("prompt_tokens", "input_tokens", "promptTokenCount", "total_input_tokens", "inputTokens", "prompt_eval_count")
	u.Output = c.first("completion_tokens", "output_tokens", "candidatesTokenCount", "total_output_tokens", "outputTokens", "eval_count")
	u.CachedInput = c.first("prompt_tokens_details.cached_tokens", "input_tokens_details.cached_tokens", "cachedContentTokenCount",
		"total_cached_tokens", "prompt_cache_hit_tokens", "cached_tokens")
	u.CacheWrite = c.first("prompt_tokens_details.cache_write_tokens", "input_tokens_details.cache_write_tokens")
	if read, written := c.first("cache_read_input_tokens"), c.first("cache_creation_input_tokens"); read >= 0 || written >= 0 {
		// Anthropic counts these beside the input.
		u.CachedInput, u.CacheWrite = max(read, 0), max(written, 0)
		u.CacheWrite1h = c.first("cache_creation.ephemeral_1h_input_tokens")
		if u.Input >= 0 {
			u.Input = add(u.Input, add(u.CachedInput, u.CacheWrite))
		}
	}
	// Gemini counts thoughts and what its tools read beside the rest.
	if n := c.first("thoughtsTokenCount", "total_thought_tokens"); n > 0 {
		u.Output = add(max(u.Output, 0), n)
	}
	if n := c.first("toolUsePromptTokenCount", "total_tool_use_tokens"); n > 0 {
		u.Input = add(max(u.Input, 0), n)
	}
	total := c.first("total_tokens", "totalTokenCount", "totalTokens")
	if u.Input >= 0 && u.Output < 0 && total >= 0 {
		u.Output = 0 // embeddings
	}
	if u.Known() && total > u.Tokens() {
		// Reasoning that is left out of the parts, as xAI does.
		u.Output = add(u.Output, total-u.Tokens())
	}
	u.Nanodollars = c.cost()
	return u, nil
}

// cost is what the upstream says that the request cost: OpenRouter in dollars,
// xAI in ticks of which a dollar has 10^10.
func (c usageCounts) cost() int64 {
	if ticks, ok := c["cost_in_usd_ticks"]; ok {
		return ticks/10 + min(ticks%10, 1)
	}
	if cost, ok := c["$cost"]; ok {
		return cost
	}
	if whole, ok := c["cost"]; ok && whole <= 1e6 {
		return whole * 1e9
	}
	return -1
}
