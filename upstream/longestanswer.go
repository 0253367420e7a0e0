package upstream

const (
	// usualOutput bounds the answers of a model when nothing says how long they can
	// be. Most vendors refuse a bound that is longer than the model's own.
	usualOutput = 16_384
	// ollamaContext is the context that Ollama keeps by default: 4,096, 32,768 or
	// 262,144 tokens depending on its machine's memory, and an answer goes on beyond
	// that (docs/context-length.mdx of its repository). Ollama accepts any bound; this
	// one cuts off few answers.
	ollamaContext = 32_768
	// A bound is not made shorter than 1/windowShare of the window, whatever the
	// prompt: the bound of a prompt is several times what a model counts.
	windowShare = 8
)

// Longest returns the longest answer to the request, which is written into the
// request if it does not state one. price is that of its model, or nil, and input the
// most tokens that the request can have. known is false if the result is a guess.
//
// Where prompt and answer share the window, most servers refuse a bound that does not
// fit after the prompt (Mistral: openclaw#53006, OpenRouter: OpenHands#9937, Together:
// litellm#4934, vLLM: vllm#42474).
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
