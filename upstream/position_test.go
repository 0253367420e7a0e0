package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// frames are requests with a hole where content stands.
var frames = map[string]struct{ preset, path, body string }{
	"chat":      {"openai", "/v1/chat/completions", `{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":[%s]}]}`},
	"message":   {"openai", "/v1/chat/completions", `{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"hi"},%s]}`},
	"router":    {"openrouter", "/api/v1/chat/completions", `{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"hi"},%s]}`},
	"items":     {"openai", "/v1/responses", `{"model":"m","max_output_tokens":5,"input":[{"role":"user","content":"hi"},%s]}`},
	"output":    {"openai", "/v1/responses", `{"model":"m","max_output_tokens":5,"input":[{"type":"message","role":"assistant","content":[%s]}]}`},
	"messages":  {"anthropic", "/v1/messages", `{"model":"m","max_tokens":5,"messages":[{"role":"user","content":[%s]}]}`},
	"elsewhere": {"openrouter", "/api/v1/messages", `{"model":"m","max_tokens":5,"messages":[{"role":"user","content":[%s]}]}`},
	"gemini":    {"gemini", "/v1beta/models/m:generateContent", `{"contents":[{"role":"user","parts":[%s]}],"generationConfig":{"maxOutputTokens":5}}`},
	"mistral":   {"mistral", "/v1/chat/completions", `{"model":"m","max_tokens":5,"messages":[{"role":"assistant","content":[%s]}]}`},
	"cohere":    {"cohere", "/v2/chat", `{"model":"m","max_tokens":5,"messages":[%s]}`},
	"groq":      {"groq", "/openai/v1/chat/completions", `{"model":"m","max_tokens":5,"messages":[%s]}`},
}

func inFrame(t testing.TB, frame, part string) (*Estimate, error) {
	t.Helper()
	f := frames[frame]
	return estimate(t, f.preset, f.path, fmt.Sprintf(f.body, part))
}

