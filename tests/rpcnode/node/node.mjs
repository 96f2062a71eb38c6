// @connectrpc/connect-node over one protocol and version of HTTP; prints a JSON report.
//
// node node.mjs '{"url": …, "set": FileDescriptorSet in base64, "protocol": "connect"|"grpc"|"grpc-web", "http": "1.1"|"2",
//                 "json": bool, "gzip": bool}'

import { compressionGzip, createConnectTransport, createGrpcTransport, createGrpcWebTransport } from '@connectrpc/connect-node';
import { clientOf, commonCalls, problem, streamingCalls } from './calls.mjs';

const { url, set, protocol, http, json, gzip } = JSON.parse(process.argv[2]);
const make = { connect: createConnectTransport, grpc: createGrpcTransport, 'grpc-web': createGrpcWebTransport }[protocol];
const options = { baseUrl: url, httpVersion: http, useBinaryFormat: !json, useHttpGet: json };
if (gzip) Object.assign(options, { sendCompression: compressionGzip, compressMinBytes: 0 });
const client = clientOf(Buffer.from(set, 'base64'), make(options));
const report = { ...(await commonCalls(client)), ...(await streamingCalls(client, http === '2')) };
report.refused = await problem(() => clientOf(Buffer.from(set, 'base64'), make({ ...options, baseUrl: `${url}/no` })).echo({}));
console.log(JSON.stringify(report));
process.exit(0); // sessions of HTTP/2 would stay open for a while
