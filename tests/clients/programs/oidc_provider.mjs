// A certified OpenID provider on loopback, with the keys, clients and scopes that it is told; prints its address once it serves.
import { createServer } from "node:http";
import Provider from "oidc-provider";

const told = JSON.parse(process.argv[2]);
const server = createServer();
await new Promise((resolve) => server.listen(told.port, "127.0.0.1", resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;

// Anybody may sign in by any name: the development pages ask for one, and for the consent.
const findAccount = (_context, name) => ({
  accountId: name,
  claims: () => ({ sub: name, email: `${name}@example.org`, email_verified: true, ...told.claims }),
});

// Whoever names a resource gets a JWT for it (RFC 8707), which alone a gateway can verify by itself.
const getResourceServerInfo = (_context, resource) => ({
  audience: resource,
  scope: told.scopes.join(" "),
  accessTokenFormat: "jwt",
});

const provider = new Provider(issuer, {
  jwks: { keys: told.keys },
  clients: told.clients,
  scopes: ["openid", "email", "offline_access", ...told.scopes],
  claims: { openid: ["sub"], email: ["email", "email_verified"] },
  pkce: { required: () => true },
  cookies: { keys: ["of tests alone"] },
  extraTokenClaims: () => told.claims,
  findAccount,
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: true },
    registration: { enabled: true },
    resourceIndicators: { enabled: true, useGrantedResource: () => true, getResourceServerInfo },
  },
});
provider.on("server_error", (_context, error) => console.error(error));
server.on("request", provider.callback());
console.log(issuer);
