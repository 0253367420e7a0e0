// An agent's loop at the Responses API, as a vendor's SDK documents it and with its
// default of storing answers: it calls a tool until the model says that it is done.
//
//   node loop.mjs <client> <base URL> <model> <key> …
//
// It runs once for each key, and prints what the model said last or what the SDK
// threw, as JSON, one outcome for each.
const [name, base, ...runs] = process.argv.slice(2);
let model, key;
const task = "Count the lines of every file.";
const parameters = { type: "object", properties: { file: { type: "string" } }, required: ["file"], additionalProperties: false };
const run = (file) => `${file} has 42 lines.`;

async function openai() {
  const { default: OpenAI } = await import("openai");
  return new OpenAI({ apiKey: key, baseURL: `${base}/v1` });
}

const tools = [{ type: "function", name: "lines", description: "Counts the lines of a file.", parameters, strict: true }];

const outputs = (response) => response.output.filter((item) => item.type === "function_call").map((call) =>
  ({ type: "function_call_output", call_id: call.call_id, output: run(JSON.parse(call.arguments).file) }));

// history sends all that was said: input += response.output. create makes a call.
const history = (create, sent = (item) => item) => async () => {
  const client = await openai();
  const input = [{ role: "user", content: task }];
  for (;;) {
    const response = await create(client, { model, tools, input });
    const more = outputs(response);
    if (more.length === 0) return response.output_text;
    input.push(...response.output.map(sent), ...more);
  }
};

const plain = (client, ask) => client.responses.create(ask);

// vercel is the AI SDK, which refers to items by item_reference.
const vercel = (answer) => async () => {
  const { generateText, streamText, stepCountIs, tool, jsonSchema } = await import("ai");
  const { createOpenAI } = await import("@ai-sdk/openai");
  const ask = {
    model: createOpenAI({ apiKey: key, baseURL: `${base}/v1` })(model), prompt: task, stopWhen: stepCountIs(20),
    tools: { lines: tool({ description: "Counts the lines of a file.", inputSchema: jsonSchema(parameters), execute: async ({ file }) => run(file) }) },
  };
  return answer({ generateText, streamText }, ask);
};

const clients = {
  openai: history(plain),
  "openai-stream": history((client, ask) => client.responses.stream(ask).finalResponse()),
  // What @openai/agents 0.20.0 keeps of an item (its openaiResponsesModel).
  agents: history(plain, (item) => item.type === "reasoning" ? { type: "reasoning", id: item.id, summary: item.summary ?? [] } : item),
  async previous() {
    const client = await openai();
    let response = await client.responses.create({ model, tools, input: task });
    for (let more = outputs(response); more.length > 0; more = outputs(response)) {
      response = await client.responses.create({ model, tools, input: more, previous_response_id: response.id });
    }
    return response.output_text;
  },
  vercel: vercel(async ({ generateText }, ask) => (await generateText(ask)).text),
  "vercel-stream": vercel(async ({ streamText }, ask) => {
    let failed;
    const answer = streamText({ ...ask, onError: ({ error }) => { failed = error; } });
    let text = "";
    for await (const part of answer.textStream) text += part;
    if (failed) throw failed;
    return text;
  }),
};

globalThis.AI_SDK_LOG_WARNINGS = false; // standard output is for the outcome

const outcomes = [];
while (runs.length > 0) {
  [model, key] = runs.splice(0, 2);
  const outcome = { text: "" };
  outcomes.push(outcome);
  try {
    outcome.text = await clients[name]();
  } catch (error) {
    outcome.error = { name: error.constructor.name, status: error.status ?? error.statusCode ?? null, message: String(error.message) };
  }
}
console.log(JSON.stringify(outcomes));
