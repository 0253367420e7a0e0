// The errand of sdk/errand.mjs on the frameworks that are in no other package.
//
//   node frameworks.mjs <framework> <model> <prompt> [stream] [picture.png]
import { readFileSync } from "node:fs";
import { Agent, run, tool } from "@openai/agents";

const [name, model, prompt, ...rest] = process.argv.slice(2);
const picture = rest.find((arg) => arg.endsWith(".png"));

const frameworks = {
  async "openai-agents"() {
    const read = tool({
      name: "read", description: "Reads a file and returns its text.", strict: false,
      parameters: { type: "object", properties: { path: { type: "string" } }, required: ["path"], additionalProperties: true },
      execute: ({ path }) => (path.endsWith(".png") ? "a picture" : readFileSync(path, "utf8")),
      errorFunction: null,
    });
    const content = [{ type: "input_text", text: prompt }];
    if (picture) content.push({ type: "input_image", image: `data:image/png;base64,${readFileSync(picture, "base64")}` });
    const agent = new Agent({ name: "reader", instructions: "Read.", model, tools: [read] });
    const result = await run(agent, [{ role: "user", content }], { stream: rest.includes("stream"), maxTurns: 50 });
    await result.completed;
    if (result.error) throw result.error;
    return result.finalOutput;
  },
};

try {
  console.log(await frameworks[name]());
} catch (e) {
  console.error(`${e.name}: ${e.message}`);
  process.exitCode = 1;
}
