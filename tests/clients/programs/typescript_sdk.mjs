// A client on the TypeScript SDK, 1.x or 2.x: opens a session as its argument tells, calls every tool, prints what it saw.
const { sdk, transport, era, url, headers, command, args, env, model, mints } = JSON.parse(process.argv[2]);

const modules =
  sdk === "1"
    ? ["index", "streamableHttp", "sse", "stdio"].map((name) => `@modelcontextprotocol/sdk/client/${name}.js`)
    : ["@modelcontextprotocol/client", "@modelcontextprotocol/client/stdio"];
const { Client, StreamableHTTPClientTransport, SSEClientTransport, StdioClientTransport } = Object.assign(
  {},
  ...(await Promise.all(modules.map((name) => import(name)))),
);

const open = {
  http: () => new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } }),
  sse: () => new SSEClientTransport(new URL(url), { requestInit: { headers } }),
  stdio: () => new StdioClientTransport({ command, args, env, stderr: "inherit" }),
};
const options = era === "modern" ? { versionNegotiation: { mode: { pin: "2026-07-28" } } } : {};
const client = new Client({ name: "typescript-sdk", version: sdk }, options);
await client.connect(open[transport]());

const progress = [];
const call = (name, args, options) =>
  sdk === "1"
    ? client.callTool({ name, arguments: args }, undefined, options)
    : client.callTool({ name, arguments: args }, options);
const messages = [{ role: "user", content: "Hello" }];

const seen = {
  tools: (await client.listTools()).tools.map((tool) => tool.name),
  models: await call("list_models", {}),
  chat: await call("chat_completion", { model, messages }, { onprogress: (told) => progress.push(told.message) }),
  balance: await call("get_balance", {}),
  refusal: await call("chat_completion", { model: "no/such", messages }),
  progress,
};
if (mints) {
  seen.budget = await call("create_budget", { amount_usd: "0.50", lifetime_s: 600 });
  seen.handed_down = await call("get_balance", {});
  seen.ended = await call("end_budget", { key_id: seen.budget.structuredContent.key_id });
}
await client.close();
console.log(JSON.stringify(seen));
