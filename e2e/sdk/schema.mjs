// Answers as the vendors' own SDKs type them: every member of a union occurs,
// and every optional field is filled in. They are read from the types that are
// installed, so what a vendor adds is in the answers once its SDK is updated.
//
//   node schema.mjs [dialect…]
//
// It prints {"dialect", "kind", "answer"} as JSON, one answer a line, the same
// ones whenever the same SDKs are installed. A kind names what the content is,
// then the types that are nested in it. TypeScript stays at its version 6: the
// compiler of version 7 is a program that offers no such interface.
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import ts from "typescript";
import { extensions } from "./extensions.mjs";

const here = dirname(fileURLToPath(import.meta.url));

// dialects say where a vendor's answer is typed, and which list of it is the
// content that a client sends back: one answer is made for each element that
// the list can have. fixed are members whose values other tests are about, or
// that would say that the answer failed.
const dialects = {
  "openai-chat": {
    type: `import("openai").default.Chat.ChatCompletion`,
    content: ["choices", 0, "message"],
    apart: ["audio"], // modalities
    fixed: { model: "m", service_tier: "default", choices: { finish_reason: "stop", index: 0 } },
  },
  "openai-responses": {
    type: `import("openai").default.Responses.Response`,
    content: ["output"],
    // output_text is the SDK's own sum of the output, and tells nothing else.
    fixed: { model: "m", service_tier: "default", status: "completed", error: null, incomplete_details: null, output_text: undefined },
  },
  "anthropic-messages": {
    type: `import("@anthropic-ai/sdk").default.Messages.Message`,
    content: ["content"],
    fixed: { model: "m", stop_reason: "end_turn", usage: { service_tier: "standard" } },
  },
  "anthropic-beta-messages": {
    type: `import("@anthropic-ai/sdk").default.Beta.Messages.BetaMessage`,
    content: ["content"],
    fixed: { model: "m", stop_reason: "end_turn", usage: { service_tier: "standard", speed: "standard", iterations: null } },
  },
  groq: {
    type: `import("groq-sdk").default.Chat.ChatCompletion`,
    content: ["choices", 0, "message"],
    fixed: { model: "m", choices: { finish_reason: "stop", index: 0 } },
  },
  together: {
    type: `import("together-ai").default.Chat.ChatCompletion`,
    content: ["choices", 0, "message"],
    fixed: { model: "m", choices: { finish_reason: "stop", index: 0 } },
  },
  gemini: {
    type: `import("@google/genai").GenerateContentResponse`,
    content: ["candidates", 0, "content", "parts"],
    // The first two are added by the SDK and are on no wire.
    fixed: { sdkHttpResponse: undefined, automaticFunctionCallingHistory: undefined, promptFeedback: undefined, modelVersion: "m",
      candidates: { content: { role: "model" }, finishReason: "STOP", index: 0 }, usageMetadata: { serviceTier: undefined, trafficType: undefined } },
  },
  mistral: {
    type: `import("@mistralai/mistralai/models/components/index.js").ChatCompletionResponse`,
    content: ["choices", 0, "message"],
    fixed: { model: "m", choices: { finish_reason: "stop", index: 0 } },
    snake: true, // the SDK's names are not those of the wire
  },
  cohere: {
    // The SDK's Raw types are those of the wire.
    type: `import("./node_modules/cohere-ai/serialization/resources/v2/types/V2ChatResponse").V2ChatResponse.Raw`,
    content: ["message"],
    fixed: { finish_reason: "COMPLETE" },
  },
};

// Google's API reference calls the data of a Part a union, of which a part has
// exactly one member, and so that of a FunctionResponsePart; the SDK's types are
// objects with all of them. These are those beside the union
// (https://ai.google.dev/api/caching#Part).
const unions = ["Part", "FunctionResponsePart"];
const besideData = ["thought", "thoughtSignature", "partMetadata", "mediaResolution", "videoMetadata", "mediaProcessing", "speechMetadata"];

