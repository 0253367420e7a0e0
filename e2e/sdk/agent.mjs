// An application as people write them: its SDK takes everything from the
// environment, but for the address where no variable sets it.
//
//   node agent.mjs <client> [hold]
//
// It prints what it was told, then its environment, one JSON value a line. With
// hold it says "ready" and waits to be ended.
const [name, hold] = process.argv.slice(2);
const prompt = "hi";
const messages = [{ role: "user", content: prompt }];
const base = process.env.TILL_BASE_URL;

async function vercel(model) {
  const { generateText } = await import("ai");
  return (await generateText({ model, prompt })).text;
}

const langchain = async (model) => (await model.invoke(prompt)).content;

const completions = async (client) => (await client.chat.completions.create({ model: "m", messages })).choices[0].message.content;

const clients = {
  openai: async () => completions(new (await import("openai")).default()),
  groq: async () => completions(new (await import("groq-sdk")).default()),
  together: async () => completions(new (await import("together-ai")).default()),

  async anthropic() {
    const { default: Anthropic } = await import("@anthropic-ai/sdk");
    return (await new Anthropic().messages.create({ model: "m", max_tokens: 16, messages })).content[0].text;
  },

  async gemini() {
    const { GoogleGenAI } = await import("@google/genai");
    return (await new GoogleGenAI({}).models.generateContent({ model: "m", contents: prompt })).text;
  },

  async mistral() {
    const { Mistral } = await import("@mistralai/mistralai");
    const client = new Mistral({ apiKey: process.env.MISTRAL_API_KEY, serverURL: base });
    return (await client.chat.complete({ model: "m", messages })).choices[0].message.content;
  },

  async cohere() {
    const { CohereClientV2 } = await import("cohere-ai");
    return (await new CohereClientV2({ environment: base }).chat({ model: "m", messages })).message.content[0].text;
  },

  "vercel-openai": async () => vercel((await import("@ai-sdk/openai")).openai("m")),
  "vercel-anthropic": async () => vercel((await import("@ai-sdk/anthropic")).anthropic("m")),
  "vercel-google": async () =>
    vercel((await import("@ai-sdk/google")).createGoogleGenerativeAI({ baseURL: `${base}/v1beta` })("m")),

  "langchain-openai": async () => langchain(new (await import("@langchain/openai")).ChatOpenAI({ model: "m" })),
  "langchain-anthropic": async () => langchain(new (await import("@langchain/anthropic")).ChatAnthropic({ model: "m", maxTokens: 16 })),
};

globalThis.AI_SDK_LOG_WARNINGS = false; // standard output is for the answer

console.log(JSON.stringify(await clients[name]()));
console.log(JSON.stringify(process.env));
if (hold) {
  console.log('"ready"');
  setInterval(() => {}, 1000);
}
