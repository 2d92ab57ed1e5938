"""What to paste where: one exact block for each client, with the words of docs/clients.md and docs/agents.md.

A block is written for the gateway, the key and the model of these documents; `filled` puts others in their places.
"""

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import quote, urlencode

Format = Literal["json", "toml", "sh", "python", "js"]
Group = Literal["tools", "programs", "agents"]
_ADDRESS, _KEY, _MODEL = "http://127.0.0.1:8080", "gw_live_...", "your/model"


@dataclass(frozen=True, slots=True)
class ConnectBlock:
    """What a client is told, and in which file; `note` is what else there is to do."""

    id: str
    group: Group
    client: str
    file: str
    format: Format
    text: str
    note: str = ""
    link_to: Callable[[Any], str] | None = None
    """Of a client that takes its configuration by a link: the address for what the block says."""

    @property
    def link(self) -> str | None:
        """Without a key: the client asks for it, or has it in its environment."""
        return None if self.link_to is None else self.link_to(json.loads(self.text))

    def filled(self, base_url: str, key: str, model: str) -> "ConnectBlock":
        """For a gateway, a key and a model, none of which has quotes."""
        text = self.text.replace(_ADDRESS, base_url).replace(_KEY, key).replace(_MODEL, model)
        return replace(self, text=text)


def _in_cursor(told: Any) -> str:
    config = b64encode(json.dumps(told["mcpServers"]["gateway"]).encode()).decode()
    return "https://cursor.com/en/install-mcp?" + urlencode({"name": "gateway", "config": config})


def _in_vs_code(told: Any) -> str:
    config = {"name": "gateway", **told["servers"]["gateway"], "inputs": told["inputs"]}
    return "vscode:mcp/install?" + quote(json.dumps(config), safe="")