// TestWhatAnAnswerHoldsMayBeSentBack: the parts have every field that the vendors'
// types have for them, and are where their clients put them.
func TestWhatAnAnswerHoldsMayBeSentBack(t *testing.T) {
	t.Parallel()
	const (
		picture = imageTokens
		window  = -1
	)
	for _, test := range []struct {
		frame, part string
		more        int64 // than the length: of pictures, or the window
	}{
		// @anthropic-ai/sdk 1.12.0, BetaContentBlock and BetaContentBlockParam.
		{"messages", `{"type":"tool_use","id":"t","name":"f","input":{"type":"x"},"caller":{"type":"direct"},"toolset_name":null}`, 0}, // stagehand-python#249
		{"messages", `{"type":"tool_use","id":"t","name":"f","input":{},"caller":{"type":"code_execution_20260120","tool_id":"srvtoolu_1"}}`, 0},
		{"messages", `{"type":"text","text":"x","citations":[{"type":"char_location","cited_text":"x","document_index":0,"document_title":null,"file_id":"file_1","start_char_index":0,"end_char_index":1},
			{"type":"web_search_result_location","cited_text":"x","encrypted_index":"AA","title":null,"url":"https://x"},
			{"type":"search_result_location","cited_text":"x","source":"https://x","title":"x","search_result_index":0,"start_block_index":0,"end_block_index":1}]}`, 0},
		{"messages", `{"type":"server_tool_use","id":"s","name":"web_search","input":{"query":"x"},"caller":{"type":"direct"}}`, 0},
		{"messages", `{"type":"web_search_tool_result","tool_use_id":"s","caller":{"type":"direct"},"content":[{"type":"web_search_result","url":"https://x","title":"x","page_age":null,"encrypted_content":"AA"},
			{"url":"https://x/picture.png","encrypted_content":"AA","title":"x","type":"web_search_result"}]}`, 0},
		{"messages", `{"type":"web_search_tool_result","tool_use_id":"s","content":{"type":"web_search_tool_result_error","error_code":"unavailable"}}`, 0},
		{"messages", `{"type":"web_fetch_tool_result","tool_use_id":"s","content":{"type":"web_fetch_result","url":"https://x","retrieved_at":null,"content":{"type":"document","title":null,"citations":{"enabled":true},"source":{"type":"text","media_type":"text/plain","data":"x"}}}}`, 0},
		{"messages", `{"type":"web_fetch_tool_result","tool_use_id":"s","content":{"type":"web_fetch_result","url":"https://x","content":{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"AAAA"}}}}`, window},
		{"messages", `{"type":"bash_code_execution_tool_result","tool_use_id":"s","content":{"type":"bash_code_execution_result","stdout":"x","stderr":"","return_code":0,"content":[]}}`, 0},
		{"messages", `{"type":"bash_code_execution_tool_result","tool_use_id":"s","content":{"type":"bash_code_execution_result","stdout":"x","stderr":"","return_code":0,"content":[{"type":"bash_code_execution_output","file_id":"f"}]}}`, window},
		{"messages", `{"file_id":"f","type":"container_upload"}`, window},
		{"messages", `{"type":"code_execution_tool_result","tool_use_id":"s","content":{"type":"encrypted_code_execution_result","encrypted_stdout":"AA","stderr":"","return_code":0,"content":[]}}`, 0},
		{"messages", `{"type":"text_editor_code_execution_tool_result","tool_use_id":"s","content":{"type":"text_editor_code_execution_view_result","content":"x","file_type":"text","num_lines":1,"start_line":1,"total_lines":1}}`, 0},
		{"messages", `{"type":"text_editor_code_execution_tool_result","tool_use_id":"s","content":{"type":"text_editor_code_execution_str_replace_result","lines":["x"],"new_lines":1,"new_start":1,"old_lines":1,"old_start":1}}`, 0},
		{"messages", `{"type":"tool_search_tool_result","tool_use_id":"s","content":{"type":"tool_search_tool_search_result","tool_references":[{"type":"tool_reference","tool_name":"f"}]}}`, 0},
		{"messages", `{"type":"advisor_tool_result","tool_use_id":"s","content":{"type":"advisor_redacted_result","encrypted_content":"AA","stop_reason":null}}`, 0},
		{"messages", `{"type":"mcp_tool_use","id":"m","name":"f","input":{},"server_name":"s"},{"type":"mcp_tool_result","tool_use_id":"m","is_error":false,"content":[{"type":"text","text":"x","citations":null}]}`, 0},
		{"messages", `{"type":"mcp_tool_listing","mcp_server_name":"s","tools":[{"name":"f","description":"x","input_schema":{"type":"object"}}]}`, 0},
		{"messages", `{"type":"compaction","content":"x","encrypted_content":null,"signature":"AA","tool_changes":[{"type":"tool_removal","tool":{"type":"mcp_toolset_reference","server_name":"s"}}]}`, 0},
		{"messages", `{"type":"fallback","from":{"model":"a"},"to":{"model":"b"},"trigger":{"type":"refusal","category":null}}`, 0},
		{"messages", `{"type":"tool_result","tool_use_id":"t","toolset_name":"browser","content":[{"type":"browser_state","tabs":[{"tab_id":"1","title":"x","url":"https://x"}],"state_changes":[{"type":"download_completed","download_id":"d","url":"https://x"}]}]}`, 0},
		{"messages", `{"type":"image","url":"https://x","url":"https://y"}`, 2 * picture},
		{"messages", `{"type":"search_result","source":"https://x","title":"x","content":[{"type":"text","text":"x"}],"citations":{"enabled":true}}`, 0},
		{"elsewhere", `{"type":"tool_use","id":"t","name":"f","input":{},"caller":{"type":"direct"}}`, 0},
		// openai 6.49.0, ResponseOutputItem and ResponseInputItem.
		{"output", `{"type":"output_text","text":"x","logprobs":[{"token":"x","bytes":[120],"logprob":-0.1,"top_logprobs":[]}],"annotations":[{"type":"url_citation","url":"https://x","title":"x","start_index":0,"end_index":1},
			{"type":"file_citation","file_id":"f","filename":"x","index":0},{"type":"container_file_citation","container_id":"c","file_id":"f","filename":"x","start_index":0,"end_index":1},{"type":"file_path","file_id":"f","index":0}]}`, 0},
		{"items", `{"type":"function_call","id":"fc_1","call_id":"c","name":"f","namespace":"n","arguments":"{}","status":"completed","caller":{"type":"program","caller_id":"p"}}`, 0},
		{"items", `{"type":"computer_call","id":"cu_1","call_id":"c","status":"completed","pending_safety_checks":[{"id":"s","code":"malicious_instructions","message":"x"}],"action":{"type":"click","button":"left","x":1,"y":2},"actions":[{"type":"type","text":"x"},{"type":"drag","path":[{"x":1,"y":2}]}]}`, 0},
		{"items", `{"type":"computer_call_output","call_id":"c","acknowledged_safety_checks":[{"id":"s"}],"output":{"type":"computer_screenshot","image_url":"data:image/png;base64,AAAA"}}`, picture},
		{"items", `{"type":"shell_call","id":"sh_1","call_id":"c","status":"completed","environment":{"type":"local"},"caller":{"type":"direct"},"action":{"commands":["ls"],"timeout_ms":1,"max_output_length":1}}`, 0},
		{"items", `{"type":"shell_call_output","call_id":"c","max_output_length":1,"output":[{"stdout":"x","stderr":"","outcome":{"type":"exit","exit_code":0}},{"stdout":"","stderr":"","outcome":{"type":"timeout"}}]}`, 0},
		{"items", `{"type":"apply_patch_call","id":"ap_1","call_id":"c","status":"completed","operation":{"type":"update_file","path":"x","diff":"x"},"caller":null},{"type":"apply_patch_call_output","call_id":"c","status":"completed","output":"x"}`, 0},
		{"items", `{"type":"local_shell_call","id":"l","call_id":"c","status":"completed","action":{"type":"exec","command":["ls"],"env":{}}},{"type":"local_shell_call_output","id":"c","output":"x"}`, 0},
		{"items", `{"type":"tool_search_call","id":"ts_1","call_id":"c","execution":"client","arguments":{"query":"x"},"status":"completed"}`, 0},
		{"items", `{"type":"tool_search_output","call_id":"c","execution":"client","status":"completed","tools":[{"type":"namespace","name":"n","description":"x","tools":[{"type":"function","name":"f","parameters":{"type":"object"},"defer_loading":true},{"type":"custom","name":"g"}]}]}`, 0},
		{"items", `{"type":"additional_tools","role":"developer","tools":[{"type":"function","name":"f","parameters":{"type":"object"}},{"type":"tool_search","execution":"client","description":"x","parameters":{}},{"type":"shell","environment":{"type":"local"}},{"type":"apply_patch"}]}`, 0},
		{"items", `{"type":"program","id":"p","call_id":"c","code":"x","fingerprint":"AA"},{"type":"program_output","id":"p","call_id":"c","result":"x","status":"completed"}`, 0},
		{"items", `{"type":"mcp_list_tools","id":"m","server_label":"s","tools":[{"name":"f","input_schema":{"type":"object"},"annotations":{"type":"x"},"description":null}]},{"type":"mcp_call","id":"m","server_label":"s","name":"f","arguments":"{}","output":"x","error":null},{"type":"mcp_approval_request","id":"m","server_label":"s","name":"f","arguments":"{}"}`, 0},
		{"items", `{"type":"agent_message","id":"a","author":"/root","recipient":"/root/b","agent":{"agent_name":"b"},"content":[{"type":"input_text","text":"x"},{"type":"encrypted_content","encrypted_content":"AA"}]}`, 0},
		{"items", `{"type":"multi_agent_call","id":"m","call_id":"c","action":"spawn_agent","arguments":"{}","agent":{"agent_name":"b"}},{"type":"multi_agent_call_output","call_id":"c","action":"spawn_agent","output":[{"type":"output_text","text":"x","annotations":[]}]}`, 0},
		{"items", `{"type":"compaction","id":"c","encrypted_content":"AA","created_by":"x"}`, 0},
		{"items", `{"type":"image_generation_call","id":"ig_1","status":"completed","result":null}`, picture},
		{"items", `{"type":"web_search_call","id":"ws_1","status":"completed","action":{"type":"search","query":"x","queries":["x"],"sources":[{"type":"url","url":"https://x"}]}}`, window},
		{"items", `{"type":"file_search_call","id":"fs_1","status":"completed","queries":["x"],"results":[{"file_id":"f","filename":"x","score":0.5,"text":"x","attributes":{}}]}`, window},
		{"items", `{"type":"code_interpreter_call","id":"ci_1","status":"completed","code":"x","container_id":"c","outputs":[{"type":"logs","logs":"x"},{"type":"image","url":"https://x"}]}`, window},
		{"items", `{"type":"custom_tool_call","call_id":"c","name":"f","input":"x","namespace":"n","caller":{"type":"direct"}},{"type":"custom_tool_call_output","call_id":"c","output":[{"type":"input_text","text":"x","prompt_cache_breakpoint":{"mode":"explicit"}}]}`, 0},
		// openai 6.49.0, ChatCompletionMessage; OpenRouter's pages about reasoning tokens and
		// PDF inputs; groq-sdk, ChatCompletionMessage; Kilo-Org/kilocode#3605.
		{"message", `{"role":"assistant","content":"x","refusal":null,"annotations":[{"type":"url_citation","url_citation":{"url":"https://x","title":"x","start_index":0,"end_index":1}}]}`, 0},
		{"message", `{"role":"assistant","content":null,"tool_calls":[{"type":"custom","id":"c","custom":{"name":"f","input":"x"}},{"id":"d","type":"function","function":{"name":"f","arguments":"{}"}}]}`, 0},
		{"router", `{"role":"assistant","content":"x","reasoning":"x","reasoning_details":[{"type":"reasoning.text","text":"x","signature":"AA","id":"r","format":"anthropic-claude-v1","index":0},{"type":"reasoning.summary","summary":"x"},{"type":"reasoning.encrypted","data":"AA"}]}`, 0},
		{"router", `{"role":"assistant","content":"x","annotations":[{"type":"file","file":{"hash":"h","name":"x.pdf","content":[{"type":"text","text":"x"}]}}]}`, 0},
		{"router", `{"role":"assistant","content":"x","annotations":[{"file":{"hash":"h","content":[{"image_url":{"url":"data:image/png;base64,AAAA"},"type":"image_url"}]},"type":"file"}]}`, picture},
		{"groq", `{"role":"assistant","content":"x","annotations":[{"type":"document_citation","document_citation":{"document_id":"d","start_index":0,"end_index":1}}],"executed_tools":[{"type":"search","index":0,"arguments":"{}","code_results":[{"chart":{"type":"bar","elements":[]}}]}]}`, 0},
		{"groq", `{"role":"tool","tool_call_id":"c","content":[{"type":"tool_reference","tool_name":"f"}]}`, 0}, // docs.baseten.co, deferred tool loading
		// @mistralai/mistralai, ContentChunk and ThinkChunk.
		{"mistral", `{"type":"text","text":"x"},{"type":"reference","reference_ids":[1,"a"]}`, 0},
		{"mistral", `{"type":"thinking","closed":true,"signature":null,"thinking":[{"type":"text","text":"x"},{"type":"reference","reference_ids":[1]},{"type":"tool_reference","tool":"web_search","title":"x","url":"https://x","favicon":"https://x","description":null}]}`, 0},
		{"mistral", `{"type":"document_url","document_url":"https://x","document_name":null}`, window},
		// cohere-ai, AssistantMessageResponse.
		{"cohere", `{"role":"assistant","tool_plan":"x","content":[{"type":"text","text":"x"},{"type":"thinking","thinking":"x"}],"citations":[{"start":0,"end":1,"text":"x","type":"TEXT_CONTENT","content_index":0,"sources":[{"type":"tool","id":"t","tool_output":{"type":"x"}},{"type":"document","id":"d","document":{"url":"https://x"}}]}]}`, 0},
		{"cohere", `{"role":"tool","tool_call_id":"t","content":[{"type":"document","document":{"id":"d","data":{"text":"x"}}}]}`, 0},
		// @google/genai 2.32.0, Part.
		{"gemini", `{"text":"x","thought":true,"thoughtSignature":"AA","partMetadata":{"type":"anything","file_id":"x"}}`, 0},
		{"gemini", `{"functionCall":{"id":"c","name":"f","args":{"type":"x"}}},{"functionResponse":{"id":"c","name":"f","response":{"type":"x"},"parts":[{"inlineData":{"mimeType":"image/png","data":"AAAA"}}]}}`, picture},
		{"gemini", `{"executableCode":{"id":"x","language":"PYTHON","code":"x"}},{"codeExecutionResult":{"id":"x","outcome":"OUTCOME_OK","output":"x"}},{"toolCall":{"id":"t","toolType":"GOOGLE_SEARCH_WEB","args":{"type":"x"}}},{"toolResponse":{"id":"t","toolType":"GOOGLE_SEARCH_WEB","response":{"type":"x"}}}`, 0},
	} {
		e, err := inFrame(t, test.frame, test.part)
		if err != nil {
			t.Errorf("%s: %s: %v", test.frame, test.part, err)
			continue
		}
		most := 2*int64(len(test.part)) + 3*toolsTokens + 4096 + max(test.more, 0)
		if e.Window != (test.more == window) || e.Input < int64(len(test.part))+max(test.more, 0) || e.Input > most {
			t.Errorf("%s: %s: input %d of %d bytes, window %v", test.frame, test.part, e.Input, len(test.part), e.Window)
		}
	}
}

