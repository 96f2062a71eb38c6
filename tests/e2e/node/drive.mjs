// The official TypeScript clients put through one plan over any of their transports; prints one JSON report, judges nothing.
//
// node drive.mjs '{"client": "sdk"|"client", "transport": "streamable"|"sse"|"stdio", "url": …, "command": […], "env": {…},
//                  "era": "legacy"|"auto", "plan": {"structured": …, "progress": …, "error": …, "cancel": …}}'
// "sdk" is @modelcontextprotocol/sdk (1.x, legacy only), "client" is @modelcontextprotocol/client (2.x, both eras).
// The report has the same keys as that of ../python_client.py. On a failure: {"failed": text}, exit code 1.

const options = JSON.parse(process.argv[2]);
const LIMIT = 30_000; // ms for all of it

async function load() {
  if (options.client === 'sdk') {
    const [core, streamable, sse, stdio] = await Promise.all([
      import('@modelcontextprotocol/sdk/client/index.js'),
      import('@modelcontextprotocol/sdk/client/streamableHttp.js'),
      import('@modelcontextprotocol/sdk/client/sse.js'),
      import('@modelcontextprotocol/sdk/client/stdio.js'),
    ]);
    return { ...core, ...streamable, ...sse, ...stdio, call: (c, params, more) => c.callTool(params, undefined, more) };
  }
  const [core, stdio] = await Promise.all([
    import('@modelcontextprotocol/client'),
    import('@modelcontextprotocol/client/stdio'),
  ]);
  return { ...core, ...stdio, call: (c, params, more) => c.callTool(params, more) };
}

function transport(library) {
  if (options.transport === 'stdio') {
    const [command, ...args] = options.command;
    return new library.StdioClientTransport({ command, args, env: { ...process.env, ...options.env }, stderr: 'inherit' });
  }
  const url = new URL(options.url);
  return options.transport === 'sse' ? new library.SSEClientTransport(url) : new library.StreamableHTTPClientTransport(url);
}

const text = (result) => (result.content ?? []).map((part) => part.text ?? '').join('');

async function list(client) {
  const tools = [];
  let cursor;
  do {
    const page = await client.listTools(cursor === undefined ? {} : { cursor });
    tools.push(...page.tools.map((tool) => ({ name: tool.name, input: tool.inputSchema, output: tool.outputSchema ?? null })));
    cursor = page.nextCursor;
  } while (cursor !== undefined);
  return tools;
}

async function cancel(library, client, step) {
  // At the first progress the call runs for sure. True when no answer came.
  const abort = new AbortController();
  try {
    await library.call(client, step, { signal: abort.signal, onprogress: () => abort.abort('not needed any more') });
    return false;
  } catch (error) {
    if (!abort.signal.aborted) throw error;
    return true;
  }
}

async function drive() {
  const library = await load();
  const negotiation = options.client === 'client' ? { versionNegotiation: { mode: options.era } } : {};
  const client = new library.Client({ name: 'tailrace-e2e', version: '0' }, negotiation);
  const problems = []; // what the client reports beside its promises: an unparsable event, an unknown token
  client.onerror = (error) => problems.push(String(error));
  const carrier = transport(library);
  await client.connect(carrier);
  const report = {
    protocol: client.getNegotiatedProtocolVersion?.() ?? carrier.protocolVersion ?? null,
    server: client.getServerVersion()?.name ?? null,
    tools: await list(client),
  };
  const structured = await library.call(client, options.plan.structured);
  report.structured = { isError: structured.isError ?? false, content: structured.structuredContent, text: text(structured) };
  const seen = [];
  const onprogress = (p) => seen.push([p.progress, p.total ?? null, p.message ?? null]);
  const slow = await library.call(client, options.plan.progress, { onprogress });
  report.progress = { seen, isError: slow.isError ?? false };
  const failed = await library.call(client, options.plan.error);
  report.error = { isError: failed.isError ?? false, text: text(failed) };
  report.cancelled = await cancel(library, client, options.plan.cancel);
  report.after = await list(client);
  report.problems = [...problems];
  await client.close();
  return report;
}

const watchdog = setTimeout(() => {
  console.log(JSON.stringify({ failed: `not done after ${LIMIT} ms` }));
  process.exit(1);
}, LIMIT);

try {
  console.log(JSON.stringify(await drive()));
  clearTimeout(watchdog);
  process.exit(0);
} catch (error) {
  console.log(JSON.stringify({ failed: error?.stack ?? String(error) }));
  process.exit(1);
}
