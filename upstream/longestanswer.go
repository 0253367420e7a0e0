package upstream

const (
	// usualOutput is how long answers of a model can be of which nobody says so.
	// One that is longer than a model's own is refused by most vendors.
	usualOutput = 16_384
	// ollamaContext is what Ollama keeps of a conversation unless it is told
	// otherwise: 4,096, 32,768 or 262,144 tokens by the memory of its machine,
	// and an answer goes on beyond that (docs/context-length.mdx of its
	// repository). Any bound is taken: this one cuts off few.
	ollamaContext = 32_768
	// A bound is not made shorter than a windowShare-th of the window, whatever
	// the prompt: the prompt's bound is several times what it is to a model.
	windowShare = 8
)

// Longest is the longest answer to the request, which is written into it where
// it does not state one. price is that of its model, or nil, and input the most
// that the request can be. known is false when it is a guess.
//
// Where prompt and answer share the window, most servers refuse a bound that
// does not fit behind the prompt (Mistral: openclaw#53006, OpenRouter:
// OpenHands#9937, Together: litellm#4934, vLLM: vllm#42474).
func (e *Estimate) Longest(price *Price, input int64) (n int64, known bool) {
	if e.Stated >= 0 {
		return e.Stated, true
	}
	var window int64
	if price != nil {
		n, window = price.MaxOutput, price.Context
	}
	known = n > 0 || window > 0
	switch {
	case e.context > 0 && e.outer == "options":
		n, known = e.context, true
	case n == 0 && window > 0:
		n = min(window, e.usual)
	case n == 0:
		n = e.usual
	}
	if e.shared && window > 0 {
		n = min(n, max(window-input, min(window/windowShare, usualOutput), 1))
	}
	return n, known
}