// TestNothingHidesBelowANameThatIsMadeUp, is spelled differently, or has a meaning
// only at another vendor.
func TestNothingHidesBelowANameThatIsMadeUp(t *testing.T) {
	t.Parallel()
	const (
		file  = `{"type":"document","source":{"type":"file","file_id":"f"}}`
		image = `{"type":"hologram","url":"https://x"}`
	)
	for _, test := range []struct{ frame, part string }{
		{"messages", file},
		{"messages", `{"type":"text","text":"x","annotation_of_mine":` + file + `}`},
		{"messages", `{"type":"text","text":"x","annotations":[` + file + `]}`}, // OpenAI's, not Anthropic's
		{"messages", `{"type":"text","text":"x","reasoning_details":[` + image + `]}`},
		{"messages", `{"type":"text","text":"x","Citations":[` + image + `]}`},
		{"messages", `{"type":"text","text":"x","CALLER":{"type":"direct"}}`},
		{"messages", `{"type":"tool_result","content":[{"type":"text","text":"x","mine":{"citations":[` + image + `]}}]}`},
		{"messages", `{"type":"tool_result","content":[{"type":"image","source":{"type":"file","file_id":"f"}}]}`},
		{"messages", `{"type":"web_search_result","url":"https://x","content":[` + file + `]}`},
		{"messages", `{"type":"web_search_result","url":"https://x","file_id":"f"}`},
		{"messages", `{"type":"bash_code_execution_output","file_id":"f","File_Id":"g"}`},
		{"messages", `{"type":"bash_code_execution_output","type":"document","file_id":"f"}`},
		{"messages", `{"type":"tool_addition","tool":{"type":"tool_definition","definition":{"type":"web_search_20260318","name":"web_search"}}}`},
		{"messages", `{"type":"tool_addition","tool":{"type":"tool_definition","Definition":{"name":"x"}}}`},
		{"messages", `{"type":"additional_tools","tools":[]}`}, // OpenAI's
		{"messages", `{"type":"mcp_tool_listing","tools":[{"type":"mcp_toolset","mcp_server_name":"s"}]}`},
		{"messages", `{"type":"url_citation"}`},
		{"chat", `{"type":"caller","caller":` + image + `}`},
		{"chat", `{"type":"text","text":"x","caller":` + image + `}`}, // Anthropic's
		{"chat", `{"type":"text","text":"x","outputs":[` + image + `]}`},
		{"chat", `{"type":"custom","custom":{}}`}, // of tool_calls
		{"chat", `{"type":"web_search_result","url":"https://x"}`},
		{"message", `{"role":"assistant","tool_calls":[{"type":"builtin_function","function":{"name":"$web_search"}}]}`}, // Moonshot's, which its server runs
		{"router", `{"role":"assistant","annotations":[{"type":"file","file":{"content":[{"type":"file","file":{"file_id":"f"}}]}}]}`},
		{"router", `{"role":"assistant","annotations":[{"type":"file","file":{"content":[{"type":"hologram"}]}}]}`},
		{"items", `{"type":"additional_tools","tools":[{"type":"web_search"}]}`},
		{"items", `{"type":"additional_tools","Tools":[{"type":"function"}]}`},
		{"items", `{"type":"additional_tools","tools":[],"tools":[{"type":"mcp","server_url":"https://x"}]}`},
		{"items", `{"type":"message","role":"user","content":"x","tools":[{"type":"code_interpreter","container":"c"}]}`},
		{"items", `{"type":"tool_search_output","tools":[{"type":"namespace","name":"n","tools":[{"type":"web_search"}]}]}`},
		{"items", `{"type":"tool_search_output","tools":[{"type":"namespace","name":"n","tools":[{"type":"namespace","tools":[]}]}]}`},
		{"items", `{"type":"tool_search_output","tools":{"type":"function"}}`},
		{"items", `{"type":"compaction_trigger"}`},
		{"items", `{"type":"configuration_update"}`},
		{"items", `{"type":"mcp_approval_response","approve":true,"approval_request_id":"m"}`},
		{"items", `{"type":"computer_call_output","call_id":"c","output":{"type":"computer_screenshot","file_id":"f"}}`},
		{"items", `{"type":"function_call_output","call_id":"c","output":[{"type":"input_file","file_id":"f"}]}`},
		{"items", `{"type":"function_call_output","call_id":"c","output":[{"type":"web_search_call","id":"ws"}]}`},
		{"output", `{"type":"output_text","text":"x","citations":[` + image + `]}`}, // Anthropic's
		{"output", `{"type":"output_text","text":"x","annotations":[{"type":"file","file":{"file_id":"f"}}]}`},
		{"mistral", `{"type":"file","file_id":"f"}`},
		{"mistral", `{"type":"tool_file","tool":"image_generation","file_id":"f"}`},
		{"gemini", `{"fileData":{"fileUri":"x"}}`},
		{"gemini", `{"part_meta":{"type":"x"}}`},
		{"cohere", `{"role":"assistant","citation":[` + image + `]}`},
	} {
		if e, err := inFrame(t, test.frame, test.part); !errors.Is(err, ErrNotMeterable) && !errors.Is(err, ErrBody) {
			t.Errorf("%s: %s: %+v, %v", test.frame, test.part, e, err)
		}
	}
}

