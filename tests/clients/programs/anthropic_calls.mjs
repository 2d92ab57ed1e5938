// Anthropic's Node SDK: makes the calls that it is told, all at once, and prints what it saw of each.
import Anthropic from "@anthropic-ai/sdk";

const tool = {
  name: "get_weather",
  input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};

const messages = async (client, told) => {
  const turns = [{ role: "user", content: [{ type: "text", text: told.text }, ...told.images.map(imageAt)] }];
  const first = await turn(client, told, turns);
  if (first.stop_reason !== "tool_use") return seenOf(first);
  const uses = first.content.filter((block) => block.type === "tool_use");
  const results = uses.map(({ id }) => ({ type: "tool_result", tool_use_id: id, content: "sunny" }));
  turns.push({ role: "assistant", content: first.content }, { role: "user", content: results });
  const calls = uses.map(({ name, input }) => ({ name, arguments: JSON.stringify(input) }));
  return { ...seenOf(await turn(client, told, turns)), calls };
};

const imageAt = (url) => {
  const [, media_type, data] = url.match(/^data:(.*);base64,(.*)$/);
  return { type: "image", source: { type: "base64", media_type, data } };
};

const turn = async (client, told, turns) => {
  const asked = { model: told.model, max_tokens: 200, messages: turns, tools: [tool], system: "Be brief." };
  if (!told.stream) return client.messages.create(asked);
  const stream = client.messages.stream(asked);
  for await (const event of stream) if (told.leaves && event.delta?.type === "text_delta") return { left: true };
  return stream.finalMessage();
};

const seenOf = ({ left, content, stop_reason, usage }) =>
  left
    ? { left }
    : {
        text: content.map((block) => block.text ?? "").join(""),
        thought: content.map((block) => block.thinking ?? "").join(""),
        calls: [],
        is_cut: stop_reason === "max_tokens",
        tokens: [usage.input_tokens, usage.output_tokens],
      };

// as programs ask that want what is not settled: with a query and a header more
const beta = async (client, { model, text }) => {
  const messages = [{ role: "user", content: text }];
  const betas = ["context-management-2025-06-27"];
  return seenOf(await client.beta.messages.create({ model, max_tokens: 200, messages, betas }));
};

const count_tokens = async (client, { model, text }) => {
  const messages = [{ role: "user", content: text }];
  const { input_tokens } = await client.messages.countTokens({ model, messages, tools: [tool] });
  return { tokens: [input_tokens, 0] };
};

const models = async (client) => {
  const ids = [];
  for await (const { id } of client.models.list()) ids.push(id);
  return { models: ids };
};

const calls = { beta, count_tokens, messages, models };

const seen = async (told) => {
  const client = new Anthropic({ baseURL: told.url, apiKey: told.key, maxRetries: told.retries });
  try {
    return await calls[told.call](client, told);
  } catch (error) {
    if (!(error instanceof Anthropic.APIError)) throw error;
    return { name: error.constructor.name, status: error.status, code: error.error?.error?.type, id: error.requestID };
  }
};

console.log(JSON.stringify(await Promise.all(JSON.parse(process.argv[2]).map(seen))));
