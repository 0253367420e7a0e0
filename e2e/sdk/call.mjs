// Makes calls with a vendor's own SDK, on its default settings, and prints
// what an application would see, as JSON, one outcome for each call:
//
//   node call.mjs <client> <plain|stream,…> <base URL> <key,…>
//
// Of several keys each is for one of the calls; else all are made with the one.
// It exits with 0 also when the SDK throws: that is an outcome, too.
const [name, modes, base, keys] = process.argv.slice(2);
let key;
const prompt = "hi";
const messages = [{ role: "user", content: prompt }];

// openai is the OpenAI SDK, which many vendors tell their users to take; path
// is what they tell them to add to the address.
const openai = (path) => async function* (stream) {
  const { default: OpenAI } = await import("openai");
  yield* completions(new OpenAI({ apiKey: key, baseURL: base + path }), stream);
};

// completions is the call that several SDKs have in the same shape.
async function* completions(client, stream) {
  if (!stream) {
    yield (await client.chat.completions.create({ model: "m", messages })).choices[0].message.content;
    return;
  }
  for await (const chunk of await client.chat.completions.create({ model: "m", messages, stream })) {
    yield chunk.choices[0].delta.content ?? "";
  }
}

// vercel is the Vercel AI SDK with one of its providers.
const vercel = (provider) => async function* (stream) {
  const { generateText, streamText } = await import("ai");
  const ask = { model: await provider(), prompt };
  if (!stream) {
    yield (await generateText(ask)).text;
    return;
  }
  let failed;
  const answer = streamText({ ...ask, onError: ({ error }) => { failed = error; } });
  for await (const part of answer.textStream) yield part;
  if (failed) throw failed;
}

const clients = {
  openai: openai("/v1"),
  openrouter: openai("/api/v1"),
  fireworks: openai("/inference/v1"),
  perplexity: openai(""),
  deepseek: openai(""),
  xai: openai("/v1"),
  ollama: openai("/v1"),
  vllm: openai("/v1"),
  llamacpp: openai("/v1"),
  lmstudio: openai("/v1"),
  tgi: openai("/v1"),
  sglang: openai("/v1"),

  async *anthropic(stream) {
    const { default: Anthropic } = await import("@anthropic-ai/sdk");
    const client = new Anthropic({ apiKey: key, baseURL: base });
    const ask = { model: "m", max_tokens: 16, messages };
    if (!stream) {
      yield (await client.messages.create(ask)).content[0].text;
      return;
    }
    for await (const event of await client.messages.create({ ...ask, stream })) {
      if (event.type === "content_block_delta") yield event.delta.text;
    }
  },

  async *gemini(stream) {
    const { GoogleGenAI } = await import("@google/genai");
    const client = new GoogleGenAI({ apiKey: key, httpOptions: { baseUrl: base } });
    const ask = { model: "m", contents: prompt };
    if (!stream) {
      yield (await client.models.generateContent(ask)).text;
      return;
    }
    for await (const chunk of await client.models.generateContentStream(ask)) yield chunk.text;
  },

  async *mistral(stream) {
    const { Mistral } = await import("@mistralai/mistralai");
    const client = new Mistral({ apiKey: key, serverURL: base });
    if (!stream) {
      yield (await client.chat.complete({ model: "m", messages })).choices[0].message.content;
      return;
    }
    for await (const event of await client.chat.stream({ model: "m", messages })) yield event.data.choices[0].delta.content;
  },

  async *groq(stream) {
    const { default: Groq } = await import("groq-sdk");
    yield* completions(new Groq({ apiKey: key, baseURL: base }), stream);
  },

  async *together(stream) {
    const { default: Together } = await import("together-ai");
    yield* completions(new Together({ apiKey: key, baseURL: `${base}/v1` }), stream);
  },

  async *cohere(stream) {
    const { CohereClientV2 } = await import("cohere-ai");
    const client = new CohereClientV2({ token: key, environment: base });
    if (!stream) {
      yield (await client.chat({ model: "m", messages })).message.content[0].text;
      return;
    }
    for await (const event of await client.chatStream({ model: "m", messages })) {
      if (event.type === "content-delta") yield event.delta.message.content.text;
    }
  },

  "vercel-openai": vercel(async () => (await import("@ai-sdk/openai")).createOpenAI({ apiKey: key, baseURL: `${base}/v1` })("m")),
  "vercel-anthropic": vercel(async () => (await import("@ai-sdk/anthropic")).createAnthropic({ apiKey: key, baseURL: base })("m")),
  "vercel-google": vercel(async () => (await import("@ai-sdk/google")).createGoogleGenerativeAI({ apiKey: key, baseURL: `${base}/v1beta` })("m")),
  "vercel-compatible": vercel(async () =>
    (await import("@ai-sdk/openai-compatible")).createOpenAICompatible({ name: "deepseek", apiKey: key, baseURL: base })("m")),
};

globalThis.AI_SDK_LOG_WARNINGS = false; // standard output is for the outcomes

const outcomes = [];
for (const [i, mode] of modes.split(",").entries()) {
  key = keys.split(",")[i] ?? keys;
  const outcome = { text: "", parts: 0 };
  outcomes.push(outcome);
  try {
    for await (const part of clients[name](mode === "stream")) {
      outcome.text += part;
      outcome.parts++;
      if (outcome.parts === 1) console.error("first part"); // for whoever waits for it
    }
  } catch (error) {
    outcome.error = { name: error.constructor.name, status: error.status ?? error.statusCode ?? null, message: String(error.message) + (error.cause ? ` (${error.cause})` : "") };
  }
}
console.log(JSON.stringify(outcomes));