// TestToolsThatTheClientRunsAreKnown, and no others.
func TestToolsThatTheClientRunsAreKnown(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		frame, tool string
		good        bool
	}{
		{"items", `{"type":"namespace","name":"n","description":"x","tools":[{"type":"function","name":"f"}]}`, true},
		{"items", `{"type":"namespace","name":"n","tools":[{"type":"code_interpreter"}]}`, false},
		{"items", `{"type":"namespace","name":"n","tools":[{"type":"tool_search","execution":"client"}]}`, false},
		{"items", `{"type":"namespace","name":"n"}`, false},
		{"items", `{"type":"namespace","name":"n","tools":[],"Tools":[{"type":"mcp"}]}`, false},
		{"items", `{"type":"tool_search","execution":"client"}`, true},
		{"items", `{"type":"tool_search","execution":"server"}`, false},
		{"items", `{"type":"tool_search"}`, false}, // the server is what OpenAI takes it for
		{"items", `{"type":"tool_search","execution":"client","Execution":"server"}`, false},
		{"items", `{"type":"computer"}`, true},
		{"items", `{"type":"computer_use_preview","display_width":1,"display_height":1,"environment":"linux"}`, true},
		{"items", `{"type":"shell","environment":{"type":"local","skills":[{"name":"s","description":"x","path":"/s"}]}}`, true},
		{"items", `{"type":"shell","environment":{"type":"container_auto"}}`, false},
		{"items", `{"type":"shell","environment":{"type":"container_auto","type":"local"}}`, false},
		{"items", `{"type":"shell","environment":{"Type":"container_auto","type":"local"}}`, false},
		{"items", `{"type":"shell"}`, false},
		{"items", `{"type":"programmatic_tool_calling"}`, false},
		{"items", `{"type":"web_search"}`, false},
		{"items", `{"type":"bash_20250124"}`, false},
		{"message", `{"type":"namespace","name":"n","tools":[]}`, false},
		{"message", `{"type":"shell","environment":{"type":"local"}}`, false},
		{"messages", `{"type":"bash_20250124","name":"bash"}`, true},
		{"messages", `{"type":"text_editor_20250728","name":"str_replace_based_edit_tool"}`, true},
		{"messages", `{"type":"computer_20251124","name":"computer","display_width_px":1,"display_height_px":1}`, true},
		{"messages", `{"type":"computer_toolset_20260801"}`, true},
		{"messages", `{"type":"browser_toolset_20260801"}`, true},
		{"messages", `{"type":"memory_20250818","name":"memory"}`, true},
		{"messages", `{"type":"bash_code_execution_20250825","name":"x"}`, false},
		{"messages", `{"type":"memory_server_of_tomorrow","name":"x"}`, false},
		{"messages", `{"type":"tool_search_tool_regex_20251119","name":"tool_search_tool_regex"}`, true},
		{"messages", `{"type":"tool_search_tool_bm25","name":"tool_search_tool_bm25"}`, true},
		{"messages", `{"type":"advisor_20260301","name":"advisor","model":"m"}`, false},
		{"messages", `{"type":"mcp_toolset","mcp_server_name":"s"}`, false},
		{"elsewhere", `{"type":"bash_20250124","name":"bash"}`, true},
		{"gemini", `{"functionDeclarations":[{"name":"f"}]}`, true},
		{"gemini", `{"computerUse":{"environment":"ENVIRONMENT_BROWSER"}}`, true},
		{"gemini", `{"computerUse":{},"googleSearch":{}}`, false},
	} {
		f := frames[test.frame]
		part := map[string]string{"items": `{"role":"user","content":"x"}`, "message": `{"role":"user","content":"x"}`}[test.frame]
		body := strings.TrimSuffix(fmt.Sprintf(f.body, part), "}") + `,"tools":[` + test.tool + `]}`
		body = strings.ReplaceAll(body, ",]", "]")
		e, err := estimate(t, f.preset, f.path, body)
		if test.good && err != nil || !test.good && !errors.Is(err, ErrNotMeterable) && !errors.Is(err, ErrBody) {
			t.Errorf("%s: %s: %+v, %v", test.frame, test.tool, e, err)
		}
		if err == nil && strings.Contains(test.tool, "tool_search_tool") != (e.Rounds > 1 && e.Window) {
			t.Errorf("%s: %s: %d rounds, window %v", test.frame, test.tool, e.Rounds, e.Window)
		}
	}
}

