// A server of revision 2026-07-28, of the project's own library: tools, resources and prompts under the names that the
// conformance suite asks for. What it does not have, the suite misses with and without the gateway.
import http from 'node:http';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const require = createRequire(`${process.env.MCP_MODULES}/`);
const load = async (name) => import(pathToFileURL(require.resolve(name)).href);
const { McpServer, ResourceTemplate, createMcpHandler } = await load('@modelcontextprotocol/server');
const { z } = await load('zod');

const IMAGE = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==';
const AUDIO = 'UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA=';
const text = (text) => ({ type: 'text', text });
const resource = { type: 'resource', resource: { uri: 'test://embedded', mimeType: 'text/plain', text: 'embedded' } };

function make() {
  const server = new McpServer({ name: 'modern', version: '1.0.0' });
  const tool = (name, description, content) => server.registerTool(name, { description }, async () => ({ content }));
  tool('test_simple_text', 'Text', [text('This is a simple text response for testing.')]);
  tool('test_image_content', 'An image', [{ type: 'image', data: IMAGE, mimeType: 'image/png' }]);
  tool('test_audio_content', 'A sound', [{ type: 'audio', data: AUDIO, mimeType: 'audio/wav' }]);
  tool('test_embedded_resource', 'A resource', [resource]);
  tool('test_multiple_content_types', 'Several', [text('Several:'), { type: 'image', data: IMAGE, mimeType: 'image/png' }, resource]);
  server.registerTool('test_error_handling', { description: 'Fails' }, async () => {
    throw new Error('This tool intentionally returns an error for testing');
  });
  server.registerResource('static-text', 'test://static-text', { mimeType: 'text/plain' },
    async (uri) => ({ contents: [{ uri: uri.href, mimeType: 'text/plain', text: 'static' }] }));
  server.registerResource('static-binary', 'test://static-binary', { mimeType: 'image/png' },
    async (uri) => ({ contents: [{ uri: uri.href, mimeType: 'image/png', blob: IMAGE }] }));
  server.registerResource('template', new ResourceTemplate('test://template/{id}/data', { list: undefined }),
    { mimeType: 'application/json' },
    async (uri, { id }) => ({ contents: [{ uri: uri.href, mimeType: 'application/json', text: JSON.stringify({ id }) }] }));
  const prompt = (name, content) => server.registerPrompt(name, { description: name },
    async () => ({ messages: [{ role: 'user', content }] }));
  prompt('test_simple_prompt', text('This is a simple prompt for testing.'));
  prompt('test_prompt_with_image', { type: 'image', data: IMAGE, mimeType: 'image/png' });
  server.registerPrompt('test_prompt_with_arguments',
    { description: 'Arguments', argsSchema: z.object({ arg1: z.string(), arg2: z.string() }) },
    async ({ arg1, arg2 }) => ({ messages: [{ role: 'user', content: text(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`) }] }));
  return server;
}

const handler = createMcpHandler(make);

http.createServer(async (incoming, outgoing) => {
  const host = incoming.headers.host ?? '';
  const origin = incoming.headers.origin;
  const own = (name) => /^(127\.0\.0\.1|localhost)(:\d+)?$/.test(name);
  // As the specification asks of servers on loopback (DNS rebinding).
  if (!own(host) || (origin && !own(new URL(origin).host))) {
    outgoing.writeHead(403).end();
    return;
  }
  const parts = [];
  for await (const part of incoming) parts.push(part);
  const body = Buffer.concat(parts);
  const request = new Request(`http://${host}${incoming.url}`, {
    method: incoming.method, headers: incoming.headers, body: body.length ? body : undefined,
  });
  const response = await handler.fetch(request);
  outgoing.writeHead(response.status, Object.fromEntries(response.headers));
  if (response.body) for await (const part of response.body) outgoing.write(part);
  outgoing.end();
}).listen(process.env.PORT, '127.0.0.1');
