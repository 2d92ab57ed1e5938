// What a desktop host makes of an installed bundle: the command, arguments and environment that it would start.
import { readFileSync } from "node:fs";
import { getMcpConfigForManifest } from "@anthropic-ai/mcpb";

const { extensionPath, userConfig } = JSON.parse(process.argv[2]);
const manifest = JSON.parse(readFileSync(`${extensionPath}/manifest.json`, "utf8"));
const config = await getMcpConfigForManifest({
  manifest,
  extensionPath,
  userConfig,
  systemDirs: {},
  pathSeparator: "/",
});
console.log(JSON.stringify(config));
