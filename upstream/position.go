package upstream

import "strings"

// shape is the kind of API that a request is written for. It decides what may occur
// where: a gateway speaks several, each at its own path.
type shape uint8

const (
	chatShape shape = iota // OpenAI's chat completions, and every API that copies them
	responsesShape
	messagesShape // Anthropic's, wherever it is spoken
	geminiShape
	mistralShape
	cohereShape
)

func (e *Estimate) shape(p *Preset, path string) shape {
	switch {
	case e.responses():
		return responsesShape
	case speaksMessages(path):
		return messagesShape
	case e.outer == "generationConfig", p.Dialect == Gemini && strings.Contains(path, ":"):
		return geminiShape
	case p.Dialect == Mistral:
		return mistralShape
	case p.Dialect == Cohere:
		return cohereShape
	}
	return chatShape
}

// position is where in a request a value stands.
type position uint8

const (
	// unknown is any place that is not in these tables. A server may read anything
	// there, so it may hold only content that means the same everywhere.
	unknown position = iota
	inItem           // an element of messages, input or contents
	inBlock          // an element of content or parts, and what such blocks hold
	inCall           // an element of a message's tool_calls
	inNote           // an element of annotations

	// Values at these positions are not walked through.
	inMetadata   // bounded by its length, whatever it names
	inTools      // definitions of tools
	inDefinition // one of them
)

// top returns the position of the elements of a request's member.
func top(name string) position {
	switch name {
	case "messages", "input", "contents", "instructions", "systemInstruction", "system_instruction", "content", "requests":
		return inItem
	case "system", "parts":
		return inBlock
	}
	return unknown
}

// position returns the position of a member's value. The names are those in the
// vendors' types for requests, and for answers, which clients send back as they came:
// openai 6.49.0 (resources/responses and its beta, resources/chat/completions),
// @anthropic-ai/sdk 1.12.0 (resources/beta/messages), @google/genai 2.32.0
// (genai.d.ts), @mistralai/mistralai (models/components), cohere-ai (api/types),
// groq-sdk (resources/chat/completions), and OpenRouter's pages about reasoning tokens
// and PDF inputs.
//
// A name that is metadata at one vendor may be content at another, so each is
// metadata only for the vendor that uses it so.
func (s shape) position(at position, name string) position {
	switch at {
	case inItem, inBlock:
	case inCall:
		return inCall
	case inNote:
		// OpenRouter parses a file once, and afterwards reads what it found, pictures
		// included, from its annotation.
		if name == "file" {
			return inBlock
		}
		return inMetadata
	default:
		return unknown
	}
	switch name {
	case "content", "parts", "thinking", "source":
		return inBlock
	}
	switch s {
	case chatShape, mistralShape:
		switch name {
		case "tool_calls":
			return inCall
		case "annotations":
			return inNote
		case "reasoning_details", "executed_tools", "logprobs", "citations":
			return inMetadata
		}
	case responsesShape:
		switch name {
		case "output", "summary":
			return inBlock
		case "tools":
			return inTools
		case "annotations":
			return inNote
		case "caller", "logprobs", "action", "actions", "operation", "outcome", "environment", "queries", "results", "outputs",
			"pending_safety_checks", "acknowledged_safety_checks":
			return inMetadata
		}
	case messagesShape:
		switch name {
		case "tool_references", "tool_changes", "tool":
			return inBlock
		case "tools":
			return inTools
		case "definition":
			return inDefinition
		case "caller", "citations", "tabs", "state_changes", "from", "to", "trigger":
			return inMetadata
		}
	case geminiShape:
		switch name {
		case "partMetadata", "part_metadata", "citationMetadata", "citation_metadata", "groundingMetadata", "grounding_metadata":
			return inMetadata
		}
	case cohereShape:
		switch name {
		case "tool_calls":
			return inCall
		case "citations":
			return inMetadata
		}
	}
	return unknown
}

// bounding is what bounds content of a type.
type bounding uint8

const (
	refused     bounding = iota // nothing is known to bound it
	byLength                    // the length of what it holds
	byQuote                     // the length; its address is text that nobody opens
	byPicture                   // the size of one picture
	byWindow                    // the model's context window
	byReference                 // the tools that the request defines
)

