// What a page does, or a program, that is an MCP client: it calls a tool, and ends the session.
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

const transports = {
  http: (TILL, KEY) => new StreamableHTTPClientTransport(new URL("/mcp", TILL), { requestInit: { headers: { Authorization: "Bearer " + KEY } } }),
  root: (TILL, KEY) => new StreamableHTTPClientTransport(new URL(TILL), { requestInit: { headers: { Authorization: "Bearer " + KEY } } }),
  sse: (TILL, KEY) => new SSEClientTransport(new URL("/sse", TILL), { requestInit: { headers: { Authorization: "Bearer " + KEY } } }),
};

globalThis.run = async ({ TILL, KEY, TRANSPORT }) => {
  // The client opens its stream beside its first calls: the session ends only when it is open.
  const fetches = globalThis.fetch;
  const open = new Promise((resolve) => {
    globalThis.fetch = async (to, init) => {
      const answer = await fetches(to, init);
      if ((init?.method ?? 'GET') === 'GET') resolve();
      return answer;
    };
  });
  const client = new Client({ name: 'page', version: '1.0.0' });
  const transport = transports[TRANSPORT](TILL, KEY);
  await client.connect(transport);
  const { tools } = await client.listTools();
  const { content } = await client.callTool({ name: tools[0].name });
  await open;
  await transport.terminateSession?.();
  await client.close();
  return content[0].text;
};