// prose has several scripts, and what JSON and templates escape.
const prose = `The tower is 330 m tall ("Iron Lady"), 東京タワーは333メートル。\n\tШирина: 125 м 🗼`;
const pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
// What an application's own JSON looks like must not matter: this looks like
// content that points elsewhere.
const own = () => ({ type: "report", file_id: "file-1", query: prose });

// words are strings of which a client, or the SDK, reads more than their text.
const words = [
  [/^(arguments|input_json)$/, () => JSON.stringify(own())],
  [/^(data|result|image_data|screenshot|b64_json)$/, () => pixel],
  [/^(mime_?type|media_?type)$/i, () => "image/png"],
  [/(^|_)(uri|url)s?$|U(ri|rl)$/i, () => "https://example.com/tower.png"],
  [/signature$|^encrypted|^fingerprint$|token$/i, () => Buffer.from(prose.repeat(3)).toString("base64")],
  [/_at$|(date|time|timestamp)$/i, () => "2026-11-29T12:00:00Z"],
  [/^(name|tool_name)$/, () => "lookup"],
  [/^role$/, () => "assistant"],
];

class Schema {
  constructor(snake) {
    this.snake = snake;
    this.ids = 0;
  }

  // name is how the wire calls a member.
  name(property) {
    return this.snake ? property.replace(/[A-Z]/g, (c) => "_" + c.toLowerCase()) : property;
  }

  text(name) {
    if (isID(name)) return "id";
    const found = words.find(([pattern]) => pattern.test(name));
    return found ? found[1]() : prose;
  }

  number(name) {
    if (/^(input|prompt|output|completion|candidates)_?(token(s|_?count))$/i.test(name)) return 1000;
    if (/^total_?token/i.test(name)) return 2000;
    return 1;
  }

  // variants are values of a type that together hold every member of every
  // union in it: a union's are those of its members, an object's as many as
  // the longest list of its members' has, and a list's one for each type of
  // element. within are the types around it: none is repeated in itself.
  variants(type, name, within = []) {
    const f = type.flags;
    // Of a type that is not found nothing is known, and no answer would show it.
    if (f & ts.TypeFlags.Any && name !== "value") throw new Error(`the type of ${name} is not found`);
    if (f & (ts.TypeFlags.Any | ts.TypeFlags.Unknown | ts.TypeFlags.NonPrimitive)) return [own()];
    if (f & (ts.TypeFlags.Undefined | ts.TypeFlags.Void | ts.TypeFlags.Never)) return [];
    if (f & ts.TypeFlags.Null) return [null];
    if (type.isStringLiteral() || type.isNumberLiteral()) return [type.value];
    if (f & ts.TypeFlags.BooleanLiteral) return [checker.typeToString(type) === "true"];
    if (f & ts.TypeFlags.StringLike) return [this.text(name)];
    if (f & (ts.TypeFlags.NumberLike | ts.TypeFlags.BigIntLike)) return [this.number(name)];
    if (type.isUnion()) return this.members(type, name).flatMap((member) => this.variants(member, name, within));
    if (type.isIntersection() && type.types.some(isText)) return [this.text(name)];
    if (within.includes(type)) return [];
    const inside = [...within, type];
    if (checker.isArrayLikeType(type)) return this.lists(checker.getTypeArguments(type)[0], name, inside);
    switch (type.symbol?.name) {
      case "Date":
        return [this.text("date")];
      case "Uint8Array": // the SDK's other way to give it base64
      case "Blob":
        if (type.symbol.declarations.some((d) => program.isSourceFileDefaultLibrary(d.getSourceFile()))) return [];
    }
    const values = checker.getIndexTypeOfType(type, ts.IndexKind.String);
    if (values && checker.getPropertiesOfType(type).length === 0) return [this.record(values, inside)];
    return this.objects(type, inside);
  }

  members(type, name) {
    // null comes last, and what an SDK adds for values that it does not know is left out.
    const known = type.types.filter((t) => !checker.getPropertyOfType(t, "isUnknown") && !/UNSPECIFIED$/.test(t.value ?? ""));
    const words = known.filter((t) => t.flags & ts.TypeFlags.StringLiteral);
    const others = known.filter((t) => !words.includes(t) && !(words.length && isText(t)) && !(t.flags & ts.TypeFlags.Null));
    return [...words.slice(0, name === "type" ? undefined : mostWords), ...others, ...known.filter((t) => t.flags & ts.TypeFlags.Null)];
  }

