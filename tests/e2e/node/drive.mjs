// The official TypeScript clients put through one plan over any of their transports; prints one JSON report, judges nothing.
//
// node drive.mjs '{"client": "sdk"|"client", "transport": "streamable"|"sse"|"stdio", "target": URL or command, "env": {…},
//                  "era": "legacy"|"auto", "plan": {"structured": …, "progress": …, "error": …, "cancel": …} or {"cut": …} or {"ask": …}}'
// "sdk" is @modelcontextprotocol/sdk (1.x, legacy only), "client" is @modelcontextprotocol/client (2.x, both eras).
// The report, and the lines before it, are those of ../drivers/python/plan.py. On a failure: {"failed": text}, exit code 1.

import { once } from 'node:events';

const options = JSON.parse(process.argv[2]);
const LIMIT = 110_000; // ms for all of it
const PATIENCE = (options.patience ?? 5) * 1000; // ms for the answer of a call whose connection was cut
const LISTING = 45_000; // ms for the list after it
const say = (what) => console.log(JSON.stringify(what));

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
    const [command, ...args] = options.target;
    return new library.StdioClientTransport({ command, args, env: { ...process.env, ...options.env }, stderr: 'inherit' });
  }
  const url = new URL(options.target);
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

async function cut(library, client, step) {
  // Call, say so at the first progress, and see what becomes of it; then list, to see what the client is still good for.
  const report = { seen: [], text: null, problem: null, later: null };
  const onprogress = (p) => {
    report.seen.push([p.progress, p.total ?? null, p.message ?? null]);
    if (report.seen.length === 1) say({ at: 'cut' });
  };
  try {
    report.text = text(await inTime(library.call(client, step, { onprogress })));
  } catch (error) {
    report.problem = told(error);
  }
  try {
    report.later = (await inTime(list(client), LISTING)).length;
  } catch (error) {
    report.later = told(error);
  }
  return report;
}

function answer(client) {
  // What a tool asks is answered at once: yes, "ann", or a word of the model's.
  client.setRequestHandler('elicitation/create', async ({ params }) => {
    const { type } = params.requestedSchema.properties.value;
    return { action: 'accept', content: { value: type === 'boolean' ? true : 'ann' } };
  });
  client.setRequestHandler('sampling/createMessage', async () => ({
    role: 'assistant',
    content: { type: 'text', text: 'hurrah' },
    model: 'parrot',
  }));
}

const inTime = (promise, limit = PATIENCE) => {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error('no answer')), limit);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};

const told = (error) => (error?.message === 'no answer' ? 'no answer' : String(error));

async function drive() {
  const library = await load();
  const negotiation = options.client === 'client' ? { versionNegotiation: { mode: options.era } } : {};
  if (options.plan.ask) negotiation.capabilities = { elicitation: { form: {} }, sampling: {} };
  const client = new library.Client({ name: 'tailrace-e2e', version: '0' }, negotiation);
  if (options.plan.ask) answer(client);
  const problems = []; // what the client reports beside its promises: an unparsable event, an unknown token
  client.onerror = (error) => problems.push(String(error));
  const carrier = transport(library);
  await client.connect(carrier);
  const report = {
    protocol: client.getNegotiatedProtocolVersion?.() ?? carrier.protocolVersion ?? null,
    server: client.getServerVersion()?.name ?? null,
    tools: await list(client),
  };
  if (options.plan.cut) report.cut = await cut(library, client, options.plan.cut);
  else if (options.plan.ask) report.ask = text(await inTime(library.call(client, options.plan.ask)));
  else await steps(library, client, report);
  report.problems = [...problems];
  say({ at: 'leaving' });
  await Promise.race([once(process.stdin.resume(), 'data'), once(process.stdin, 'end')]);
  report.closing = null;
  await client.close().catch((error) => {
    report.closing = told(error);
  });
  return report;
}

async function steps(library, client, report) {
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
}

const watchdog = setTimeout(() => {
  say({ failed: `not done after ${LIMIT} ms` });
  process.exit(1);
}, LIMIT);

try {
  say(await drive());
  clearTimeout(watchdog);
  process.exit(0);
} catch (error) {
  say({ failed: error?.stack ?? String(error) });
  process.exit(1);
}
