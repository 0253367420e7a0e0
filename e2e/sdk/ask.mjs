// Makes one call with a vendor's own SDK, on its default settings, and prints what
// an application would see, as JSON:
//
//   node ask.mjs <call> <base URL> <key>
const [name, base, key] = process.argv.slice(2);

const openai = async () => new (await import("openai")).default({ apiKey: key, baseURL: `${base}/v1` });
const gemini = async () => new (await import("@google/genai")).GoogleGenAI({ apiKey: key, httpOptions: { baseUrl: base } });

const calls = {
  // A loop of two turns, which the SDK begins over a thread at the vendor.
  async toolRunner() {
    const { default: Anthropic } = await import("@anthropic-ai/sdk");
    const { betaTool } = await import("@anthropic-ai/sdk/helpers/beta/json-schema");
    const tool = betaTool({
      name: "add", description: "adds",
      inputSchema: { type: "object", properties: { a: { type: "number" }, b: { type: "number" } }, required: ["a", "b"] },
      run: ({ a, b }) => String(a + b),
    });
    const last = await new Anthropic({ apiKey: key, baseURL: base }).beta.messages.toolRunner({
      model: "claude-sonnet-5-5", max_tokens: 200, messages: [{ role: "user", content: "2 + 3?" }], tools: [tool],
    });
    return last.content.map((block) => block.text).join("");
  },

  // One text goes to embedContent or to batchEmbedContents, as the SDK likes; each
  // names the model twice.
  async embed() {
    const client = await gemini();
    const sizes = [];
    for (const contents of ["one", ["one", "two", "three"]]) {
      sizes.push((await client.models.embedContent({ model: "gemini-embedding-001", contents })).embeddings.length);
    }
    return sizes;
  },

  async moderate() {
    return (await (await openai()).moderations.create({ input: "hi" })).results[0].flagged;
  },

  async moderateWith() {
    return (await (await openai()).moderations.create({ model: "omni-moderation-latest", input: "hi" })).results[0].flagged;
  },

  // What was stored is read and deleted by its id.
  async stored() {
    const { responses } = await openai();
    const items = await responses.inputItems.list("resp_1");
    const read = await responses.retrieve("resp_1");
    const cancelled = await responses.cancel("resp_1");
    await responses.delete("resp_1");
    return [items.data.length, read.id, cancelled.status];
  },

  async predict() {
    const answer = await (await openai()).chat.completions.create({
      model: "gpt-4.1", messages: [{ role: "user", content: "rename it" }],
      prediction: { type: "content", content: "class User {\n  name: string;\n}\n" },
    });
    return answer.choices[0].message.content;
  },
};

try {
  console.log(JSON.stringify({ value: await calls[name]() }));
} catch (error) {
  console.log(JSON.stringify({ error: { name: error.constructor.name, status: error.status ?? null, message: String(error.message) } }));
}
