// Makes one call with a vendor's own SDK, on its default settings, and prints
// what an application would see, as JSON:
//
//   node call.mjs <openai|anthropic|gemini> <plain|stream> <base URL> <key>
//
// It exits with 0 also when the SDK throws: that is an outcome, too.
import Anthropic from "@anthropic-ai/sdk";
import { GoogleGenAI } from "@google/genai";
import OpenAI from "openai";

const [vendor, mode, base, key] = process.argv.slice(2);
const stream = mode === "stream";
const prompt = "hi";

async function* openai() {
  const client = new OpenAI({ apiKey: key, baseURL: `${base}/v1` });
  const messages = [{ role: "user", content: prompt }];
  if (!stream) {
    const answer = await client.chat.completions.create({ model: "m", messages });
    yield answer.choices[0].message.content;
    return;
  }
  for await (const chunk of await client.chat.completions.create({ model: "m", messages, stream })) {
    yield chunk.choices[0].delta.content ?? "";
  }
}

async function* anthropic() {
  const client = new Anthropic({ apiKey: key, baseURL: base });
  const ask = { model: "m", max_tokens: 16, messages: [{ role: "user", content: prompt }] };
  if (!stream) {
    const answer = await client.messages.create(ask);
    yield answer.content[0].text;
    return;
  }
  for await (const event of await client.messages.create({ ...ask, stream })) {
    if (event.type === "content_block_delta") yield event.delta.text;
  }
}

async function* gemini() {
  const client = new GoogleGenAI({ apiKey: key, httpOptions: { baseUrl: base } });
  const ask = { model: "m", contents: prompt };
  if (!stream) {
    yield (await client.models.generateContent(ask)).text;
    return;
  }
  for await (const chunk of await client.models.generateContentStream(ask)) yield chunk.text;
}

const outcome = { text: "", parts: 0 };
try {
  for await (const part of { openai, anthropic, gemini }[vendor]()) {
    outcome.text += part;
    outcome.parts++;
    if (outcome.parts === 1) console.error("first part"); // for whoever waits for it
  }
} catch (error) {
  outcome.error = { name: error.constructor.name, status: error.status ?? null, message: String(error.message) };
}
console.log(JSON.stringify(outcome));
