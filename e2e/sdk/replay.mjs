// Has conversations of two requests with a vendor's own SDK: the second sends
// back what came as the first one's answer, in the way that the vendor's
// documents show, with the results of the calls in it.
//
//   node replay.mjs <dialect> <plain|stream|stored> <base URL>
//
// stored is a history that is kept at the vendor, and named.
//
// It reads one case a line, {"case", "key"}, and prints an outcome for each, as
// it comes: {"case", "turn"}, the turn that failed with its error, or 2.
import { createInterface } from "node:readline";
const [dialect, mode, base] = process.argv.slice(2);
const stream = mode === "stream";
const parameters = { type: "object", properties: { query: { type: "string" } } };
// So long that no slack hides it where a reference stands for the definition.
const about = "Looks up how high, how wide and how old a building is, and who built it. ".repeat(150);
const question = "how high is the tower?";
const result = "330 m";
const pixel = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const max = 21_000;

// openai is the OpenAI SDK, or another with the same calls.
const sdk = (load, path = "") => async (apiKey) => new (await load()).default({ apiKey, baseURL: base + path, maxRetries: 0, dangerouslyAllowBrowser: true });

const chat = (open, bound = "max_tokens") => async (key, headers) => {
  const client = await open(key);
  const tools = [{ type: "function", function: { name: "lookup", description: about, parameters } }];
  const messages = [{ role: "user", content: question }];
  const ask = () => ({ model: "m", [bound]: max, messages, tools });
  const { message } = stream
    ? (await client.chat.completions.stream(ask(), { headers: headers(1) }).finalChatCompletion()).choices[0]
    : (await client.chat.completions.create(ask(), { headers: headers(1) })).choices[0];
  messages.push(message);
  for (const call of message.tool_calls ?? []) messages.push({ role: "tool", tool_call_id: call.id, content: result });
  messages.push({ role: "user", content: "go on" });
  return () => client.chat.completions.create(ask(), { headers: headers(2) });
};

// outputs are the results of calls that a client of the Responses API runs.
const outputs = {
  function_call: ({ call_id }) => ({ type: "function_call_output", call_id, output: result }),
  custom_tool_call: ({ call_id }) => ({ type: "custom_tool_call_output", call_id, output: result }),
  computer_call: ({ call_id }) => ({ type: "computer_call_output", call_id, output: { type: "computer_screenshot", image_url: pixel } }),
  local_shell_call: ({ id }) => ({ type: "local_shell_call_output", id, output: result }),
  shell_call: ({ call_id, environment }) =>
    environment?.type !== "container_reference" && { type: "shell_call_output", call_id, output: [{ stdout: result, stderr: "", outcome: { type: "exit", exit_code: 0 } }] },
  apply_patch_call: ({ call_id }) => ({ type: "apply_patch_call_output", call_id, status: "completed", output: result }),
  tool_search_call: ({ call_id, execution }) =>
    execution === "client" && { type: "tool_search_output", call_id, execution, status: "completed", tools: [{ type: "function", name: "lookup", description: about, parameters, strict: false, defer_loading: true }] },
  mcp_approval_request: ({ id }) => ({ type: "mcp_approval_response", approval_request_id: id, approve: true }),
};

const anthropic = (messagesOf) => async (key, headers) => {
  const { default: Anthropic } = await import("@anthropic-ai/sdk");
  const client = messagesOf(new Anthropic({ apiKey: key, baseURL: base, maxRetries: 0 }));
  const tools = [{ name: "lookup", description: about, input_schema: parameters }];
  const messages = [{ role: "user", content: question }];
  const ask = () => ({ model: "m", max_tokens: max, messages, tools });
  const answer = stream ? await client.stream(ask(), { headers: headers(1) }).finalMessage() : await client.create(ask(), { headers: headers(1) });
  messages.push({ role: "assistant", content: answer.content });
  const results = answer.content.filter((block) => block.type === "tool_use").map(({ id }) => ({ type: "tool_result", tool_use_id: id, content: result }));
  messages.push({ role: "user", content: [...results, { type: "text", text: "go on" }] });
  return () => client.create(ask(), { headers: headers(2) });
};