// TestAReferenceIsHeldAsTheToolsThatItMayBe: each puts a definition into the prompt,
// wherever it is, and also if only the new part is bounded.
func TestAReferenceIsHeldAsTheToolsThatItMayBe(t *testing.T) {
	t.Parallel()
	tools := `[{"name":"search","input_schema":{}},{"name":"long","defer_loading":true,"description":"` + strings.Repeat("words of a tool ", 500) + `","input_schema":{}}]`
	body := func(tools string, messages ...string) string {
		return `{"model":"m","max_tokens":5,"tools":` + tools + `,"messages":[` + strings.Join(messages, ",") + `]}`
	}
	const ask = `{"role":"user","content":"hi"}`
	const reference = `{"type":"tool_reference","tool_name":"long"}`
	result := func(blocks ...string) string {
		return `{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":[` + strings.Join(blocks, ",") + `]}]}`
	}
	plain, err := estimate(t, "anthropic", "/v1/messages", body(tools, ask))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		message string
		n       int64
	}{
		"none":                {result(), 0},
		"one":                 {result(reference), 1},
		"several":             {result(slices.Repeat([]string{reference}, 7)...), 7},
		"of the vendor":       {`{"role":"assistant","content":[{"type":"tool_search_tool_result","tool_use_id":"s","content":{"type":"tool_search_tool_search_result","tool_references":[` + reference + `,` + reference + `]}}]}`, 2},
		"an addition":         {`{"role":"system","content":[{"type":"tool_addition","tool":{"type":"tool_reference","name":"long"}}]}`, 1},
		"a removal":           {`{"role":"system","content":[{"type":"tool_removal","tool":{"type":"tool_reference","name":"long"}}]}`, 1},
		"its type comes last": {result(`{"tool_name":"long","type":"tool_reference"}`), 1},
	} {
		e, err := estimate(t, "anthropic", "/v1/messages", body(tools, ask, test.message))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if more := e.Input - plain.Input; more < test.n*int64(len(tools)) || more > test.n*int64(len(tools))*5/4+1000 || e.Window {
			t.Errorf("%s: %d more tokens for %d references to tools of %d bytes, window %v", name, more, test.n, len(tools), e.Window)
		}
		m := newRemembering(t)
		r, _ := m.ask("k", "anthropic", "/v1/messages", body(tools, ask))
		m.Learn(r, 400, "m", true)
		again, _ := m.ask("k", "anthropic", "/v1/messages", body(tools, ask, test.message))
		if most := 400 + (test.n*5/4)*int64(len(tools)) + test.n*int64(len(tools))/4 + 1000; again.Input < 400+test.n*int64(len(tools)) || again.Input > most {
			t.Errorf("%s: foretold are %d for %d references", name, again.Input, test.n)
		}
	}
	// What was asked for before may be what is defined now.
	m := newRemembering(t)
	r, _ := m.ask("k", "anthropic", "/v1/messages", body(`[{"name":"search","input_schema":{}}]`, ask, result(reference)))
	m.Learn(r, 100, "m", true)
	long := `{"name":"long","description":"` + strings.Repeat("words of a tool ", 500) + `","input_schema":{}}`
	again, _ := m.ask("k", "anthropic", "/v1/messages", body(`[{"name":"search","input_schema":{}}]`, ask, result(reference), `{"role":"system","content":[{"type":"tool_addition","tool":{"type":"tool_definition","definition":`+long+`}}]}`))
	if again.Input < int64(100+2*len(long)) {
		t.Errorf("foretold are %d, for a definition of %d bytes that was asked for before", again.Input, len(long))
	}
}