// kind returns what bounds content of that type at a position.
func (s shape) kind(at position, kind string) bounding {
	switch kind {
	// These mean the same everywhere. Pictures, sound and files among them are
	// bounded by the members that hold them.
	case "text", "input_text", "output_text", "summary_text", "reasoning_text", "refusal", "message",
		"thinking", "redacted_thinking", "reasoning",
		"tool_use", "tool_result", "function", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output",
		"local_shell_call", "local_shell_call_output", "apply_patch_call", "apply_patch_call_output", "search_result",
		"image", "image_url", "input_image", "input_audio", "document", "file", "input_file",
		"base64", "url", "content", "ephemeral":
		return byLength
	}
	switch s {
	case chatShape:
		switch {
		case at == inCall && kind == "custom":
			return byLength
		case at == inBlock && (kind == "video_url" || kind == "audio_url"): // OpenRouter, vLLM, SGLang
			return byWindow
		case at == inBlock && kind == "tool_reference": // Baseten's page about deferred tool loading
			return byReference
		}
	case mistralShape:
		switch {
		case at != inBlock:
		case kind == "reference", kind == "document_url": // its address is handled by the member's name
			return byLength
		case kind == "tool_reference":
			return byQuote // names which of Mistral's own tools a thought is about
		}
	case responsesShape:
		return responsesKind(at, kind)
	case messagesShape:
		return messagesKind(at, kind)
	}
	return refused
}

// responsesKind returns what bounds an item of OpenAI's Responses API. The vendor may
// store more about what it ran than the item shows. An item that makes it run
// something (compaction_trigger, mcp_approval_response) is in no table.
func responsesKind(at position, kind string) bounding {
	switch at {
	case inBlock:
		if kind == "computer_screenshot" || kind == "encrypted_content" {
			return byLength
		}
	case inItem:
		switch kind {
		case "computer_call", "computer_call_output", "shell_call", "shell_call_output", "additional_tools", "tool_search_call", "tool_search_output",
			"program", "program_output", "mcp_list_tools", "mcp_call", "mcp_approval_request", "compaction", "context_compaction",
			"agent_message", "multi_agent_call", "multi_agent_call_output":
			return byLength
		case "image_generation_call":
			return byPicture
		case "web_search_call", "file_search_call", "code_interpreter_call":
			return byWindow
		}
	}
	return refused
}

// messagesKind returns what bounds a block of Anthropic's Messages API.
func messagesKind(at position, kind string) bounding {
	if at != inBlock {
		return refused
	}
	switch kind {
	case "server_tool_use", "web_search_tool_result", "web_search_tool_result_error", "web_fetch_tool_result", "web_fetch_tool_result_error",
		"code_execution_tool_result", "code_execution_tool_result_error", "code_execution_result", "encrypted_code_execution_result",
		"bash_code_execution_tool_result", "bash_code_execution_tool_result_error", "bash_code_execution_result",
		"text_editor_code_execution_tool_result", "text_editor_code_execution_tool_result_error", "text_editor_code_execution_view_result",
		"text_editor_code_execution_create_result", "text_editor_code_execution_str_replace_result",
		"tool_search_tool_result", "tool_search_tool_result_error", "tool_search_tool_search_result",
		"advisor_tool_result", "advisor_tool_result_error", "advisor_result", "advisor_redacted_result",
		"mcp_tool_use", "mcp_tool_result", "mcp_tool_listing",
		"compaction", "fallback", "browser_state", "tool_addition", "tool_removal", "tool_definition":
		return byLength
	case "web_search_result", "web_fetch_result":
		return byQuote
	case "tool_reference", "mcp_tool_reference", "mcp_toolset_reference":
		return byReference
	case "code_execution_output", "bash_code_execution_output", "container_upload":
		return byWindow // a file that a container holds
	}
	return refused
}

// namesFile reports whether content with that bounding may name a stored file.
func (s shape) namesFile(b bounding) bool { return s == messagesShape && b == byWindow }
