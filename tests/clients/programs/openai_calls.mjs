// OpenAI's Node SDK: makes the calls that it is told, all at once, and prints what it saw of each.
import OpenAI from "openai";

const tool = { name: "get_weather", parameters: { type: "object", properties: { city: { type: "string" } } } };
const named = (calls) => calls.map(({ name, arguments: given }) => ({ name, arguments: given }));

const chat = async (client, told) => {
  const images = told.images.map((url) => ({ type: "image_url", image_url: { url } }));
  const messages = [{ role: "user", content: [{ type: "text", text: told.text }, ...images] }];
  const first = await chatTurn(client, told, messages);
  if (!first.message?.tool_calls?.length) return seenOfChat(first);
  const results = first.message.tool_calls.map(({ id }) => ({ role: "tool", tool_call_id: id, content: "sunny" }));
  const last = await chatTurn(client, told, [...messages, first.message, ...results]);
  return { ...seenOfChat(last), calls: named(first.message.tool_calls.map((call) => call.function)) };
};

const chatTurn = async (client, told, messages) => {
  const tools = [{ type: "function", function: tool }];
  const asked = { model: told.model, messages, tools, max_completion_tokens: 200 };
  if (!told.stream) return chosen(await client.chat.completions.create(asked));
  const stream = client.chat.completions.stream({ ...asked, stream_options: { include_usage: true } });
  for await (const chunk of stream) if (told.leaves && chunk.choices[0]?.delta.content) return { left: true };
  return chosen(await stream.finalChatCompletion());
};

const chosen = ({ choices: [{ message, finish_reason }], usage }) => ({ message, finish_reason, usage });

const seenOfChat = ({ left, message, finish_reason, usage }) =>
  left
    ? { left }
    : {
        text: message.content,
        thought: message.reasoning ?? null,
        calls: [],
        is_cut: finish_reason === "length",
        tokens: [usage.prompt_tokens, usage.completion_tokens],
      };

const responses = async (client, told) => {
  const images = told.images.map((image_url) => ({ type: "input_image", image_url, detail: "auto" }));
  const items = [{ role: "user", content: [{ type: "input_text", text: told.text }, ...images] }];
  const first = await responseTurn(client, told, items);
  const calls = first.output?.filter((item) => item.type === "function_call") ?? [];
  if (!calls.length) return seenOfResponse(first);
  const results = calls.map(({ call_id }) => ({ type: "function_call_output", call_id, output: "sunny" }));
  const asked = calls.map(({ call_id, name, arguments: given }) => ({ type: "function_call", call_id, name, arguments: given }));
  return { ...seenOfResponse(await responseTurn(client, told, [...items, ...asked, ...results])), calls: named(calls) };
};

const responseTurn = async (client, told, input) => {
  const asked = { model: told.model, input, tools: [{ type: "function", strict: false, ...tool }] };
  if (!told.stream) return client.responses.create(asked);
  const stream = client.responses.stream(asked);
  for await (const event of stream) {
    if (told.leaves && event.type === "response.output_text.delta") return { left: true };
    if (event.type === "response.failed") return { failed: { name: event.type, code: event.response.error.code } };
  }
  return stream.finalResponse();
};

const seenOfResponse = ({ left, failed, output, output_text, status, usage, store }) =>
  left
    ? { left }
    : (failed ?? {
        text: output_text,
        thought: output.flatMap((item) => (item.type === "reasoning" ? item.summary.map((part) => part.text) : [])).join(""),
        calls: [],
        is_cut: status === "incomplete",
        tokens: [usage.input_tokens, usage.output_tokens],
        store,
      });

const completions = async (client, told) => {
  const asked = { model: told.model, prompt: told.text, max_tokens: 200 };
  if (!told.stream) return seenOfCompletion([await client.completions.create(asked)]);
  const stream = await client.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
  const chunks = [];
  for await (const chunk of stream) {
    chunks.push(chunk);
    if (told.leaves) return { left: true };
  }
  return seenOfCompletion(chunks);
};

const seenOfCompletion = (chunks) => {
  const choices = chunks.flatMap((chunk) => chunk.choices);
  const { prompt_tokens, completion_tokens } = chunks.at(-1).usage;
  return {
    text: choices.map((choice) => choice.text).join(""),
    is_cut: choices.at(-1).finish_reason === "length",
    tokens: [prompt_tokens, completion_tokens],
  };
};

const embeddings = async (client, { model }) => {
  const { data, usage } = await client.embeddings.create({ model, input: ["Hello", "Goodbye"] });
  return { vectors: data.map((row) => row.embedding), tokens: [usage.prompt_tokens, 0] };
};

const models = async (client) => {
  const ids = [];
  for await (const { id } of client.models.list()) ids.push(id);
  return { models: ids };
};

const calls = { chat, completions, embeddings, models, responses };

const seen = async (told) => {
  const client = new OpenAI({ baseURL: told.url, apiKey: told.key, maxRetries: told.retries });
  try {
    return await calls[told.call](client, told);
  } catch (error) {
    if (!(error instanceof OpenAI.APIError)) throw error;
    return { name: error.constructor.name, status: error.status, code: error.code, id: error.requestID };
  }
};

console.log(JSON.stringify(await Promise.all(JSON.parse(process.argv[2]).map(seen))));