  lists(element, name, within) {
    const groups = new Map();
    for (const value of this.variants(element, name, within)) {
      const key = value === null || typeof value !== "object" ? typeof value : label(value);
      groups.set(key, [...(groups.get(key) ?? []), value]);
    }
    return groups.size ? [...groups.values()] : [[]];
  }

  record(values, within) {
    return Object.fromEntries(this.variants(values, "value", within).map((value, i) => [`key_${i}`, value]));
  }

  objects(type, within) {
    const lists = new Map();
    for (const property of checker.getPropertiesOfType(type)) {
      if (property.flags & (ts.SymbolFlags.Accessor | ts.SymbolFlags.Method)) continue; // the SDK's own
      // The Gemini API's members and those of Google's cloud stand in the same types.
      if (/not supported in Gemini API/.test(ts.displayPartsToString(property.getDocumentationComment(checker)))) continue;
      const name = this.name(property.name);
      const values = this.variants(checker.getTypeOfSymbol(property), name, within);
      if (values.length) lists.set(name, values);
    }
    if (unions.includes(type.symbol?.name) && lists.has("fileData")) return parts(lists);
    return zip(lists);
  }

  // bare is the first variant of an object with nothing but what it must have.
  bare(type) {
    const lists = new Map();
    for (const property of checker.getPropertiesOfType(type)) {
      if (property.flags & (ts.SymbolFlags.Accessor | ts.SymbolFlags.Method | ts.SymbolFlags.Optional)) continue;
      const name = this.name(property.name);
      const [value] = this.variants(checker.getTypeOfSymbol(property), name).slice(-1); // null, where it may be
      if (value !== undefined) lists.set(name, [value]);
    }
    return zip(lists);
  }

  // identified gives each identifier in an answer a value of its own.
  identified(value) {
    return JSON.parse(JSON.stringify(value, (name, value) => (value === "id" && (isID(name) || /^\d+$/.test(name)) ? `id_${++this.ids}` : value)));
  }

  // at is the type at a place of another.
  at(type, [step, ...rest]) {
    if (step === undefined) return type;
    type = checker.getNonNullableType(type);
    if (typeof step === "number") return this.at(checker.getTypeArguments(type)[0], rest);
    return this.at(checker.getNonNullableType(checker.getTypeOfSymbol(checker.getPropertyOfType(type, step))), rest);
  }
}

// mostWords are how many of the words that a member can be are tried, but for its
// type: lists of codes of errors are long, and no reader tells them apart.
const mostWords = 4;

const isID = (name) => /(^|_)ids?$|Ids?$/.test(name);

const isText = (type) => (type.flags & ts.TypeFlags.String) !== 0 || (type.isIntersection() && type.types.some(isText));

const zip = (lists) => {
  const most = Math.max(1, ...[...lists.values()].map((values) => values.length));
  return Array.from({ length: most }, (_, n) => Object.fromEntries([...lists].map(([name, values]) => [name, values[n % values.length]])));
};

function parts(lists) {
  const beside = [...lists].filter(([name]) => besideData.includes(name));
  const data = [...lists].filter(([name]) => !besideData.includes(name));
  return data.flatMap((one) => [...zip(new Map([one, ...beside])), ...zip(new Map([one])).slice(0, 1)]);
}

// kindOf names what a value is, by its own type or by the data that a part has.
function kindOf(value) {
  if (value === null || typeof value !== "object") return typeof value;
  if (Array.isArray(value)) return "list";
  return value.type ?? value.role ?? Object.keys(value).find((name) => !besideData.includes(name)) ?? "";
}

// label adds the types that are nested in a value, but for what is the
// application's own.
function label(value) {
  const types = new Set();
  const look = (value) => {
    if (value === null || typeof value !== "object") return;
    if (/^[\w.]+$/.test(value.type ?? "") && value.type !== "report") types.add(value.type);
    for (const name of ["fileData", "inlineData"]) if (value[name]) types.add(name); // Gemini's have no type
    Object.values(value).forEach(look);
  };
  Object.values(value).forEach(look);
  return [kindOf(value), ...types].join("/");
}