// TestToolsThatNobodyAsksForAreNotMissed: a report without them is credible.
func TestToolsThatNobodyAsksForAreNotMissed(t *testing.T) {
	t.Parallel()
	tools := func(deferred string) string {
		return `[{"name":"f",` + deferred + `"description":"` + strings.Repeat("words of a tool ", 5000) + `","input_schema":{}}]`
	}
	for deferred, least := range map[string]bool{`"defer_loading":true,`: false, `"defer_loading":false,`: true, ``: true} {
		c := &Call{Method: "POST", Path: "/v1/messages", Body: []byte(`{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"hi"}],"tools":` + tools(deferred) + `}`)}
		p := preset(t, "anthropic")
		e, err := p.Estimate(c)
		if err != nil {
			t.Fatal(err)
		}
		m := newRemembering(t)
		r := m.Recall("k", "u", p, c, e)
		if LeastInput(c, e) > 100 != least || r.least > 1000 != least {
			t.Errorf("%q: at least %d, and %d to be remembered", deferred, LeastInput(c, e), r.least)
		}
	}
}

// opened is what a server may open of a value that it takes for content: it looks
// at whatever its vendor's types have as content there, and at no metadata.
func opened(value any, skip map[string]bool) (files, addresses int) {
	switch v := value.(type) {
	case []any:
		for _, x := range v {
			f, a := opened(x, skip)
			files, addresses = files+f, addresses+a
		}
	case map[string]any:
		quotes := v["type"] == "web_search_result" || v["type"] == "web_fetch_result"
		before := addresses
		for name, x := range v {
			_, isText := x.(string)
			switch {
			case skip[name] || opaque[name]:
			case name == "annotations" && skip["logprobs"]:
				f, a := noted(x, skip)
				files, addresses = files+f, addresses+a
			case name == "file_id" && isText:
				files++
			case (name == "url" || name == "image_url") && isText && !quotes:
				addresses++
			default:
				f, a := opened(x, skip)
				files, addresses = files+f, addresses+a
			}
		}
		if addresses == before && (v["type"] == "image" || v["type"] == "input_image") {
			addresses++ // of one that the server has
		}
	}
	return files, addresses
}

