// @connectrpc/connect-web in a page of another origin than the server's; writes a JSON report into the page.
//
// page.html?target=URL&token=TEXT&goes_on=CODE; the descriptors are beside it, in set.binpb. First one call without the token,
// which fails; if it does with that code, the others with it.

import { createConnectTransport, createGrpcWebTransport } from '@connectrpc/connect-web';
import { clientOf, commonCalls, problem } from './calls.mjs';

const query = new URLSearchParams(location.search);
const baseUrl = query.get('target');
const token = query.get('token');
const report = { origin: location.origin };

async function run() {
  const set = new Uint8Array(await (await fetch('set.binpb')).arrayBuffer());
  const transports = {
    connect: createConnectTransport({ baseUrl, useHttpGet: true }),
    'connect in binary': createConnectTransport({ baseUrl, useBinaryFormat: true }),
    'grpc-web': createGrpcWebTransport({ baseUrl }),
  };
  for (const [name, transport] of Object.entries(transports)) {
    const client = clientOf(set, transport);
    const first = await problem(() => client.fail({ value: 'rum' }, { timeoutMs: 30_000 }));
    report[name] = { first };
    if (first.code !== query.get('goes_on')) continue; // the others would fail alike
    Object.assign(report[name], await commonCalls(client, token ? { authorization: `Bearer ${token}` } : {}));
  }
}

await run().catch((error) => (report.failed = String(error?.stack ?? error)));
document.title = 'done';
document.getElementById('report').textContent = JSON.stringify(report, null, 1);
await fetch('done', { method: 'POST' });