const stringOf = (value) => JSON.stringify(value);

// put replaces what stands at a place.
function put(value, [step, ...rest], content) {
  if (step === undefined) return content;
  const copy = Array.isArray(value) ? [...value] : { ...value };
  copy[step] = put(copy[step], rest, content);
  return copy;
}

// fix sets the fixed members, of each element where there are several.
function fix(value, fixed) {
  if (Array.isArray(value)) return value.slice(0, 1).map((element) => fix(element, fixed));
  for (const [name, to] of Object.entries(fixed)) {
    value[name] = to !== null && typeof to === "object" ? fix(value[name], to) : to;
  }
  return value;
}

let program, checker;

// compile reads the types of all dialects at once.
function compile() {
  const entry = join(here, "schema-entry.ts");
  const source = Object.values(dialects).map(({ type }, i) => `export type T${i} = ${type};`).join("\n");
  const options = { module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler, target: ts.ScriptTarget.ES2022,
    lib: ["lib.es2022.d.ts", "lib.dom.d.ts", "lib.dom.iterable.d.ts"], types: [], strict: true, skipLibCheck: true, noEmit: true };
  const host = ts.createCompilerHost(options);
  const { getSourceFile, fileExists, readFile } = host;
  host.getSourceFile = (name, ...rest) => (name === entry ? ts.createSourceFile(name, source, ts.ScriptTarget.ES2022) : getSourceFile(name, ...rest));
  host.fileExists = (name) => name === entry || fileExists(name);
  host.readFile = (name) => (name === entry ? source : readFile(name));
  program = ts.createProgram([entry], options, host);
  checker = program.getTypeChecker();
  const file = program.getSourceFile(entry);
  const wrong = program.getSemanticDiagnostics(file);
  if (wrong.length) throw new Error(ts.flattenDiagnosticMessageText(wrong[0].messageText, "\n"));
  const types = file.statements.map((statement) => checker.getTypeAtLocation(statement.name));
  Object.keys(dialects).forEach((name, i) => { dialects[name].at = types[i]; });
}

// answersOf makes the answers of one dialect.
function* answersOf(dialect) {
  const { at, content, fixed, apart = [], snake } = dialects[dialect];
  const schema = new Schema(snake);
  const [envelope] = schema.variants(at, "");
  fix(envelope, fixed);
  const type = schema.at(at, content);
  const list = checker.isArrayLikeType(type);
  const element = list ? checker.getTypeArguments(type)[0] : type;
  const kinds = element.isUnion() ? schema.members(element, "") : [element];
  const seen = new Map();
  for (const kind of kinds) {
    const values = schema.variants(kind, "");
    const separate = apart.filter((member) => values[0][member]).map((member) => ({ ...values[0], [member]: values[0][member] }));
    for (const value of values) for (const member of apart) delete value[member];
    for (const value of [...values, ...schema.bare(kind), ...separate]) {
      if (Object.keys(value).length === 0) continue;
      const name = label(value) + apart.filter((member) => value[member]).map((member) => `/${member}`).join("");
      const n = (seen.get(name) ?? 0) + 1;
      seen.set(name, n);
      yield { dialect, kind: n === 1 ? name : `${name}#${n}`, answer: schema.identified(put(envelope, content, list ? [value] : value)) };
    }
  }
}

export function* answers(wanted = []) {
  compile();
  const made = new Set();
  for (const dialect of Object.keys(dialects)) {
    if (wanted.length && !wanted.includes(dialect)) continue;
    for (const one of answersOf(dialect)) {
      const text = stringOf([dialect, one.answer]).replace(/_\d+"/g, "");
      if (!made.has(text)) yield one;
      made.add(text);
    }
  }
  for (const one of extensions) if (!wanted.length || wanted.includes(one.dialect)) yield one;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  for (const one of answers(process.argv.slice(2))) console.log(stringOf(one));
}