// noted is what may be opened of annotations: the files that OpenRouter found
// something in.
func noted(value any, skip map[string]bool) (files, addresses int) {
	switch v := value.(type) {
	case []any:
		for _, x := range v {
			f, a := noted(x, skip)
			files, addresses = files+f, addresses+a
		}
	case map[string]any:
		return opened(v["file"], skip)
	}
	return files, addresses
}

// TestWhateverStandsSomewhereIsSeen, for the vendors' names and types in any order
// and depth, and for invented names.
func TestWhateverStandsSomewhereIsSeen(t *testing.T) {
	t.Parallel()
	skips := map[string]map[string]bool{
		"messages": set("citations", "caller", "tabs", "state_changes", "from", "to", "trigger"),
		"items":    set("caller", "logprobs", "action", "actions", "operation", "outcome", "environment", "queries", "results", "outputs", "pending_safety_checks", "acknowledged_safety_checks"),
		"chat":     set("reasoning_details", "executed_tools", "logprobs", "citations"),
		"gemini":   set("partMetadata"),
	}
	names := []string{"content", "source", "output", "parts", "document", "file", "image_url", "citations", "annotations", "caller", "action", "outputs", "results",
		"reasoning_details", "partMetadata", "tool", "made_up", "thinking", "tool_references", "file_id", "url", "text", "data"}
	kinds := []string{"text", "image", "document", "file", "url", "tool_result", "web_search_result", "web_fetch_result", "bash_code_execution_output", "tool_reference",
		"message", "computer_call_output", "computer_screenshot", "url_citation", "code_interpreter_call", "input_file", "input_image"}
	var draw func(t *rapid.T, depth int) any
	draw = func(t *rapid.T, depth int) any {
		if depth == 0 || rapid.IntRange(0, 5).Draw(t, "leaf") == 0 {
			return "https://x"
		}
		if rapid.IntRange(0, 3).Draw(t, "list") == 0 {
			list := make([]any, rapid.IntRange(1, 2).Draw(t, "length"))
			for i := range list {
				list[i] = draw(t, depth-1)
			}
			return list
		}
		o := make(map[string]any)
		if rapid.Bool().Draw(t, "typed") {
			o["type"] = rapid.SampledFrom(kinds).Draw(t, "kind")
		}
		for range rapid.IntRange(1, 2).Draw(t, "members") {
			o[rapid.SampledFrom(names).Draw(t, "name")] = draw(t, depth-1)
		}
		return o
	}
	for frame, skip := range skips {
		var admitted, hidden int
		f := frames[frame]
		p := preset(t, f.preset)
		rapid.Check(t, func(t *rapid.T) {
			value := map[string]any{"content": draw(t, 5)}
			part, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			e, err := p.Estimate(&Call{Method: "POST", Path: f.path, Body: []byte(fmt.Sprintf(f.body, part))})
			if err != nil {
				return
			}
			admitted++
			files, addresses := opened(value, skip)
			if strings.Contains(string(part), "file_id") || strings.Contains(string(part), "url") {
				hidden++
			}
			if files > 0 && !e.Window {
				t.Fatalf("%s: %d files, and no window is held", part, files)
			}
			if !e.Window && e.Input < int64(addresses)*imageTokens {
				t.Fatalf("%s: %d addresses, and %d tokens are held", part, addresses, e.Input)
			}
		})
		if admitted == 0 || hidden == 0 {
			t.Errorf("%s: %d were admitted, %d of them with something to find", frame, admitted, hidden)
		}
	}
}
