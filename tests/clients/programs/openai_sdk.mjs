// The Node openai SDK: a chat, a stream, a tool call, responses, the models and refusals, printed as one object.
import OpenAI from "openai";

const { baseURL, apiKey, model } = JSON.parse(process.argv[2]);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Hello" }];

const refusal = async (call) => {
  try {
    await call();
  } catch (error) {
    return { name: error.constructor.name, status: error.status, code: error.code, requestID: error.requestID };
  }
};

const stream = await client.chat.completions.create({
  model,
  messages,
  stream: true,
  stream_options: { include_usage: true },
});
const chunks = [];
for await (const chunk of stream) chunks.push(chunk);

const weather = {
  type: "function",
  function: {
    name: "get_weather",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};
const answer = await client.responses.create({ model, input: "Hello" });
const events = [];
for await (const event of await client.responses.create({ model, input: "Hello", stream: true })) events.push(event);
const helped = await client.responses.stream({ model, input: "Hello" }).finalResponse();

const stranger = new OpenAI({ baseURL, apiKey: "gw_live_wrong", maxRetries: 0 });
const models = [];
for await (const listed of client.models.list()) models.push(listed.id);

console.log(
  JSON.stringify({
    models,
    chat: await client.chat.completions.create({ model, messages }),
    stream: {
      text: chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""),
      usage: chunks.at(-1).usage,
    },
    tools: await client.chat.completions.create({ model, messages, tools: [weather], tool_choice: "required" }),
    response: { text: answer.output_text, store: answer.store, usage: answer.usage },
    responseStream: { types: events.map((event) => event.type), text: helped.output_text, last: events.at(-1).response },
    state: await refusal(() => client.responses.create({ model, input: "Hello", previous_response_id: "resp_1" })),
    unknownModel: await refusal(() => client.chat.completions.create({ model: "no/such", messages })),
    wrongKey: await refusal(() => stranger.chat.completions.create({ model, messages })),
  }),
);