const conversations = {
  "openai-chat": chat(sdk(() => import("openai"), "/v1"), "max_completion_tokens"),
  groq: chat(sdk(() => import("groq-sdk"))),
  together: chat(sdk(() => import("together-ai"), "/v1")),
  openrouter: chat(sdk(() => import("openai"), "/api/v1")),
  deepseek: chat(sdk(() => import("openai"))),
  xai: chat(sdk(() => import("openai"), "/v1")),
  vllm: chat(sdk(() => import("openai"), "/v1")),

  async "openai-responses"(key, headers) {
    const client = await sdk(() => import("openai"), "/v1")(key);
    const tools = [{ type: "function", name: "lookup", description: about, parameters, strict: false }];
    let input = [{ role: "user", content: question }];
    let previous_response_id;
    const ask = () => ({ model: "m", max_output_tokens: max, input, tools, previous_response_id });
    const { id, output } = stream
      ? await client.responses.stream(ask(), { headers: headers(1) }).finalResponse()
      : await client.responses.create(ask(), { headers: headers(1) });
    if (mode === "stored") [input, previous_response_id] = [[], id];
    else input.push(...output);
    for (const item of output) {
      const made = outputs[item.type]?.(item);
      if (made) input.push(made);
    }
    input.push({ role: "user", content: "go on" });
    return () => client.responses.create(ask(), { headers: headers(2) });
  },

  "anthropic-messages": anthropic((client) => client.messages),
  "anthropic-beta-messages": anthropic((client) => client.beta.messages),

  async gemini(apiKey, headers) {
    const { GoogleGenAI } = await import("@google/genai");
    const client = new GoogleGenAI({ apiKey, httpOptions: { baseUrl: base, retryOptions: { attempts: 1 } } });
    const tools = [{ functionDeclarations: [{ name: "lookup", description: about, parametersJsonSchema: parameters }] }];
    const config = (turn) => ({ maxOutputTokens: max, tools, httpOptions: { headers: headers(turn) } });
    const answers = (parts) => parts.filter((part) => part.functionCall).map(({ functionCall: { id, name } }) => ({ functionResponse: { id, name, response: { result } } }));
    if (stream) { // the SDK keeps the history
      const talk = client.chats.create({ model: "m" });
      const parts = [];
      for await (const chunk of await talk.sendMessageStream({ message: question, config: config(1) })) parts.push(...(chunk.candidates?.[0]?.content?.parts ?? []));
      return () => talk.sendMessage({ message: [...answers(parts), { text: "go on" }], config: config(2) });
    }
    const contents = [{ role: "user", parts: [{ text: question }] }];
    const { content } = (await client.models.generateContent({ model: "m", contents, config: config(1) })).candidates[0];
    contents.push(content, { role: "user", parts: [...answers(content.parts), { text: "go on" }] });
    return () => client.models.generateContent({ model: "m", contents, config: config(2) });
  },

  async mistral(apiKey, headers) {
    const { Mistral } = await import("@mistralai/mistralai");
    const client = new Mistral({ apiKey, serverURL: base, retryConfig: { strategy: "none" } });
    const tools = [{ type: "function", function: { name: "lookup", description: about, parameters } }];
    const messages = [{ role: "user", content: question }];
    const ask = () => ({ model: "m", maxTokens: max, messages, tools });
    const { message } = (await client.chat.complete(ask(), { headers: headers(1) })).choices[0];
    messages.push(message);
    for (const { id, function: { name } } of message.toolCalls ?? []) messages.push({ role: "tool", toolCallId: id, name, content: result });
    messages.push({ role: "user", content: "go on" });
    return () => client.chat.complete(ask(), { headers: headers(2) });
  },

  async cohere(token, headers) {
    const { CohereClientV2 } = await import("cohere-ai");
    const client = new CohereClientV2({ token, environment: base });
    const tools = [{ type: "function", function: { name: "lookup", description: about, parameters } }];
    const messages = [{ role: "user", content: question }];
    const ask = () => ({ model: "m", maxTokens: max, messages, tools });
    const { message } = await client.chat(ask(), { headers: headers(1), maxRetries: 0 });
    messages.push(message);
    for (const { id } of message.toolCalls ?? []) messages.push({ role: "tool", toolCallId: id, content: [{ type: "document", document: { data: { result } } }] });
    messages.push({ role: "user", content: "go on" });
    return () => client.chat(ask(), { headers: headers(2), maxRetries: 0 });
  },
};

async function have({ case: number, key }) {
  const outcome = { case: number, turn: 1 };
  try {
    const goOn = await conversations[dialect](key, (turn) => ({ "X-Test-Case": String(number), "X-Test-Turn": String(turn) }));
    outcome.turn = 2;
    await goOn();
  } catch (error) {
    outcome.error = { name: error.constructor.name, status: error.status ?? error.statusCode ?? null, message: `${error.message} ${stringOf(error.body)}`.replace(/\s+/g, " ").replaceAll('\\"', '"') };
  }
  console.log(JSON.stringify(outcome));
}

const stringOf = (body) => (typeof body === "object" ? JSON.stringify(body) : body ?? "");

const cases = [];
for await (const line of createInterface({ input: process.stdin })) cases.push(JSON.parse(line));
const all = cases.values(); // of which each takes the next
await Promise.all(Array.from({ length: 8 }, async () => {
  for (const one of all) await have(one);
}));
