// An agent of a few lines on each SDK, as the vendors' guides have it: it sends back
// what it was told, runs the tools that it is asked to run, and goes on until there
// are none. It takes everything from the environment, as agent.mjs does.
//
//   node errand.mjs <client> <model> <prompt> [stream] [picture.png]
//
// It prints what it was told last.
import { readFileSync } from "node:fs";

const [name, model, prompt, ...rest] = process.argv.slice(2);
const streams = rest.includes("stream");
const picture = rest.find((arg) => arg.endsWith(".png"));
const png = picture && readFileSync(picture).toString("base64");
const base = process.env.TILL_BASE_URL;

const description = "Reads a file and returns its text.";
const parameters = { type: "object", properties: { path: { type: "string", description: "The file's path." } }, required: ["path"], additionalProperties: false };
const read = ({ path }) => (path.endsWith(".png") ? "a picture" : readFileSync(path, "utf8"));
const args = (text) => (typeof text === "string" ? JSON.parse(text) : text);

// loop asks until nothing is to be run: ask returns the text, the calls, and how
// their results are told.
async function loop(ask) {
  for (let turn = 0; turn < 50; turn++) {
    const { text, calls, tell } = await ask();
    if (!calls?.length) return text;
    for (const call of calls) tell(call, read(args(call.arguments ?? call.args ?? call.input ?? call.function.arguments)));
  }
  throw new Error("it never ends");
}

async function vercel(model) {
  const { generateText, streamText, tool, jsonSchema, stepCountIs } = await import("ai");
  const content = [{ type: "text", text: prompt }, ...(png ? [{ type: "image", image: png, mediaType: "image/png" }] : [])];
  let failed;
  const options = {
    model, stopWhen: stepCountIs(50), messages: [{ role: "user", content }],
    tools: { read: tool({ description, inputSchema: jsonSchema(parameters), execute: read }) },
    onError: ({ error }) => (failed = error),
  };
  if (!streams) return (await generateText(options)).text;
  let text = "";
  for await (const part of streamText(options).textStream) text += part;
  if (failed) throw failed;
  return text;
}

async function langchain(chat) {
  const { tool } = await import("@langchain/core/tools");
  const { HumanMessage, ToolMessage } = await import("@langchain/core/messages");
  const bound = chat.bindTools([tool(read, { name: "read", description, schema: parameters })]);
  const content = [{ type: "text", text: prompt }, ...(png ? [{ type: "image_url", image_url: { url: `data:image/png;base64,${png}` } }] : [])];
  const messages = [new HumanMessage({ content })];
  return loop(async () => {
    let answer;
    if (streams) for await (const chunk of await bound.stream(messages)) answer = answer ? answer.concat(chunk) : chunk;
    else answer = await bound.invoke(messages);
    messages.push(answer);
    return { text: answer.text, calls: answer.tool_calls, tell: (c, result) => messages.push(new ToolMessage({ content: result, tool_call_id: c.id })) };
  });
}