BLOCKS = (
    ConnectBlock("claude-desktop", "tools", "Claude Desktop", "claude_desktop_config.json", "json", """\
{
  "mcpServers": {
    "gateway": {
      "command": "/path/to/mcp-gateway",
      "args": ["bridge", "http://127.0.0.1:8080/v1/mcp"],
      "env": {"GATEWAY_API_KEY": "gw_live_..."}
    }
  }
}
""", "Settings → Developer → Edit Config. It starts programs alone: name the full path of the bridge's."),
    ConnectBlock("claude-code", "tools", "Claude Code", "a command", "sh", """\
claude mcp add --transport http gateway http://127.0.0.1:8080/v1/mcp --header "Authorization: Bearer gw_live_..."
""", "claude mcp list says Connected."),
    ConnectBlock("cursor", "tools", "Cursor", "~/.cursor/mcp.json", "json", """\
{
  "mcpServers": {
    "gateway": {
      "url": "http://127.0.0.1:8080/v1/mcp",
      "headers": {"Authorization": "Bearer ${env:GATEWAY_API_KEY}"}
    }
  }
}
""", "The key is in the environment that Cursor is started from, as GATEWAY_API_KEY.", _in_cursor),
    ConnectBlock("vs-code", "tools", "VS Code", ".vscode/mcp.json", "json", """\
{
  "inputs": [{"type": "promptString", "id": "gateway-key", "description": "Gateway API key", "password": true}],
  "servers": {
    "gateway": {
      "type": "http",
      "url": "http://127.0.0.1:8080/v1/mcp",
      "headers": {"Authorization": "Bearer ${input:gateway-key}"}
    }
  }
}
""", "It asks for the key once, and keeps it encrypted.", _in_vs_code),
    ConnectBlock("windsurf", "tools", "Windsurf", "~/.codeium/windsurf/mcp_config.json", "json", """\
{
  "mcpServers": {
    "gateway": {
      "serverUrl": "http://127.0.0.1:8080/v1/mcp",
      "headers": {"Authorization": "Bearer gw_live_..."}
    }
  }
}
""", "Refresh its list of MCP servers afterwards."),
    ConnectBlock("codex", "tools", "Codex", "~/.codex/config.toml", "toml", """\
[mcp_servers.gateway]
url = "http://127.0.0.1:8080/v1/mcp"
bearer_token_env_var = "GATEWAY_API_KEY"
tool_timeout_sec = 300
""", "The key is in the environment that Codex is started in, as GATEWAY_API_KEY."),
    ConnectBlock("gemini-cli", "tools", "Gemini CLI", "~/.gemini/settings.json", "json", """\
{
  "mcpServers": {
    "gateway": {
      "url": "http://127.0.0.1:8080/v1/mcp",
      "type": "http",
      "headers": {"Authorization": "Bearer gw_live_..."}
    }
  }
}
""", "Older releases have httpUrl in place of url and type."),
    ConnectBlock("opencode", "tools", "OpenCode", "opencode.json", "json", """\
{
  "$schema": "https://opencode.ai/config.json",
  "mcp": {
    "gateway": {
      "type": "remote",
      "url": "http://127.0.0.1:8080/v1/mcp",
      "oauth": false,
      "headers": {"Authorization": "Bearer {env:GATEWAY_API_KEY}"}
    }
  }
}
""", "The key is in the environment, as GATEWAY_API_KEY."),
    ConnectBlock("zed", "tools", "Zed", "settings.json", "json", """\
{
  "context_servers": {
    "gateway": {
      "url": "http://127.0.0.1:8080/v1/mcp",
      "headers": {"Authorization": "Bearer gw_live_..."}
    }
  }
}
""", "The command zed: open settings file opens it."),
    ConnectBlock("mcp-python", "tools", "MCP SDK, Python", "a program", "python", """\
import asyncio

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client


async def main():
    async with httpx2.AsyncClient(headers={"Authorization": "Bearer gw_live_..."}, timeout=300) as http:
        async with Client(streamable_http_client("http://127.0.0.1:8080/v1/mcp", http_client=http)) as client:
            arguments = {"model": "your/model", "messages": [{"role": "user", "content": "Hello"}]}
            print((await client.call_tool("chat_completion", arguments)).structured_content["content"])


asyncio.run(main())
"""),
    ConnectBlock("curl", "programs", "curl", "a command", "sh", """\
curl http://127.0.0.1:8080/v1/chat/completions \\
  -H 'Authorization: Bearer gw_live_...' -H 'Content-Type: application/json' \\
  -d '{"model": "your/model", "messages": [{"role": "user", "content": "Hello"}]}'
"""),
    ConnectBlock("openai-env", "programs", "Whatever reads OpenAI's variables", "the environment", "sh", """\
export OPENAI_BASE_URL=http://127.0.0.1:8080/v1
export OPENAI_API_KEY=gw_live_...
"""),
    ConnectBlock("openai-python", "programs", "OpenAI SDK, Python", "a program", "python", """\
from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="gw_live_...")
print(
    client.chat.completions.create(model="your/model", messages=[{"role": "user", "content": "Hello"}])
    .choices[0]
    .message.content
)
"""),
    ConnectBlock("openai-js", "programs", "OpenAI SDK, JavaScript", "a program", "js", """\
import OpenAI from "openai";

const client = new OpenAI({ baseURL: "http://127.0.0.1:8080/v1", apiKey: "gw_live_..." });
const messages = [{ role: "user", content: "Hello" }];
const answer = await client.chat.completions.create({ model: "your/model", messages });
console.log(answer.choices[0].message.content);
"""),
    ConnectBlock("anthropic-python", "programs", "Anthropic SDK, Python", "a program", "python", """\
from anthropic import Anthropic

client = Anthropic(base_url="http://127.0.0.1:8080", api_key="gw_live_...")
messages = [{"role": "user", "content": "Hello"}]
answer = client.messages.create(model="your/model", max_tokens=1024, messages=messages)
print(answer.content[0].text)
""", "Its base URL has no /v1."),
    ConnectBlock("langchain", "programs", "LangChain", "a program", "python", """\
from langchain_openai import ChatOpenAI

model = ChatOpenAI(model="your/model", base_url="http://127.0.0.1:8080/v1", api_key="gw_live_...")
print(model.invoke("Hello").content)
"""),
    ConnectBlock("pydantic-ai", "programs", "Pydantic AI", "a program", "python", """\
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

gateway = OpenAIProvider(base_url="http://127.0.0.1:8080/v1", api_key="gw_live_...")
print(Agent(OpenAIChatModel("your/model", provider=gateway)).run_sync("Hello").output)
"""),
    ConnectBlock("ai-sdk", "programs", "AI SDK", "a program", "js", """\
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText } from "ai";

const gateway = createOpenAICompatible({ name: "gateway", baseURL: "http://127.0.0.1:8080/v1", apiKey: "gw_live_..." });
const { text } = await generateText({ model: gateway("your/model"), prompt: "Hello" });
console.log(text);
"""),
    ConnectBlock("claude-code-model", "agents", "Claude Code", "the environment", "sh", """\
export ANTHROPIC_BASE_URL=http://127.0.0.1:8080
export ANTHROPIC_AUTH_TOKEN=gw_live_...
export ANTHROPIC_MODEL=your/model
export ANTHROPIC_DEFAULT_HAIKU_MODEL=your/model
""", "Its base URL has no /v1."),
    ConnectBlock("codex-model", "agents", "Codex", "~/.codex/config.toml", "toml", """\
model = "your/model"
model_provider = "gateway"

[model_providers.gateway]
name = "mcp-gateway"
base_url = "http://127.0.0.1:8080/v1"
env_key = "GATEWAY_API_KEY"
wire_api = "responses"
""", "The key is in the environment that Codex is started in, as GATEWAY_API_KEY."),
)  # fmt: skip
