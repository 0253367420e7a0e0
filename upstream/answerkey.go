package upstream

// answerKey is what the name of a member in an answer means to a Meter.
type answerKey uint8

const (
	keyOther answerKey = iota
	keyUsage
	keyMeta      // Cohere's, which holds billed_units
	keyMessage   // holds usage at Anthropic; the message of an error
	keyResponse  // holds usage in OpenAI's Responses, and is text at Ollama
	keyInner     // holds usage at Groq and Gemini
	keyDelta     // holds usage at Cohere, and is text in OpenAI's Responses
	keyChoices   // one of them may hold usage
	keyText      // what a model wrote
	keyArguments // the arguments of a tool call: text, or an object
	keyCall      // the arguments of a tool call, as an object
	keyEmbedding // an answer with embeddings has no output
	keyType      // the type of an event
	keyModel
	keyTier
	keyRegion
	keyPromptCount // Ollama's counts
	keyOutputCount
	keyError
	keyCode // which error it is
	keyBase // MiniMax's, which holds the code of an error
	keyFinish
	keyID
	keyOutput // holds the items of an answer of OpenAI's Responses
	keyItem   // one such item, as an event carries it
	keyFailed // what a model wrote, in an error of Groq's
	keyQuiet  // text that the client sent or that others wrote
)

// answerKeyOf returns what a name means. Usage is found in: usage; message.usage
// (Anthropic); response.usage (OpenAI's Responses); usageMetadata (Gemini);
// x_groq.usage; meta.billed_units and delta.usage (Cohere), and in the first version
// of Cohere's API in response.meta; interaction.usage (Gemini); choices[0].usage
// (Moonshot). A vendor echoes what the client sent in metadata, so nothing is read
// from there.
func answerKeyOf(name string) answerKey {
	switch name {
	case "usage", "usageMetadata":
		return keyUsage
	case "meta":
		return keyMeta
	case "message":
		return keyMessage
	case "response":
		return keyResponse
	case "x_groq", "interaction":
		return keyInner
	case "delta":
		return keyDelta
	case "choices":
		return keyChoices
	case "content", "text", "partial_json", "thinking", "reasoning", "reasoning_content", "refusal", "tool_plan":
		return keyText
	case "arguments":
		return keyArguments
	case "functionCall", "function_call", "args", "input":
		return keyCall
	case "embedding", "embeddings":
		return keyEmbedding
	case "type", "event_type":
		return keyType
	case "model", "modelVersion":
		return keyModel
	case "service_tier", "serviceTier":
		return keyTier
	case "inference_geo":
		return keyRegion
	case "prompt_eval_count":
		return keyPromptCount
	case "eval_count":
		return keyOutputCount
	case "error":
		return keyError
	case "code":
		return keyCode
	case "base_resp":
		return keyBase
	case "finish_reason":
		return keyFinish
	case "failed_generation":
		return keyFailed
	case "id":
		return keyID
	case "output":
		return keyOutput
	case "item":
		return keyItem
	case "metadata", "instructions", "tools", "prompt", "format", "chat_history", "documents", "search_results", "sources", "citations", "annotations",
		"logprobs", "prompt_logprobs":
		return keyQuiet
	}
	return keyOther
}