const clients = {
  async openai() {
    const client = new (await import("openai")).default();
    const input = [{ role: "user", content: [{ type: "input_text", text: prompt }, ...(png ? [{ type: "input_image", detail: "auto", image_url: `data:image/png;base64,${png}` }] : [])] }];
    const options = { model, input, tools: [{ type: "function", name: "read", description, parameters, strict: true }] };
    return loop(async () => {
      const answer = streams ? await client.responses.stream(options).finalResponse() : await client.responses.create(options);
      if (answer.error) throw new Error(answer.error.message);
      input.push(...answer.output);
      return {
        text: answer.output_text, calls: answer.output.filter((item) => item.type === "function_call"),
        tell: (c, output) => input.push({ type: "function_call_output", call_id: c.call_id, output }),
      };
    });
  },

  async "openai-chat"() {
    const client = new (await import("openai")).default();
    const messages = [{ role: "user", content: [{ type: "text", text: prompt }, ...(png ? [{ type: "image_url", image_url: { url: `data:image/png;base64,${png}` } }] : [])] }];
    const options = { model, messages, tools: [{ type: "function", function: { name: "read", description, parameters, strict: true } }] };
    return loop(async () => {
      const answer = streams ? await client.chat.completions.stream(options).finalChatCompletion() : await client.chat.completions.create(options);
      const { message } = answer.choices[0];
      messages.push(message);
      return { text: message.content, calls: message.tool_calls, tell: (c, content) => messages.push({ role: "tool", tool_call_id: c.id, content }) };
    });
  },

  async anthropic() {
    const client = new (await import("@anthropic-ai/sdk")).default();
    const source = { type: "base64", media_type: "image/png", data: png };
    const messages = [{ role: "user", content: [{ type: "text", text: prompt }] }];
    const options = { model, max_tokens: 4000, messages, tools: [{ name: "read", description, input_schema: parameters }] };
    return loop(async () => {
      const answer = streams ? await client.messages.stream(options).finalMessage() : await client.messages.create(options);
      const results = [];
      messages.push({ role: "assistant", content: answer.content }, { role: "user", content: results });
      return {
        text: answer.content.findLast((block) => block.type === "text").text, calls: answer.content.filter((block) => block.type === "tool_use"),
        tell: (c, text) => results.push({ type: "tool_result", tool_use_id: c.id, content: text === "a picture" ? [{ type: "image", source }] : text }),
      };
    });
  },

  async gemini() {
    const client = new (await import("@google/genai")).GoogleGenAI({});
    const contents = [{ role: "user", parts: [{ text: prompt }, ...(png ? [{ inlineData: { mimeType: "image/png", data: png } }] : [])] }];
    const options = { model, contents, config: { tools: [{ functionDeclarations: [{ name: "read", description, parametersJsonSchema: parameters }] }] } };
    return loop(async () => {
      let parts = [];
      if (streams) for await (const chunk of await client.models.generateContentStream(options)) parts.push(...(chunk.candidates?.[0].content?.parts ?? []));
      else parts = (await client.models.generateContent(options)).candidates[0].content.parts;
      const results = [];
      contents.push({ role: "model", parts }, { role: "user", parts: results });
      return {
        text: parts.map((part) => part.text ?? "").join(""), calls: parts.map((part) => part.functionCall).filter(Boolean),
        tell: (c, output) => results.push({ functionResponse: { id: c.id, name: c.name, response: { output } } }),
      };
    });
  },

  async mistral() {
    const client = new (await import("@mistralai/mistralai")).Mistral({ apiKey: process.env.MISTRAL_API_KEY, serverURL: base });
    const messages = [{ role: "user", content: [{ type: "text", text: prompt }, ...(png ? [{ type: "image_url", imageUrl: `data:image/png;base64,${png}` }] : [])] }];
    const options = { model, messages, tools: [{ type: "function", function: { name: "read", description, parameters } }] };
    return loop(async () => {
      let message = { role: "assistant", content: "", toolCalls: undefined };
      if (streams) {
        for await (const { data } of await client.chat.stream(options)) {
          const delta = data.choices[0]?.delta ?? {};
          message.content += delta.content ?? "";
          if (delta.toolCalls) message.toolCalls = [...(message.toolCalls ?? []), ...delta.toolCalls];
        }
      } else {
        message = (await client.chat.complete(options)).choices[0].message;
      }
      messages.push(message);
      return { text: message.content, calls: message.toolCalls, tell: (c, content) => messages.push({ role: "tool", toolCallId: c.id, name: c.function.name, content }) };
    });
  },

  async cohere() {
    const client = new (await import("cohere-ai")).CohereClientV2({ environment: base });
    const messages = [{ role: "user", content: [{ type: "text", text: prompt }, ...(png ? [{ type: "image_url", imageUrl: { url: `data:image/png;base64,${png}` } }] : [])] }];
    const options = { model, messages, tools: [{ type: "function", function: { name: "read", description, parameters } }] };
    return loop(async () => {
      let message;
      if (streams) {
        message = { role: "assistant", content: "", toolCalls: undefined };
        for await (const event of await client.chatStream(options)) {
          if (event.delta?.error) throw new Error(event.delta.error);
          const delta = event.delta?.message ?? {};
          message.content += delta.content?.text ?? "";
          if (delta.toolCalls && event.type === "tool-call-start") message.toolCalls = [...(message.toolCalls ?? []), delta.toolCalls];
        }
      } else {
        ({ message } = await client.chat(options));
      }
      messages.push(message);
      return {
        text: typeof message.content === "string" ? message.content : message.content?.[0].text, calls: message.toolCalls,
        tell: (c, content) => messages.push({ role: "tool", toolCallId: c.id, content }),
      };
    });
  },

  "vercel-openai": async () => vercel((await import("@ai-sdk/openai")).openai(model)),
  "vercel-anthropic": async () => vercel((await import("@ai-sdk/anthropic")).anthropic(model)),
  "vercel-google": async () => vercel((await import("@ai-sdk/google")).createGoogleGenerativeAI({ baseURL: `${base}/v1beta` })(model)),
  "langchain-openai": async () => langchain(new (await import("@langchain/openai")).ChatOpenAI({ model })),
  "langchain-openai-responses": async () => langchain(new (await import("@langchain/openai")).ChatOpenAI({ model, useResponsesApi: true })),
  "langchain-anthropic": async () => langchain(new (await import("@langchain/anthropic")).ChatAnthropic({ model, maxTokens: 4000 })),
};

globalThis.AI_SDK_LOG_WARNINGS = false; // standard output is for the answer
try {
  console.log(await clients[name]());
} catch (e) {
  console.error(`${e.name}: ${e.message}`);
  process.exitCode = 1;
}
