// An MCP server with one tool, of the protocol's own SDK: streamable HTTP at /mcp,
// and the older HTTP with SSE at /sse. It listens where its argument says.
import { randomUUID } from 'node:crypto';
import express from 'express';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { SSEServerTransport } from '@modelcontextprotocol/sdk/server/sse.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';

const [host, port] = process.argv[2].split(':');
const sessions = new Map();

async function serve(transport) {
  const server = new McpServer({ name: 'greeter', version: '1.0.0' });
  server.registerTool('greet', { description: 'says hello' }, () => ({ content: [{ type: 'text', text: 'hello from a tool' }] }));
  await server.connect(transport);
}

const app = express();
app.all('/mcp', async (req, res) => {
  let transport = sessions.get(req.headers['mcp-session-id']);
  if (!transport) {
    transport = new StreamableHTTPServerTransport({ sessionIdGenerator: randomUUID, onsessioninitialized: (id) => sessions.set(id, transport) });
    await serve(transport);
  }
  await transport.handleRequest(req, res);
});
app.get('/sse', async (_, res) => {
  const transport = new SSEServerTransport('/messages', res);
  sessions.set(transport.sessionId, transport);
  await serve(transport);
});
app.post('/messages', (req, res) => sessions.get(req.query.sessionId).handlePostMessage(req, res));
app.listen(Number(port), host);
