// What both Node and the page do with a transport: calls of tests/e2e/fixtures/echoes.py; reports, judges nothing.

import { create, createFileRegistry, fromBinary } from '@bufbuild/protobuf';
import { FileDescriptorSetSchema, StringValueSchema } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError, createClient } from '@connectrpc/connect';

const LIMIT = 30_000; // ms for one call

/** A client of the service, from its descriptors alone (a FileDescriptorSet, binary). */
export function clientOf(set, transport) {
  const service = createFileRegistry(fromBinary(FileDescriptorSetSchema, set)).getService('echoes.v1.Echoes');
  return createClient(service, transport);
}

/** What the call throws, in words; null if it throws nothing. */
export async function problem(call) {
  try {
    await call();
    return null;
  } catch (thrown) {
    const error = ConnectError.from(thrown);
    const details = error.findDetails(StringValueSchema).map((detail) => detail.value);
    return { code: Code[error.code], message: error.rawMessage, details, hint: error.metadata.get('x-hint') };
  }
}

/** Calls that every transport can do: one message, a stream of the server's, errors, the deadline, an end by the client. */
export async function commonCalls(client, more = {}) {
  const options = { timeoutMs: LIMIT, headers: more };
  const seen = {};
  const onHeader = (headers) => (seen.asked = headers.get('x-asked'));
  const onTrailer = (trailers) => (seen.raw = trailers.get('x-raw-bin'));
  const asking = { timeoutMs: LIMIT, headers: { ...more, 'x-ask': 'tea?' }, onHeader, onTrailer };
  const long = 'tea'.repeat(1000);
  seen.echo = (await client.echo({ value: long }, asking)).value === long;
  seen.counted = [];
  for await (const message of client.count({ value: 100 }, options)) seen.counted.push(message.value);
  seen.error = await problem(() => client.fail({ value: 'rum' }, options));
  seen.late = await problem(() => client.hang({ value: 'late' }, { ...options, timeoutMs: 200 }));
  seen.left = await leave(client, options);
  return seen;
}

/** Go away from a call that has begun; what the server's handlers saw in the end. */
async function leave(client, options) {
  const abort = new AbortController();
  const left = problem(() => client.hang({ value: 'left' }, { ...options, signal: abort.signal }));
  await looksFor(client, options, 'left begins');
  abort.abort();
  return { ...(await left), seen: await looksFor(client, options, 'left: ') };
}

async function looksFor(client, options, text) {
  const until = Date.now() + LIMIT;
  for (;;) {
    const said = (await client.look({}, options)).value;
    if (said.includes(text)) return said;
    if (Date.now() > until) throw new Error(`the server did not see ${JSON.stringify(text)}: ${said}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** What needs a stream of the client's: browsers have none. */
export async function streamingCalls(client, duplex) {
  const options = { timeoutMs: LIMIT };
  const texts = async function* (...items) {
    for (const value of items) yield create(StringValueSchema, { value });
  };
  const seen = { joined: (await client.join(texts('a', 'b'), options)).value, chat: [] };
  let answered = () => {};
  async function* asked() {
    for (const value of ['tea', 'milk']) {
      const answer = new Promise((resolve) => (answered = resolve));
      yield create(StringValueSchema, { value });
      await answer; // nothing more is sent before the answer is here
    }
  }
  for await (const message of client.chat(duplex ? asked() : texts('tea', 'milk'), options)) {
    seen.chat.push(message.value);
    answered();
  }
  return seen;
}
