// What vendors' answers carry that is in no SDK's types, and that their own
// documents, or the clients, send back: small, and made by hand. Each names
// where it is described.
const lookup = { id: "call_1", type: "function", index: 0, function: { name: "lookup", arguments: '{"type":"report","file_id":"file-1"}' } };
const answer = (message) => ({
  id: "gen-1", object: "chat.completion", created: 1, model: "m", provider: "p",
  choices: [{ index: 0, finish_reason: "stop", native_finish_reason: "stop", logprobs: null, message: { role: "assistant", content: "hello", refusal: null, ...message } }],
  usage: { prompt_tokens: 1000, completion_tokens: 1000, total_tokens: 2000 },
});

const made = {
  // https://openrouter.ai/docs/guides/best-practices/reasoning-tokens: the three
  // kinds, which are to be sent back unchanged while tools are called.
  openrouter: {
    "reasoning.text": { reasoning: "first …", reasoning_details: [{ type: "reasoning.text", text: "first …", signature: "c2lnbmVk", id: "reasoning-1", format: "anthropic-claude-v1", index: 0 }], tool_calls: [lookup] },
    "reasoning.summary": { reasoning: "in short", reasoning_details: [{ type: "reasoning.summary", summary: "in short", id: "reasoning-2", format: "openai-responses-v1", index: 0 }], tool_calls: [lookup] },
    "reasoning.encrypted": { reasoning: null, reasoning_details: [{ type: "reasoning.encrypted", data: "gAAAAABsealed", id: "reasoning-3", format: "openai-responses-v1", index: 0 }], tool_calls: [lookup] },
    // With Gemini's tool calls: a text beside a sealed one, and null for what is not there (Kilo-Org/kilocode#3605).
    "reasoning.text/null": { content: null, reasoning_details: [{ type: "reasoning.text", text: "…", signature: null, id: null, format: "google-gemini-v1", index: 0 }, { type: "reasoning.encrypted", data: "c2VhbGVk", id: "call_1", format: "google-gemini-v1", index: 0 }], tool_calls: [lookup] },
    // https://openrouter.ai/docs/guides/features/plugins/web-search
    url_citation: { annotations: [{ type: "url_citation", url_citation: { url: "https://example.com/", title: "t", content: "c", start_index: 0, end_index: 5 } }] },
    // https://openrouter.ai/docs/guides/overview/multimodal/pdfs: what was read of
    // a file, to be sent back so that it is not read again.
    "file annotation": { annotations: [{ type: "file", file: { hash: "0f", name: "a.pdf", content: [{ type: "text", text: "page 1" }, { type: "image_url", image_url: { url: "data:image/png;base64,iVBORw0KGgo=" } }] } }] },
    // https://openrouter.ai/docs/guides/overview/multimodal/image-generation
    images: { images: [{ type: "image_url", image_url: { url: "data:image/png;base64,iVBORw0KGgo=" }, index: 0 }] },
  },
  // https://api-docs.deepseek.com/guides/thinking_mode
  deepseek: { reasoning_content: { reasoning_content: "first …", tool_calls: [lookup] } },
  // https://docs.x.ai/docs/guides/reasoning
  xai: { reasoning_content: { reasoning_content: "first …", tool_calls: [lookup] } },
  // https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html: fields
  // that have nothing to say are null or empty.
  vllm: { reasoning: { reasoning: "first …", reasoning_content: "first …", annotations: null, audio: null, function_call: null, tool_calls: [] } },
};

export const extensions = Object.entries(made).flatMap(([dialect, kinds]) =>
  Object.entries(kinds).map(([kind, message]) => ({ dialect, kind, answer: answer(message) })));
